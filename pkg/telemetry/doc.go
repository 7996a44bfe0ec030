// Package telemetry turns what an application observes into evidence that can
// travel by any way and is counted once.
//
//	observation ──▶ Recorder ──▶ Row, Window ──▶ Sign ──▶ (gossip, relay, HTTPS) ──▶ Verify ──▶ Table
//
// A [Row] is what a member says of itself: signed by the member's own key,
// small, and cumulative. Its key is (member key id, boot epoch) and a higher
// sequence wins, so that a row may be duplicated, reordered, replayed or
// brought by two relays and the totals of a [Table] stay exact; nothing ever
// adds two rows of one key. A [Window] is a latency or score [Sketch] of one
// closed span of time; it never changes once it was sent and is kept at most
// once. Both are signed over the exact bytes that travel (docs/formats/report.md)
// and are called messages when it does not matter which they are.
//
// Parsing is strict: what [ParseRow] or [ParseWindow] accepts encodes to the very
// bytes that were read, so there is one form of everything.
// Everything here except [Recorder] and [ResidentKiB] is pure; the Recorder is told
// the time and is safe for concurrent use.
package telemetry
