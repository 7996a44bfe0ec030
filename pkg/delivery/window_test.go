package delivery_test

import (
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// A release is fetched in its windows only: it waits for the first, says so,
// goes on in the next where the first ended, and loses nothing.
func TestFetchingKeepsToItsWindows(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		m := big()
		want := w.publish(m, oms.Shards)
		now := time.Now()
		at := func(d time.Duration) fleet.ClockTime {
			c := now.Add(d)
			return fleet.ClockTime(c.Hour()*60 + c.Minute())
		}
		window := fleet.Window{From: at(2 * time.Hour), To: at(3 * time.Hour)}
		options := func(o *delivery.Options) {
			o.Windows = []fleet.Window{window}
			o.Rate = want.Size / int64((90 * time.Minute).Seconds()) // takes two windows
		}
		waited := 0
		var last string
		res, err := w.fetcher(options).Install(t.Context(), want, func(p delivery.Progress) {
			if p.Waits != "" && p.Waits != last {
				waited++
			}
			if last = p.Waits; p.Waits == "" && p.From[delivery.Raw] > 0 && !fleet.InWindow([]fleet.Window{window}, time.Now().Add(-time.Minute)) && !fleet.InWindow([]fleet.Window{window}, time.Now()) {
				t.Errorf("fetched at %s, outside of %s", time.Now().Format("15:04"), window)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		w.holds(res.Dir, m)
		if waited != 2 {
			t.Errorf("waited %d times, want twice", waited)
		}
		if took := time.Since(now); took < 26*time.Hour || took > 27*time.Hour {
			t.Errorf("it took %v", took)
		}
		if extra := res.Progress.Wire - want.Size; extra > want.Size/10 {
			t.Errorf("%d bytes were fetched twice", extra)
		}
	})
}

// What is urgent, and what is here already, waits for no window.
func TestWhatIsUrgentWaitsForNoWindow(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		m := big()
		want := w.publish(m, oms.Shards)
		now := time.Now()
		c := fleet.ClockTime(now.Add(12*time.Hour).Hour() * 60)
		f := w.fetcher(func(o *delivery.Options) { o.Windows = []fleet.Window{{From: c, To: c + 1}} })
		urgent := want
		urgent.Urgent = true
		if _, err := f.Install(t.Context(), urgent, nil); err != nil {
			t.Fatal(err)
		}
		res, err := f.Install(t.Context(), want, nil)
		if err != nil {
			t.Fatal(err)
		}
		w.holds(res.Dir, m)
		if took := time.Since(now); took > time.Minute {
			t.Errorf("it took %v", took)
		}
	})
}

// Where bytes cost money the fewest are taken, however fast the link is.
func TestAMeteredMemberTakesTheFewestBytes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := model{"model.bin": tensors(300*shard, 3)}
	want := w.publish(m, oms.Shards)
	res, err := w.fetcher(func(o *delivery.Options) { o.Metered = true }).Install(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.holds(res.Dir, m)
	if res.Progress.From[delivery.Full] != want.Size {
		t.Errorf("came from %v", res.Progress.From)
	}
}
