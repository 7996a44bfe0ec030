// Package rollout decides how a rollout proceeds. It is pure: it performs no
// I/O, reads no clock and keeps no state. The caller persists the returned
// Status and Actions in one transaction, then publishes the directive that
// [Exposure] makes of the Status.
//
//	view ──▶ Decide ──▶ status', actions ──▶ store ──▶ directive ──▶ members ──▶ view
//
// It does not assign members. It moves a bound over their positions, one per
// stage: raising it exposes more members, leaving it holds, dropping it takes
// the release back. Bounds are computed from the sorted positions of the
// members that match ([Roster]), so exactly the intended number lie below.
//
// Decide is level-triggered: it derives everything from what is known now, so
// a lost notification costs a tick and a repeated call changes nothing. Every
// Action carries a [Reason] with its numbers; it goes to the audit log, the
// command line and the dashboard unchanged.
//
// The states and the legal edges between them are tables in state.go; the
// picture in docs/states/rollout.md is generated from them.
package rollout
