package gossip_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/gossip"
	"github.com/modelfleet/modelfleet/pkg/gossip/gossiptest"
)

// within waits, in the bubble's time, until ok.
func within(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("after %v still not: %s", d, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// A cell finds itself and agrees on two relays; rows reach both; acks come back.
func TestRowsReachBothRelays(t *testing.T) {
	for _, n := range []int{3, 16} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := gossiptest.New(1)
				ms := cell(t, net, n, nil)
				defer closeAll(ms)
				within(t, 20*time.Second, "the members agree", func() bool { return agreed(ms) })
				relays := ms[0].pool.Relays()
				byName(ms, relays[0]).ackAll = true
				for _, m := range ms {
					raw := m.row(1, 10)
					if sent, err := m.pool.Send(raw); err != nil || sent != 2 {
						t.Fatalf("sent to %d relays: %v", sent, err)
					}
					within(t, 2*time.Second, "an ack", func() bool { return m.acked(raw) || m.name == string(relays[0]) })
				}
				for _, r := range relays {
					within(t, 2*time.Second, "all rows at "+string(r), func() bool { return byName(ms, r).total() == uint64(10*n) })
				}
			})
		})
	}
}

// The coordinator wins the election wherever it is, and takes rows straight
// from the cell; a member that merely says it is one does not.
func TestCoordinatorWinsTheElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := gossiptest.New(2)
		ms := cell(t, net, 6, func(i int, o *gossip.Options) {
			if i == 4 {
				o.Certificate = certOf(t, "d04", keyOf(t, "d04"), true)
			}
		})
		defer closeAll(ms)
		within(t, 20*time.Second, "the members agree", func() bool { return agreed(ms) })
		if got := ms[0].pool.Relays()[0]; got != "d04" {
			t.Errorf("the primary is %s", got)
		}
		if ms[4].pool.Role() != gossip.Primary {
			t.Error("the coordinator does not know")
		}
	})
}

// A pack reaches all of a cell within 1.5 s and nearly all of it within 0.8 s,
// with one packet in twenty lost.
func TestPackReachesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := gossiptest.New(3)
		n := 64
		if raceEnabled {
			n = 16
		}
		ms := cell(t, net, n, nil)
		defer closeAll(ms)
		within(t, 20*time.Second, "the members agree", func() bool { return agreed(ms) })
		net.Set(gossiptest.Conditions{Loss: .05, Duplicate: .05, Delay: time.Millisecond, Jitter: 20 * time.Millisecond})
		body := fmt.Appendf(make([]byte, 0, 8000), "pack 7 %6000d", 0)
		began := time.Now()
		if err := ms[3].pool.Announce(gossip.Pack{Group: "default", Version: 7, Body: body}); err != nil {
			t.Fatal(err)
		}
		within(t, 1500*time.Millisecond, "all have the pack", func() bool {
			return !slices.ContainsFunc(ms, func(m *member) bool { return m.name != "d03" && !m.holds(7) })
		})
		var took []time.Duration
		for _, m := range ms {
			if at, ok := m.at[7]; ok {
				took = append(took, at.Sub(began))
			}
		}
		slices.Sort(took)
		t.Logf("%d members: half after %v, 99%% after %v, all after %v", n, took[len(took)/2], took[len(took)*99/100-1], took[len(took)-1])

		late := open(t, net, "late", func(o *gossip.Options) { o.Seeds = []string{ms[0].pool.Addr()} })
		defer closeAll([]*member{late})
		within(t, 5*time.Second, "a newcomer has it", func() bool { return late.holds(7) })
	})
}

