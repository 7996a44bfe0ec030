package update_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// history is what ran on a device, as somebody who watches it would tell it: the
// way that led to what runs now, and what was taken back on the way.
type history struct {
	way   []fleet.Digest
	taken map[fleet.Digest]bool // the directive took the device back from it, and did not bring it again
}

// note takes down that something else runs now.
func (h *history) note(before, now update.State) {
	was, is := before.Running, now.Running
	if was.Bundle == is.Bundle {
		return
	}
	end := len(h.way)
	if i := slices.Index(h.way, is.Bundle); i >= 0 {
		end = i
	} else if is.IsZero() {
		end = 0
	}
	if !before.Leaving { // it was told to
		for _, d := range h.way[end:] {
			h.taken[d] = true
		}
		if was.Counter > is.Counter {
			h.taken[was.Bundle] = true
		}
		delete(h.taken, is.Bundle)
	}
	h.way = h.way[:end]
	if !is.IsZero() {
		h.way = append(h.way, is.Bundle)
	}
}

// Nothing that happens to a device has it fall back by itself to a release that a
// directive took it back from, unless the directive names that again.
func TestNeverFallsBackToWhatItWasTakenBackFrom(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d, h := newDevice(), history{taken: map[fleet.Digest]bool{}}
		d.restart(false)
		check := func(before update.State) {
			h.note(before, d.st)
			way := d.st.Fallback
			named := slices.Contains([]fleet.Digest{d.st.Want.Bundle, d.st.Stable.Bundle}, way.Bundle)
			if h.taken[way.Bundle] && !named && !d.st.Leaving && d.st.Phase != fleet.Activating {
				t.Fatalf("%s is the way back from %q; it was taken back from that", way.Ref, d.st.Running.Ref)
			}
			if d.st.Leaving && !before.Leaving && h.taken[way.Bundle] && !named {
				t.Fatalf("falls back to %s, which it was taken back from", way.Ref)
			}
		}
		for range rapid.IntRange(1, 80).Draw(t, "acts") {
			before := d.st
			if rapid.IntRange(0, 2).Draw(t, "goes well") == 0 {
				act(t, d)
				check(before)
				continue
			}
			// What was begun goes well, one answer or tick at a time.
			for i := 0; i < 20 && (len(d.flight) > 0 || !d.st.Next().IsZero()); i++ {
				before := d.st
				if len(d.flight) > 0 {
					e := d.flight[0]
					d.flight = d.flight[1:]
					d.step(d.carry(e))
				} else {
					d.tick(max(d.st.Next().Sub(d.now), 0))
				}
				check(before)
			}
		}
	})
}

// The everyday case: a release that did well is taken back by the operator, and
// then the one before it is delisted. Nothing is left to go back to.
func TestARollbackByHandForgetsWhatItTookBack(t *testing.T) {
	t.Parallel()
	d := newDevice()
	d.restart(false)
	told := func(n, stable int) {
		d.step(update.Event{Kind: update.Assigned, Offer: offer(n), Stable: offer(stable), Terms: update.Terms{Reason: "told"}})
		d.settle()
	}
	told(1, 0)
	told(2, 1)
	if d.st.Running.Ref != "m@2" || !d.st.Running.Good || d.st.Fallback.Ref != "m@1" {
		t.Fatalf("running %q, fallback %q", d.st.Running.Ref, d.st.Fallback.Ref)
	}
	told(1, 0)
	if d.st.Running.Ref != "m@1" || !d.st.Fallback.IsZero() || len(d.st.Quarantined) > 0 {
		t.Fatalf("running %q, fallback %q, refuses %v", d.st.Running.Ref, d.st.Fallback.Ref, d.st.Quarantined)
	}
	d.step(update.Event{Kind: update.Revoked, Bundle: offer(1).Bundle})
	d.settle()
	if !d.current.IsZero() || !d.st.Running.IsZero() {
		t.Fatalf("serves %s", d.current.Short())
	}
	told(2, 0) // on purpose
	if d.st.Running.Ref != "m@2" || d.st.Phase != fleet.Healthy {
		t.Fatalf("running %q, phase %s", d.st.Running.Ref, d.st.Phase)
	}
}
