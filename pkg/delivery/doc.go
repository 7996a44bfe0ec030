// Package delivery brings a release onto a member: from a signed manifest to a
// folder that holds exactly the files that were signed, verified and durable.
//
//	manifest ──▶ Plan ──▶ fetches ──▶ verify ──▶ staging ──▶ files ──▶ release folder
//	                ▲                   │ wrong bytes, dead source
//	                └───────────────────┘ next best source for those frames
//
// [Plan] is pure: wanted frames, what each source offers and what it costs, the
// member's own measured rates in; an ordered list of fetches out. [Fetcher]
// carries it out in bounded memory and may be stopped at any moment, by a
// cancelled context or a power cut: the next Install goes on from the frames
// that were verified before.
//
// No source is trusted, so every source is equal: S3, a presigned URL, a
// difference to a file that is here, a neighbour, a file that is here already.
// Neighbours are given single frames by [Fetcher.Open] and [Fetcher.Frame].
//
// Errors say who is to blame: Transient is the network (try later, never held
// against a release), Exhausted is this member's disk, Untrusted means that every
// source delivered other bytes than were signed.
package delivery
