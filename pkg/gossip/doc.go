// Package gossip is the pool of one cell: at most 64 members of one site that
// find each other by memberlist, elect two relays, address their rows to them,
// and spread new trust packs among themselves.
//
//	member ──row──▶ both relays ──▶ (agent/relay, or the coordinator itself)
//	member ◀─ack─── whichever relay brought it to the coordinator
//	member ◀─announce, pull, body──▶ member      (packs)
//
// memberlist gives membership, failure detection and encryption by the cell's
// key. Possession of that key means no more than taking part: everything that
// matters is signed above it. A member's metadata, rows and acks are signed by
// its own key; its certificate travels from peer to peer and is judged by
// [Options.Identify]; packs are judged by [Handlers.OnPack] and only a member
// that accepted one tells others of it. memberlist's opinion of who is alive is
// a hint: it elects relays, never judges health.
//
// Bytes that do not parse or verify are refused and counted ([Pool.Stats]).
// memberlist's packet goroutine is never blocked: messages are copied to a
// bounded queue and dropped, counted, when it is full. docs/formats/gossip.md
// has every byte.
package gossip
