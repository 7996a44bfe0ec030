package gossip_test

import (
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/gossip"
	"github.com/modelfleet/modelfleet/pkg/gossip/gossiptest"
)

var (
	firstKey = make([]byte, 32)
	nextKey  = slices.Repeat([]byte{7}, 32)
)

// taken is longer than it takes to find a member dead, or to join again: as
// members are probed in turn, more slowly by those who fail to reach some, and a
// suspect that few confirm has 48 s to answer, and who is not alone looks for
// others every three minutes.
const taken = 5 * time.Minute

// sees reports whether a member takes another for alive.
func (m *member) sees(name string) bool {
	return slices.ContainsFunc(m.pool.Members(), func(o gossip.Member) bool { return string(o.Name) == name })
}

// sendAll has every member send a row and waits until the primary has the totals.
func sendAll(t *testing.T, ms []*member, seq uint64) {
	t.Helper()
	for _, m := range ms {
		if _, err := m.pool.Send(m.row(seq, seq)); err != nil {
			t.Fatal(err)
		}
	}
	within(t, 2*time.Second, "all rows at the primary", func() bool {
		return byName(ms, ms[0].pool.Relays()[0]).total() == uint64(len(ms))*seq
	})
}

// A cell's key changes while rows flow, though members hear of it at their own
// pace: none loses the others, and at the end the old key is worth nothing.
func TestAKeyIsChangedAndNobodyIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := gossiptest.New(8)
		ms := cell(t, net, 5, nil)
		defer closeAll(ms)
		within(t, 20*time.Second, "the members agree", func() bool { return agreed(ms) })
		const grace = 30 * time.Second
		began := time.Now()
		for i, m := range ms { // one of them when others use the new key already
			left := func(at time.Duration) time.Duration { return max(0, at-time.Since(began)) }
			if err := m.pool.Rekey(gossip.Keys{New: nextKey, Old: [][]byte{firstKey}, UseIn: left(grace), DropIn: left(2 * grace)}); err != nil {
				t.Fatal(err)
			}
			sendAll(t, ms, uint64(i+1))
			if !agreed(ms) {
				t.Fatalf("the cell fell apart after %d members knew the key", i+1)
			}
			time.Sleep(grace / 5)
		}
		for seq := uint64(10); time.Since(began) < 3*grace; seq++ {
			sendAll(t, ms, seq)
			if !agreed(ms) {
				t.Fatalf("the cell fell apart after %v", time.Since(began))
			}
			time.Sleep(2 * time.Second)
		}
		for _, m := range ms {
			if n := m.pool.Keys(); n != 1 {
				t.Errorf("%s decrypts by %d keys, want one", m.name, n)
			}
		}
	})
}

// A second change during the first is one change to those who only hear of the
// second.
func TestAKeyIsChangedTwiceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := gossiptest.New(9)
		ms := cell(t, net, 4, nil)
		defer closeAll(ms)
		within(t, 20*time.Second, "the members agree", func() bool { return agreed(ms) })
		third := slices.Repeat([]byte{9}, 32)
		for i, m := range ms {
			if i%2 == 0 {
				if err := m.pool.Rekey(gossip.Keys{New: nextKey, Old: [][]byte{firstKey}, UseIn: 20 * time.Second, DropIn: 40 * time.Second}); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(10 * time.Second)
		for _, m := range ms {
			if err := m.pool.Rekey(gossip.Keys{New: third, Old: [][]byte{firstKey, nextKey}, UseIn: 20 * time.Second, DropIn: 40 * time.Second}); err != nil {
				t.Fatal(err)
			}
		}
		for seq := uint64(1); seq <= 30; seq++ {
			sendAll(t, ms, seq)
			if !agreed(ms) {
				t.Fatal("the cell fell apart")
			}
			time.Sleep(2 * time.Second)
		}
		if n := ms[1].pool.Keys(); n != 1 {
			t.Errorf("%d keys are left, want one", n)
		}
	})
}

// A member that was shut out is nobody's neighbour from the moment that others
// know, and can read nothing once the key was changed. One that was only away
// comes back with the new key.
func TestWhoIsShutOutHearsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := gossiptest.New(10)
		var barred atomic.Pointer[fleet.MemberID]
		ms := cell(t, net, 5, func(i int, o *gossip.Options) {
			if i == 3 {
				return // the thief believes nobody
			}
			o.Barred = func(id fleet.MemberID) bool { b := barred.Load(); return b != nil && *b == id }
			o.Identify = func(cert []byte) (gossip.Identity, error) {
				id, err := identify(cert)
				if b := barred.Load(); err == nil && b != nil && *b == id.Member {
					err = errRevoked
				}
				return id, err
			}
		})
		defer closeAll(ms)
		within(t, 20*time.Second, "the members agree", func() bool { return agreed(ms) })
		thief, away := ms[3], ms[4]
		rest := ms[:3]
		net.Partition(1, away.end)
		barred.Store(new(fleet.MemberID("d03")))
		for _, m := range rest {
			m.pool.Recheck()
		}
		within(t, 5*time.Second, "the thief is nobody's neighbour", func() bool {
			return !slices.ContainsFunc(rest, func(m *member) bool { return m.sees("d03") })
		})
		within(t, taken, "who is away is taken for dead", func() bool { return agreed(rest) })
		if _, err := thief.pool.Send(thief.row(1, 1000)); err != nil {
			t.Fatal(err)
		}
		for _, m := range rest {
			if err := m.pool.Rekey(gossip.Keys{New: nextKey, Old: [][]byte{firstKey}, UseIn: 5 * time.Second, DropIn: 10 * time.Second}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(30 * time.Second)
		sendAll(t, rest, 2)
		for _, m := range rest {
			if m.total() > 6 {
				t.Errorf("%s took the thief's row", m.name)
			}
		}
		if err := rest[1].pool.Announce(gossip.Pack{Group: "default", Version: 9, Body: []byte("pack 9")}); err != nil {
			t.Fatal(err)
		}
		within(t, 5*time.Second, "the others have the pack", func() bool { return rest[0].holds(9) && rest[2].holds(9) })
		net.Partition(0, away.end) // comes back, and knows only the old key
		within(t, taken, "the thief sees none of them", func() bool {
			return !slices.ContainsFunc(rest, func(m *member) bool { return thief.sees(m.name) })
		})
		time.Sleep(30 * time.Second)
		if thief.holds(9) || away.holds(9) {
			t.Errorf("the thief has the pack: %v, the one who was away: %v", thief.holds(9), away.holds(9))
		}
		if err := away.pool.Rekey(gossip.Keys{New: nextKey}); err != nil { // as the coordinator tells it
			t.Fatal(err)
		}
		within(t, taken, "the one who was away is back", func() bool { return away.holds(9) && agreed([]*member{ms[0], ms[1], ms[2], away}) })
	})
}
