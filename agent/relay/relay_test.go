package relay_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelfleet/modelfleet/agent/relay"
	"github.com/modelfleet/modelfleet/pkg/gossip"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// report lets every device count ten requests and send its row, then a period pass.
func (w *world) report(periods int) {
	w.t.Helper()
	for range periods {
		for _, d := range w.ds {
			d.seq++
			d.requests += 10
			s := telemetry.Series{SeriesKey: telemetry.SeriesKey{Release: telemetry.Prefix{1}}}
			s.Requests = d.requests
			row := telemetry.Row{Key: d.id, Epoch: 1, Seq: d.seq, Time: time.Now().Unix(), Models: []telemetry.Model{{
				Model: telemetry.ModelPrefix("m"), Running: telemetry.Prefix{1}, Target: telemetry.Prefix{1}, Series: []telemetry.Series{s},
			}}}
			raw, err := row.Sign(fleetName, d.key)
			if err != nil {
				w.t.Fatal(err)
			}
			if err := d.relay.Send(raw); err != nil {
				w.t.Fatal(err)
			}
		}
		time.Sleep(period)
	}
}

// wantTotal waits until the coordinator has counted everything, which takes no
// longer than a member's patience with its relays and a failed call's backoff;
// at no time may it count more.
func (w *world) wantTotal(lost uint64) {
	w.t.Helper()
	want := w.truth() + lost
	for end := time.Now().Add(10 * period); ; time.Sleep(time.Second) {
		got := w.c.total()
		if got == want {
			break
		}
		if got > want || time.Now().After(end) {
			w.t.Errorf("the coordinator counts %d requests, want %d", got, want)
			return
		}
	}
}

// One member carries for all, and every member learns that its rows arrived.
func TestThePrimaryCarriesForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for range 6 {
			w.add(true, true)
		}
		time.Sleep(30 * time.Second)
		primary := w.role(gossip.Primary)
		w.report(5)
		w.wantTotal(0)
		for _, d := range w.ds {
			if n := w.c.from(d.name); (n > 0) != (d == primary) {
				t.Errorf("%s handed over %d batches; the primary is %s", d.name, n, primary.name)
			}
			if d.done() != 5 {
				t.Errorf("%s knows of row %d, want 5", d.name, d.done())
			}
		}
		w.end()
	})
}

// The primary dies; the standby steps in; nothing is lost or counted twice.
func TestAPrimaryDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for range 6 {
			w.add(true, true)
		}
		time.Sleep(30 * time.Second)
		w.report(3)
		dead := w.role(gossip.Primary)
		gone := dead.requests
		w.kill(dead)
		w.report(8)
		w.wantTotal(gone)
		w.end()
	})
}

// The primary lives but its uplink is cut: the standby hears no ack and carries
// for all until the primary acks again.
func TestAPrimaryIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for range 5 {
			w.add(true, true)
		}
		time.Sleep(30 * time.Second)
		w.report(2)
		primary, standby := w.role(gossip.Primary), w.role(gossip.Standby)
		primary.link.set(true)
		w.report(8)
		if w.c.from(standby.name) == 0 || standby.relay.Duty() != relay.All {
			t.Errorf("the standby rests: %d batches, duty %s", w.c.from(standby.name), standby.relay.Duty())
		}
		w.wantTotal(0)
		primary.link.set(false)
		w.report(10) // it tries again within a minute
		if standby.relay.Duty() != relay.Rest {
			t.Errorf("the standby still carries: %s", standby.relay.Duty())
		}
		w.wantTotal(0)
		w.end()
	})
}

// The cell falls apart and each side elects its own primary: both carry, and
// nothing is counted twice, apart or together again.
func TestTwoPrimariesAreHarmless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for range 6 {
			w.add(true, true)
		}
		time.Sleep(30 * time.Second)
		w.report(2)
		for i, d := range w.ds {
			if i%2 == 0 {
				w.net.Partition(1, w.transport(d))
			}
		}
		w.report(10)
		carriers := 0
		for _, d := range w.ds {
			if d.relay.Duty() == relay.All {
				carriers++
			}
		}
		if carriers < 2 {
			t.Errorf("%d members carry, want one on each side", carriers)
		}
		w.wantTotal(0)
		for _, d := range w.ds {
			w.net.Partition(0, w.transport(d))
		}
		w.report(6)
		w.wantTotal(0)
		w.end()
	})
}