// A pack that does not verify is refused by each member that hears of it, goes
// no further, and a false version keeps no later pack away.
func TestHostilePackGoesNoFurther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := gossiptest.New(4)
		ms := cell(t, net, 8, nil)
		defer closeAll(ms)
		within(t, 20*time.Second, "the members agree", func() bool { return agreed(ms) })
		announce := func(from int, version uint64, body string) {
			t.Helper()
			if err := ms[from].pool.Announce(gossip.Pack{Group: "default", Version: version, Body: []byte(body)}); err != nil {
				t.Fatal(err)
			}
		}
		announce(0, 5, "garbage")
		time.Sleep(5 * time.Second)
		refused := uint64(0)
		for _, m := range ms[1:] {
			if len(m.packs) > 0 {
				t.Errorf("%s took garbage", m.name)
			}
			refused += m.pool.Stats().Refused
		}
		if refused == 0 {
			t.Error("nobody counted the refusal")
		}
		announce(1, 1<<62, "pack 6") // the genuine pack 6 under a false version
		time.Sleep(3 * time.Second)
		announce(2, 7, "pack 7")
		within(t, 5*time.Second, "the genuine pack 7 reaches those that did not lie", func() bool {
			return !slices.ContainsFunc(ms[3:], func(m *member) bool { return !m.holds(7) })
		})
	})
}

// Rows that are forged, malformed or of no member are refused and counted;
// the genuine ones beside them get through.
func TestHostileBytesAreRefusedAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := gossiptest.New(5)
		ms := cell(t, net, 4, func(_ int, o *gossip.Options) { o.Uplink = o.Member == "d00" })
		defer closeAll(ms)
		within(t, 20*time.Second, "a relay", func() bool { return len(ms[1].pool.Relays()) == 1 })
		relay := ms[0]
		genuine := ms[1].row(1, 1)
		if _, err := ms[1].pool.Send(genuine); err != nil {
			t.Fatal(err)
		}
		within(t, 5*time.Second, "the genuine row", func() bool { return relay.total() == 1 })
		before := relay.pool.Stats()

		forged := slices.Clone(ms[1].row(1<<40, 1<<40))
		forged[len(forged)-1] ^= 1
		stranger := &member{t: t, key: keyOf(t, "stranger")}
		for _, bad := range [][]byte{forged, stranger.row(1, 1), {1, 1, 2, 3}, {99}, {16, 1, 0}, make([]byte, 300)} {
			if _, err := ms[2].pool.Send(bad); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(3 * time.Second)
		after := relay.pool.Stats()
		if after.Forged != before.Forged+1 || after.Malformed != before.Malformed+4 || after.Unknown != before.Unknown+1 {
			t.Errorf("before %+v, after %+v", before, after)
		}
		if relay.total() != 1 {
			t.Errorf("total %d", relay.total())
		}
	})
}

// A relay that dies is replaced, and nothing is lost: rows are cumulative.
func TestARelayDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := gossiptest.New(6)
		ms := cell(t, net, 8, nil)
		within(t, 20*time.Second, "the members agree", func() bool { return agreed(ms) })
		dead := byName(ms, ms[0].pool.Relays()[0])
		rest := slices.DeleteFunc(slices.Clone(ms), func(m *member) bool { return m == dead })
		defer closeAll(rest)
		if err := dead.pool.Close(); err != nil {
			t.Error(err)
		}
		within(t, time.Minute, "the rest agree", func() bool { return agreed(rest) })
		for _, m := range rest {
			if _, err := m.pool.Send(m.row(2, 5)); err != nil {
				t.Fatal(err)
			}
		}
		for _, r := range rest[0].pool.Relays() {
			within(t, 2*time.Second, "all rows", func() bool { return byName(rest, r).total() == 5*7 })
		}
	})
}

// A member that leaves is gone at once, and one that was revoked is no relay
// any more once its certificate is judged again.
func TestLeaveAndRecheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := gossiptest.New(7)
		var mu sync.Mutex
		revoked := fleet.MemberID("")
		ms := cell(t, net, 5, func(_ int, o *gossip.Options) {
			o.Identify = func(cert []byte) (gossip.Identity, error) {
				id, err := identify(cert)
				mu.Lock()
				defer mu.Unlock()
				if id.Member == revoked {
					return gossip.Identity{}, errRevoked
				}
				return id, err
			}
		})
		within(t, 20*time.Second, "the members agree", func() bool { return agreed(ms) })
		primary := ms[0].pool.Relays()[0]
		mu.Lock()
		revoked = primary
		mu.Unlock()
		for _, m := range ms {
			m.pool.Recheck()
		}
		time.Sleep(3 * time.Second)
		for _, m := range ms {
			if m.name != string(primary) && slices.Contains(m.pool.Relays(), primary) {
				t.Errorf("%s still addresses the revoked relay", m.name)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := ms[4].pool.Leave(ctx); err != nil {
			t.Error(err)
		}
		within(t, 3*time.Second, "the others know", func() bool { return len(ms[1].pool.Members()) == 4 })
		closeAll(ms[:4])
	})
}

