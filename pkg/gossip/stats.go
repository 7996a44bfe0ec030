package gossip

import "sync/atomic"

// Stats counts what a pool did with what it received.
type Stats struct {
	Messages  uint64 // rows and windows handed on
	Acks      uint64 // acks taken
	Packs     uint64 // packs taken
	Dropped   uint64 // the queue was full
	Malformed uint64 // bytes that are no message
	Forged    uint64 // a signature, certificate or digest that did not verify
	Unknown   uint64 // from a key whose certificate could not be had
	Refused   uint64 // packs that OnPack refused
	Barred    uint64 // times that a member without identity wanted to be in the cell
}

type counters struct {
	messages, acks, packs, dropped, malformed, forged, unknown, refused, barred atomic.Uint64
}

// Stats is what was counted since the pool was opened.
func (p *Pool) Stats() Stats {
	c := &p.count
	return Stats{
		Messages: c.messages.Load(), Acks: c.acks.Load(), Packs: c.packs.Load(), Dropped: c.dropped.Load(),
		Malformed: c.malformed.Load(), Forged: c.forged.Load(), Unknown: c.unknown.Load(), Refused: c.refused.Load(), Barred: c.barred.Load(),
	}
}
