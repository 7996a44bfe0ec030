package gossip

import (
	"bytes"

	"github.com/hashicorp/memberlist"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// inboxDepth is how many messages may wait for the worker.
const inboxDepth = 1024

// delegate is the pool as memberlist sees it. Its methods run on memberlist's
// goroutines, some with memberlist's lock held: they copy, note and return.
type delegate Pool

// NodeMeta is the member's signed metadata.
func (d *delegate) NodeMeta(limit int) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.meta) > limit {
		return nil // not reached: metadata has 77 bytes
	}
	return d.meta
}

// NotifyMsg queues a copy of what another member sent.
func (d *delegate) NotifyMsg(b []byte) {
	select {
	case d.inbox <- bytes.Clone(b):
	default:
		d.count.dropped.Add(1)
	}
}

// GetBroadcasts hands memberlist the announcements that still must spread.
func (d *delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.packets.GetBroadcasts(overhead, limit)
}

// LocalState says which packs the member holds.
func (d *delegate) LocalState(bool) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	var as []announce
	for _, h := range d.packs {
		as = append(as, h.announce)
	}
	return encodeState(string(d.opts.Member), as, d.checkpoint)
}

// MergeRemoteState learns which packs another member holds.
func (d *delegate) MergeRemoteState(b []byte, _ bool) {
	if len(b) > 0 && len(b) <= maxState {
		d.NotifyMsg(b)
	}
}

// NotifyAlive refuses members whose metadata is malformed or is provably not
// theirs. Where the key is not known yet the member is let in unproven: it is
// not elected until its certificate came.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	if d.opts.Barred(fleet.MemberID(n.Name)) {
		d.count.barred.Add(1)
		return errBarred
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	old, known := d.nodes[n.Name]
	if known && bytes.Equal(old.Meta, n.Meta) && old.Addr.Equal(n.Addr) && old.Port == n.Port {
		return nil
	}
	if !known && len(d.nodes) >= MaxCell {
		return errFull
	}
	m, err := parseMeta(n.Meta)
	if err != nil {
		d.count.malformed.Add(1)
		return err
	}
	peer := d.peers[m.key]
	if peer == nil || peer.identity.Key == nil {
		return nil
	}
	if err := (*Pool)(d).prove(n, peer.identity); err != nil {
		d.count.forged.Add(1)
		return err
	}
	return nil
}

// NotifyJoin notes a new member.
func (d *delegate) NotifyJoin(n *memberlist.Node) { d.note(n, true) }

// NotifyUpdate notes that a member's metadata changed.
func (d *delegate) NotifyUpdate(n *memberlist.Node) { d.note(n, true) }

// NotifyLeave notes that a member left or is taken for dead.
func (d *delegate) NotifyLeave(n *memberlist.Node) { d.note(n, false) }

func (d *delegate) note(n *memberlist.Node, alive bool) {
	c := *n
	c.Meta, c.Addr = bytes.Clone(n.Meta), bytes.Clone(n.Addr)
	d.mu.Lock()
	if alive {
		d.nodes[n.Name] = c
	} else {
		delete(d.nodes, n.Name)
	}
	d.mu.Unlock()
	(*Pool)(d).wake()
}

// wake makes the worker look at the members again.
func (p *Pool) wake() {
	select {
	case p.changed <- struct{}{}:
	default: // it will
	}
}
