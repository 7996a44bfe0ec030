package telemetry_test

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// What a member counted after an earlier row, added to that row, is the later row.
func TestWhatCameSinceAddsUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := func(name string) uint64 { return rapid.Uint64Range(0, 1<<40).Draw(t, name) }
		before := telemetry.Delivery{Fetched: someFetched(t), Wire: n("wire"), Liars: n("liars"), Damaged: n("damaged")}
		more := telemetry.Delivery{Fetched: someFetched(t), Wire: n("more wire"), Liars: n("more liars"), Damaged: n("more damaged")}
		after := before
		after.Add(more)
		if got := after.Since(before); got != more {
			t.Fatalf("since: %+v, want %+v", got, more)
		}
		if got := before.Since(after); got != (telemetry.Delivery{}) {
			t.Fatalf("a count that went back counts %+v", got)
		}
		after.Liar = telemetry.MemberPrefix("dev-01")
		if got := after.Since(before).Liar; (got == after.Liar) != (more.Liars > 0) {
			t.Fatalf("%d liars since, the last of them %v", more.Liars, got)
		}
		if f := more.Fetched; f.Done() != f.Arrived()+f.Copy {
			t.Fatalf("%+v: done %d, arrived %d", f, f.Done(), f.Arrived())
		}
	})
}

func TestPace(t *testing.T) {
	t.Parallel()
	const second = time.Second
	type seen struct {
		at   time.Duration
		done uint64
	}
	for _, tc := range []struct {
		name   string
		seen   []seen
		rate   float64 // negative: not known
		remain uint64
		left   time.Duration // negative: not known
	}{
		{"never seen", nil, -1, 100, -1},
		{"seen once", []seen{{0, 50}}, -1, 100, -1},
		{"for less than a second", []seen{{0, 0}, {900 * time.Millisecond, 50}}, -1, 100, -1},
		{"steady", []seen{{0, 0}, {10 * second, 1000}, {20 * second, 2000}}, 100, 950, 10 * second},
		{"nothing is left", []seen{{0, 0}, {10 * second, 1000}}, 100, 0, 0},
		{"it stands still", []seen{{0, 500}, {10 * second, 500}}, 0, 100, -1},
		{"began anew", []seen{{0, 0}, {10 * second, 1000}, {20 * second, 10}}, -1, 100, -1},
		{"the clock went back", []seen{{0, 0}, {10 * second, 1000}, {5 * second, 1100}}, -1, 100, -1},
		{"the clock stood still", []seen{{0, 0}, {0, 1000}}, -1, 100, -1},
		{"what is long ago does not count", []seen{{0, 0}, {100 * second, 100_000}, {200 * second, 100_100}}, 1, 10, 10 * second},
		{"it stalls for long", []seen{{0, 0}, {10 * second, 1000}, {40 * second, 1000}, {100 * second, 1000}, {130 * second, 1000}}, 0, 10, -1},
		{"it stood still a moment ago", []seen{{0, 0}, {5 * second, 1000}, {10 * second, 2000}, {19 * second, 2000}}, 2000. / 19, 10, second},
		{"it stands still by now", []seen{{0, 0}, {5 * second, 1000}, {10 * second, 2000}, {20 * second, 2000}}, 0, 10, -1},
		{"much comes at once, but seldom", []seen{{0, 0}, {20 * second, 4000}, {35 * second, 4000}, {40 * second, 8000}, {50 * second, 8000}}, 160, 160, second},
		{"nobody would believe it", []seen{{0, 0}, {10 * second, 1}}, .1, 1 << 40, -1},
	} {
		var p telemetry.Pace
		start := time.Unix(1_767_225_600, 0)
		for _, s := range tc.seen {
			p = p.At(start.Add(s.at), s.done)
		}
		rate, ok := p.Rate()
		if ok != (tc.rate >= 0) || ok && math.Abs(rate-tc.rate) > 1e-9 {
			t.Errorf("%s: rate %g %t, want %g", tc.name, rate, ok, tc.rate)
		}
		left, ok := p.Left(tc.remain)
		if ok != (tc.left >= 0) || ok && left != tc.left {
			t.Errorf("%s: left %s %t, want %s", tc.name, left, ok, tc.left)
		}
	}
}

// However often it is looked at, a steady pace is told right, from the first
// seconds on.
func TestASteadyPaceIsToldRight(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Uint64Range(1000, 1<<30).Draw(t, "rate")
		var p telemetry.Pace
		at := time.Unix(1_767_225_600, 0)
		var done, spent float64
		for _, ms := range rapid.SliceOfN(rapid.IntRange(1, 20_000), 2, 60).Draw(t, "steps") {
			at = at.Add(time.Duration(ms) * time.Millisecond)
			done += float64(rate) * float64(ms) / 1000
			spent += float64(ms) / 1000
			p = p.At(at, uint64(done))
		}
		got, ok := p.Rate()
		if spent > 41 && !ok {
			t.Fatalf("not known after %g s", spent)
		}
		if ok && math.Abs(got-float64(rate)) > 2+float64(rate)/1000 {
			t.Fatalf("told %g, goes %d", got, rate)
		}
	})
}
