// Package agent is the daemon on a device: it believes only what is signed,
// brings releases in, tries them, serves them to applications, watches them and
// says what it sees.
//
//	packs (coordinator, cell, file) ─▶ trust.Verify ─▶ Assign ─┐
//	applications (agent/local) ─▶ agent/host ──────────────────┤
//	answers of effects ────────────────────────────────────────┤
//	                                                           ▼
//	      one goroutine: update.Step ─▶ state on disk ─▶ effects (fetch, probe, switch)
//	                                                           │
//	      rows ◀─ telemetry.Recorder ◀─────────────────────────┘
//
// [Run] wires it up and returns only when its context ends or the device was
// never able to start. Once it serves, nothing that comes from outside ends it:
// a refused pack, a full disk, a coordinator that is away are counted, reported
// and tried again, and what is served stays.
//
//	STATE/lock            held by the one agent that runs
//	STATE/identity/       pkg/identity: key, certificate
//	STATE/state.json      what must not be forgotten: epoch, trust, each model's state
//	STATE/state.json.copy the same, should that be damaged
//	STATE/pack.zst        the newest trust pack that was believed
//	STATE/store/          pkg/cas: verified files and releases
//	STATE/models/MODEL/   agent/slot: current, previous
package agent
