package attack_test

import (
	"bytes"
	"crypto/rand"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// hall is a fleet with devices in one cell, the coordinator among them.
func hall(t *testing.T, names ...string) (*field, []*device) {
	t.Helper()
	f := newField(t, fieldOptions{cell: true})
	var all []*device
	for _, name := range names {
		all = append(all, f.cellmate(name))
	}
	return f, all
}

// cellmate is a device in the hall's cell.
func (f *field) cellmate(name string, more ...string) *device {
	f.t.Helper()
	addr, flags := f.inCell("hall")
	d := f.agent(memberID(name), append(flags, more...)...)
	d.gossip = addr
	return d
}

// Somebody who has the cell's key, and nobody's identity, tells lies about a
// member: rows by a key of its own, rows under the member's key that it did not
// sign, a member's row in which a bit was changed, frames of junk.
func TestNeighbourForgesRows(t *testing.T) {
	t.Parallel()
	f, all := hall(t, "cam-1", "cam-2")
	f.runs("detector@1.0.0", "one", all...)
	d := all[0]
	id, own := d.stolen()
	thief := ephemeral(t)
	s := d.speak("cam-9", thief, nil)
	epoch := uint64(time.Now().Unix()) + 1000
	forged := rowBy(t, id.Fleet, keyIDOf(t, own), thief, epoch)    // in cam-1's name
	strange := rowBy(t, id.Fleet, keyIDOf(t, thief), thief, epoch) // in its own
	before := f.member("cam-1")
	for range 5 {
		for _, to := range []string{"cam-2", "coordinator"} {
			s.say(memberID(to), forged)
			s.say(memberID(to), strange)
		}
	}
	junk := make([]byte, 1<<16)
	_, _ = rand.Read(junk)
	for _, n := range []int{1, 100, 1400, 1 << 16} {
		throw(t, d.gossip, junk[:n])
		s.say("cam-1", junk[:min(n, 1<<10)])
	}
	d.logs("cell carried what was refused")
	f.logs("cell carried what was refused")
	f.sees("cam-1", "as before", func(m api.MemberInfo) bool {
		return m.Seen.After(before.Seen) && m.Directive < 1<<30 && m.Facts.ID == "cam-1"
	})
	if _, err := f.client.Member(t.Context(), "cam-9"); err == nil {
		t.Error("somebody who never enrolled is a member")
	}
	for _, d := range all {
		d.stillServes("detector@1.0.0", "one")
	}
	f.runs("detector@2.0.0", "two", all...)
}

// A neighbour has packs to give: junk, an old one, another fleet's, a mutilated
// one; each with a number far above what is known.
func TestNeighbourAnnouncesWrongPacks(t *testing.T) {
	t.Parallel()
	f, all := hall(t, "cam-1", "cam-2")
	other := newField(t, fieldOptions{})
	d := all[0]
	f.runs("detector@1.0.0", "one", all...)
	old := f.pack()
	f.runs("detector@2.0.0", "two", all...)
	s := d.speak("cam-9", ephemeral(t), nil)
	for i, c := range []struct {
		rule trust.Rule
		pack []byte
	}{
		{trust.RuleFormat, []byte("junk")},
		{trust.RuleTimestamp, old},
		{trust.RuleSnapshot, mix(t, f.pack(), func(p *trust.Pack) { p.Snapshot = other.unpacked().Snapshot })},
		{trust.RuleTimestamp, other.pack()},
		{trust.RuleFormat, mix(t, f.pack(), func(p *trust.Pack) { p.Publishers = nil })},
		{trust.RuleSize, append(bytes.Clone(old[:4]), make([]byte, 1<<20-4)...)},
	} {
		d.mark = len(d.Said())
		s.announce("cam-1", 1<<60+uint64(i), c.pack)
		if c.rule == trust.RuleSize {
			continue // as large as a cell lets through; it is no zstd
		}
		d.refuses("cell", c.rule)
		d.stillServes("detector@2.0.0", "two")
	}
	if s.given() == 0 {
		t.Error("nobody asked for the packs")
	}
	f.runs("detector@3.0.0", "three", all...) // numbers that were lied about bar nothing
	f.untrusted(d, false)
}

// unpacked is the newest pack, taken apart.
func (f *field) unpacked() trust.Pack {
	f.t.Helper()
	p, err := trust.DecodePack(f.pack())
	sure(f.t, err)
	return p
}

// A device was stolen, with its key. Once it is revoked nobody speaks to it: not
// the coordinator, not its neighbours.
func TestStolenDeviceIsRevoked(t *testing.T) {
	t.Parallel()
	f, all := hall(t, "cam-1", "cam-2")
	f.runs("detector@1.0.0", "one", all...)
	f.run("members", "revoke", "cam-2", "--reason", "stolen", "--yes")
	f.sees("cam-2", "revoked", func(m api.MemberInfo) bool { return m.Revoked })
	all[1].logs("rows not handed over", "identity was revoked")
	seen := f.member("cam-2").Seen
	f.runs("detector@2.0.0", "two", all[0])
	if m := f.member("cam-2"); m.Seen.After(seen.Add(2 * time.Second)) {
		t.Errorf("its rows were taken: seen %s, revoked at %s", m.Seen, seen)
	}
	all[1].until("it serves what it had", func(l local.Listing) bool { return serving(l, model) != "" })
}