// Nobody in the cell can reach the coordinator but one plain member that knows
// no relay; and a cell of one: each goes by itself.
func TestGoingDirect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		alone := w.add(true, false)
		w.report(3)
		w.wantTotal(0)
		if alone.relay.Duty() != relay.Own || alone.done() != 3 {
			t.Errorf("duty %s, delivered %d", alone.relay.Duty(), alone.done())
		}
		w.end()
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for range 4 {
			w.add(true, true)
		}
		time.Sleep(30 * time.Second)
		w.role(gossip.Primary).link.set(true)
		w.role(gossip.Standby).link.set(true)
		w.report(8)
		for _, d := range w.ds {
			if d.pool.Role() == gossip.NoRelay && d.done() < 7 {
				t.Errorf("%s waited for relays that carry nothing: row %d", d.name, d.done())
			}
		}
		w.end()
	})
}

// The coordinator in the cell takes rows straight from gossip, while a member
// that is cut off from the cell posts the same rows: each is counted once.
func TestTheCoordinatorInTheCell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for range 4 {
			w.add(true, true)
		}
		hub := w.hub()
		time.Sleep(30 * time.Second)
		w.report(4)
		w.wantTotal(0)
		for _, d := range w.ds {
			if d.done() != 4 || w.c.from(d.name) != 0 {
				t.Errorf("%s: row %d known, %d batches", d.name, d.done(), w.c.from(d.name))
			}
		}
		w.net.Partition(1, w.transport(w.ds[2]))
		w.report(6)
		w.wantTotal(0)
		if w.c.from(w.ds[2].name) == 0 {
			t.Error("the member that was cut off did not post")
		}
		w.net.Partition(0, w.transport(w.ds[2]))
		w.report(3)
		w.wantTotal(0)
		if err := hub.Close(); err != nil {
			t.Error(err)
		}
		w.end()
	})
}

// The coordinator is away for long: rows are kept, and all arrive when it returns.
func TestTheCoordinatorReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for range 4 {
			w.add(true, true)
		}
		time.Sleep(30 * time.Second)
		w.report(2)
		w.c.mu.Lock()
		w.c.down = true
		w.c.mu.Unlock()
		w.report(30)
		w.c.mu.Lock()
		w.c.down = false
		w.c.mu.Unlock()
		time.Sleep(2 * time.Minute)
		w.wantTotal(0)
		w.end()
	})
}

// A refused member's rows are not acked, and do not hold up the others'.
func TestARefusedMemberIsNotAcked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for range 4 {
			w.add(true, true)
		}
		time.Sleep(30 * time.Second)
		var outcast *device
		for _, d := range w.ds {
			if d.pool.Role() == gossip.NoRelay {
				outcast = d
			}
		}
		w.c.mu.Lock()
		w.c.refuse = string(outcast.name)
		w.c.mu.Unlock()
		w.report(3)
		time.Sleep(period)
		for _, d := range w.ds {
			if (d.done() == 3) == (d == outcast) {
				t.Errorf("%s: row %d known", d.name, d.done())
			}
		}
		w.end()
	})
}

// A device whose clock is wrong has its windows refused; that its rows arrived is
// true all the same, and it is told so.
func TestAWindowThatIsRefusedCostsNoRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.c.noWindows = true
		for range 3 {
			w.add(true, true)
		}
		time.Sleep(30 * time.Second)
		for n := range 3 {
			for _, d := range w.ds {
				sketch := &telemetry.Sketch{}
				sketch.Add(5)
				win := telemetry.Window{WindowKey: telemetry.WindowKey{
					Key: d.id, Epoch: 1, Index: uint64(n), Width: 60, SeriesKey: telemetry.SeriesKey{Release: telemetry.Prefix{1}}, Metric: telemetry.Latency,
				}, Sketch: sketch}
				raw, err := win.Sign(fleetName, d.key)
				if err != nil {
					t.Fatal(err)
				}
				if err := d.relay.Send(raw); err != nil {
					t.Fatal(err)
				}
			}
			w.report(1)
		}
		time.Sleep(period)
		for _, d := range w.ds {
			if d.done() != 3 {
				t.Errorf("%s knows of row %d, want 3", d.name, d.done())
			}
		}
		w.end()
	})
}
