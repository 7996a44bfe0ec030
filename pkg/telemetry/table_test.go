package telemetry_test

import (
	"bytes"
	"crypto/ecdsa"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// unsigned gives a message that parses but is signed by nobody: the laws of a
// table do not ask who signed.
func unsigned(t interface{ Fatal(...any) }, encode func() ([]byte, error)) telemetry.Message {
	msg, err := encode()
	if err != nil {
		t.Fatal(err)
	}
	m, err := telemetry.ParseMessage(msg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// conflicting draws rows and windows that compete for few slots, with values
// that no honest member would send side by side.
func conflicting(t *rapid.T, key *ecdsa.PrivateKey, id telemetry.KeyID) []telemetry.Message {
	n := rapid.IntRange(1, 14).Draw(t, "messages")
	var out []telemetry.Message
	small := func(name string, most uint64) uint64 { return rapid.Uint64Range(1, most).Draw(t, name) }
	for range n {
		k := id
		k[0] = byte(small("key", 2))
		if rapid.Bool().Draw(t, "window") {
			w := telemetry.Window{WindowKey: telemetry.WindowKey{Key: k, Epoch: 1, Index: small("index", 2), Width: 60, Metric: telemetry.Latency}, Sketch: &telemetry.Sketch{}}
			w.Sketch.Add(small("value", 3))
			out = append(out, unsigned(t, func() ([]byte, error) { return w.Sign(fleetName, key) }))
			continue
		}
		row := telemetry.Row{Key: k, Epoch: small("epoch", 2), Seq: small("seq", 4), Models: []telemetry.Model{{Model: telemetry.Prefix{1}}}}
		for i := range small("series", 3) {
			s := telemetry.Series{SeriesKey: telemetry.SeriesKey{Release: telemetry.Prefix{byte(i*2 + small("release", 2))}}}
			s.Requests = small("requests", 3)
			row.Models[0].Series = append(row.Models[0].Series, s)
		}
		out = append(out, unsigned(t, func() ([]byte, error) { return row.Sign(fleetName, key) }))
	}
	return out
}

// state is everything a table answers, in a form that can be compared.
func state(tb *telemetry.Table) string {
	var b bytes.Buffer
	for key := range byte(3) {
		for epoch := range uint64(3) {
			fmt.Fprintln(&b, tb.Series(keyID(key), epoch, telemetry.Prefix{1}))
		}
		m, ok := tb.Newest(keyID(key))
		fmt.Fprintf(&b, "%v %x\n", ok, m.Raw)
	}
	for i := range byte(9) {
		fmt.Fprintln(&b, tb.Total(telemetry.Prefix{1}, telemetry.SeriesKey{Release: telemetry.Prefix{i}}))
	}
	sk := tb.Sketch(func(telemetry.WindowKey) bool { return true })
	fmt.Fprintf(&b, "%x %d\n", sk.Append(nil), tb.Len())
	return b.String()
}

func keyID(first byte) telemetry.KeyID {
	return telemetry.KeyID{first, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70}
}

func tableOf(ms ...telemetry.Message) *telemetry.Table {
	tb := telemetry.NewTable()
	for _, m := range ms {
		tb.Insert(m)
	}
	return tb
}

// MergeIsCommutative, MergeIsAssociative, MergeIsIdempotent: whatever the order,
// the grouping and the repetition, a table ends in the same state.
func TestMergeIsLawful(t *testing.T) {
	t.Parallel()
	key := keyOf(t, 1)
	rapid.Check(t, func(rt *rapid.T) {
		a, b, c := conflicting(rt, key, keyID(0)), conflicting(rt, key, keyID(0)), conflicting(rt, key, keyID(0))
		all := slices.Concat(a, b, c)
		want := state(tableOf(all...))

		shuffled := rapid.Permutation(all).Draw(rt, "order")
		if got := state(tableOf(shuffled...)); got != want {
			rt.Fatalf("MergeIsCommutative:\n%s\nwant\n%s", got, want)
		}
		left, right := tableOf(a...), tableOf(b...)
		left.Merge(right)
		left.Merge(tableOf(c...))
		bc := tableOf(b...)
		bc.Merge(tableOf(c...))
		other := tableOf(a...)
		other.Merge(bc)
		if l, r := state(left), state(other); l != r || l != want {
			rt.Fatalf("MergeIsAssociative:\n%s\n%s\nwant\n%s", l, r, want)
		}
		again := tableOf(slices.Concat(all, all)...)
		again.Merge(again)
		if got := state(again); got != want {
			rt.Fatalf("MergeIsIdempotent:\n%s\nwant\n%s", got, want)
		}
		for _, m := range all {
			if again.Insert(m) {
				rt.Fatal("what a table knows was news to it")
			}
		}
	})
}

// NoCountIsLostOrDoubled: over many random schedules of members that count,
// switch releases and restart, and of a network that loses, doubles and
// reorders their rows on the way over two relays that come and go, the
// coordinator's totals are the truth once each epoch's last row arrived.
func TestNoCountIsLostOrDoubled(t *testing.T) {
	t.Parallel()
	schedules := 100_000
	if testing.Short() || raceEnabled {
		schedules = 3_000
	}
	for seed := range uint64(schedules) {
		if got, want := runSchedule(t, seed); got != want {
			t.Fatalf("seed %d: total %+v, want %+v", seed, got, want)
		}
	}
}

// runSchedule is one random day of three members. Rows are not signed: the law
// is about counting.
func runSchedule(t *testing.T, seed uint64) (got, want [2]telemetry.Counters) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	model := telemetry.Prefix{1}
	release := [2]telemetry.SeriesKey{{Release: telemetry.Prefix{1}}, {Release: telemetry.Prefix{2}, Arm: fleet.Exposed}}
	coordinator, relays := telemetry.NewTable(), [2]*telemetry.Table{telemetry.NewTable(), telemetry.NewTable()}
	var flying []telemetry.Message
	type member struct {
		row telemetry.Row
		cur int
	}
	members := make([]member, 3)
	send := func(m *member, surely bool) {
		m.row.Seq++
		row := m.row
		row.Models = []telemetry.Model{{Model: model, Series: slices.Clone(m.row.Models[0].Series)}}
		msg := telemetry.Message{Row: &row, Raw: fmt.Appendf(nil, "%x %d %d", row.Key, row.Epoch, row.Seq)}
		for range rnd.IntN(4) {
			flying = append(flying, msg)
		}
		if surely {
			coordinator.Insert(msg)
		}
	}
	boot := func(m *member) {
		m.row.Epoch++
		m.row.Seq = 0
		m.row.Models = []telemetry.Model{{Model: model, Series: []telemetry.Series{{SeriesKey: release[m.cur]}}}}
	}
	for i := range members {
		members[i].row.Key[0] = byte(i + 1)
		boot(&members[i])
	}
	for range 30 + rnd.IntN(30) {
		m := &members[rnd.IntN(len(members))]
		switch rnd.IntN(8) {
		case 0: // the member switches to the other release, or back
			m.cur = 1 - m.cur
			ss := &m.row.Models[0].Series
			if i := slices.IndexFunc(*ss, func(s telemetry.Series) bool { return s.SeriesKey == release[m.cur] }); i >= 0 {
				back := (*ss)[i]
				*ss = append(slices.Delete(*ss, i, i+1), back)
			} else {
				*ss = append(*ss, telemetry.Series{SeriesKey: release[m.cur]})
			}
		case 1: // it restarts; its last row of the epoch arrives some day
			send(m, true)
			boot(m)
		case 2: // a relay fails over: what it had is gone, or goes up late
			i := rnd.IntN(2)
			if rnd.IntN(2) == 0 {
				coordinator.Merge(relays[i])
			}
			relays[i] = telemetry.NewTable()
		case 3: // both relays take themselves for the primary
			coordinator.Merge(relays[0])
			coordinator.Merge(relays[1])
		default:
			s := &m.row.Models[0].Series[len(m.row.Models[0].Series)-1]
			n := uint64(rnd.IntN(5))
			s.Requests += n
			want[m.cur].Requests += n
			send(m, false)
		}
		for len(flying) > 0 && rnd.IntN(3) > 0 { // in any order, lost, or taken by either relay or none
			i := rnd.IntN(len(flying))
			switch msg := flying[i]; rnd.IntN(4) {
			case 0:
				relays[0].Insert(msg)
			case 1:
				relays[1].Insert(msg)
			case 2:
				coordinator.Insert(msg)
			}
			if rnd.IntN(3) > 0 {
				flying = slices.Delete(flying, i, i+1)
			}
		}
	}
	for i := range members {
		send(&members[i], true)
	}
	coordinator.Merge(relays[0])
	for i := range release {
		got[i] = coordinator.Total(model, release[i])
	}
	return got, want
}

// A member that makes up a new series with every row is held to a bound, and the
// newest of what it dropped is what is kept.
func TestDroppedSeriesAreBounded(t *testing.T) {
	t.Parallel()
	key := keyOf(t, 1)
	id := idOf(t, key)
	tab := telemetry.NewTable()
	model := telemetry.ModelPrefix("m")
	const rows = 3 * telemetry.MaxDropped
	var first telemetry.Message
	for seq := uint64(1); seq <= rows; seq++ {
		release := telemetry.Prefix{byte(seq), byte(seq >> 8), 1}
		s := telemetry.Series{SeriesKey: telemetry.SeriesKey{Release: release}}
		s.Requests = 1
		m := unsigned(t, func() ([]byte, error) {
			return telemetry.Row{Key: id, Epoch: 1, Seq: seq, Time: 1, Models: []telemetry.Model{{
				Model: model, Running: release, Target: release, Series: []telemetry.Series{s},
			}}}.Sign("plant", key)
		})
		if seq == 1 {
			first = m
		}
		tab.Insert(m)
	}
	got := tab.Series(id, 1, model)
	if len(got) != telemetry.MaxDropped+1 || len(tab.Messages()) != telemetry.MaxDropped+1 {
		t.Fatalf("%d series of %d messages", len(got), len(tab.Messages()))
	}
	if tab.Insert(first) || len(tab.Messages()) != telemetry.MaxDropped+1 {
		t.Error("the row heard of longest ago came back")
	}
}
