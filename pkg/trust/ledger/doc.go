// Package ledger is the form of a fleet's audit log: an RFC 6962 Merkle tree
// whose leaves are entries, whose head is a signed checkpoint, and whose content
// lies in tiles that anybody may carry. The formats are C2SP's (tlog-checkpoint,
// tlog-tiles), so other tools read it; docs/formats/audit.md has the bytes.
//
//	entry ──▶ leaf ──▶ tree ──▶ checkpoint, signed      who has one checkpoint can check
//	                    └─────▶ tiles                   every entry and every later checkpoint
//
// Coordinators append (package coordinator/audit), members check the proof in
// their trust pack (package trust), people check the whole log ([Verify]).
//
// Everything here is a function of bytes, but for [Verify], [Restore] and [Load],
// which read through a [Get].
package ledger
