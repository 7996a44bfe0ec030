// Package update is the life of one model on one device: the state machine that
// takes an offered release from the directive to a switched, watched and healthy
// one, or back. It is pure: it performs no I/O, reads no clock, draws no random
// number and logs nothing. The agent's loop calls it, persists the state it
// returns and only then carries out the effects:
//
//	event ──▶ Step ──▶ state' ──▶ disk ──▶ effects ──▶ event
//
// Every effect is keyed and may be carried out twice: after a crash at any
// point the event [Restarted] repeats the effect that was in flight, and an
// answer to an effect that is no longer awaited changes nothing.
//
// What it promises, each as a law in the tests:
//
//   - only a release whose every byte was verified is switched to, and only
//     after its self-test passed here;
//   - while a release is not yet proven, the one before it stays on disk;
//   - a release that failed here, or that it had when the gates of a rollout
//     failed it, is quarantined by its root digest and never tried again until an
//     operator lifts it, here or by a later rollout that says so;
//   - a release that was revoked is left at once, for the one before or for nothing
//     (or, where the directive says so, when something else may run), and refused
//     until a directive that its publisher backs offers it again;
//   - nothing falls back to a release that a directive took the device back from,
//     unless the directive says so; it may be offered again like any other;
//   - trouble with the network or with the device itself never quarantines.
package update