// A quiet cell costs each member no more than 120 bytes a second, and rows every
// ten seconds to two relays, with their acks, no more than 55 beside it.
func TestWhatACellCosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := gossiptest.New(9)
		n := 24
		if raceEnabled {
			n = 12
		}
		ms := cell(t, net, n, nil)
		defer closeAll(ms)
		within(t, time.Minute, "the members agree", func() bool { return agreed(ms) })
		time.Sleep(time.Minute)
		byName(ms, ms[0].pool.Relays()[0]).ackAll = true
		sent := func() int {
			sum := 0
			for _, m := range ms {
				sum += net.Bytes(m.end)
			}
			return sum
		}
		const span = 120
		before := sent()
		time.Sleep(span * time.Second)
		idle := (sent() - before) / n / span
		before = sent()
		for seq := range uint64(span / 10) {
			for _, m := range ms {
				if _, err := m.pool.Send(m.row(seq+1, 1)); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(10 * time.Second)
		}
		rows := (sent()-before)/n/span - idle
		t.Logf("%d members: idle %d B/s, rows and acks %d B/s a member", n, idle, rows)
		if idle > 120 || rows > 55 {
			t.Errorf("idle %d B/s, rows and acks %d B/s a member", idle, rows)
		}
	})
}

// A certificate of another member, or of another key, opens no pool.
func TestOpenRefusesAnotherMembersCertificate(t *testing.T) {
	t.Parallel()
	key := keyOf(t, "a")
	good := gossip.Options{
		Fleet: fleetName, Cell: "c", Member: "a", Signer: key, Certificate: certOf(t, "a", key, false), Identify: identify,
		Keys: [][]byte{make([]byte, 32)}, Bind: "127.0.0.1:0",
	}
	for what, edit := range map[string]func(*gossip.Options){
		"another name":     func(o *gossip.Options) { o.Member = "b" },
		"another key":      func(o *gossip.Options) { o.Signer = keyOf(t, "b") },
		"no key of cell":   func(o *gossip.Options) { o.Keys = nil },
		"a short key":      func(o *gossip.Options) { o.Keys = [][]byte{{1}} },
		"no address":       func(o *gossip.Options) { o.Bind = "nowhere" },
		"huge certificate": func(o *gossip.Options) { o.Certificate = make([]byte, 5000) },
	} {
		o := good
		edit(&o)
		if p, err := gossip.Open(o); err == nil {
			t.Errorf("%s: opened", what)
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// On real sockets, with port 0.
func TestOnLoopback(t *testing.T) {
	t.Parallel()
	ms := cell(t, nil, 3, func(_ int, o *gossip.Options) {
		o.Timing = gossip.Timing{Gossip: 20 * time.Millisecond, Probe: 200 * time.Millisecond, Tick: 50 * time.Millisecond}
	})
	defer closeAll(ms)
	wait := func(what string, ok func() bool) {
		t.Helper()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		end := time.After(2 * time.Minute)
		for !ok() {
			select {
			case <-tick.C:
			case <-end:
				t.Fatalf("still not: %s", what)
			}
		}
	}
	wait("the members agree", func() bool { return agreed(ms) })
	relays := ms[0].pool.Relays()
	for _, m := range ms {
		if sent, err := m.pool.Send(m.row(1, 3)); err != nil || sent != 2 {
			t.Fatalf("sent to %d: %v", sent, err)
		}
	}
	wait("all rows", func() bool { return byName(ms, relays[0]).total() == 9 && byName(ms, relays[1]).total() == 9 })
	if err := ms[1].pool.Announce(gossip.Pack{Group: "default", Version: 1, Body: []byte("pack 1")}); err != nil {
		t.Fatal(err)
	}
	wait("the pack", func() bool { return ms[0].holds(1) && ms[2].holds(1) })
}
