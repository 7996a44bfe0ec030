package fleet_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// A member's past holds each release once, never the one that runs, and nothing
// that came after what it went back to.
func TestPastIsAWayBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var p fleet.Past
		var run fleet.Digest
		for range rapid.IntRange(1, 60).Draw(t, "switches") {
			var to fleet.Digest
			if n := rapid.IntRange(0, 20).Draw(t, "to"); n > 0 {
				to = fleet.DigestOf([]byte{byte(n)})
			}
			before := slices.Clone(p)
			next := p.Then(run, to)
			if !slices.Equal(p, before) {
				t.Fatal("it changed the past")
			}
			switch i := slices.Index(before, to); {
			case to.IsZero():
				if len(next) > 0 {
					t.Fatal("going to nothing leaves a way back")
				}
			case i >= 0:
				if !slices.Equal(next, before[:i]) {
					t.Fatalf("going back to number %d leaves %d", i, len(next))
				}
			case !run.IsZero() && run != to && (len(next) == 0 || next[len(next)-1] != run):
				t.Fatal("what ran just before is not in the past")
			}
			for i, d := range next {
				if d.IsZero() || d == to || slices.Contains(next[:i], d) {
					t.Fatalf("number %d does not belong there", i)
				}
			}
			if len(next) > 16 {
				t.Fatalf("%d are remembered", len(next))
			}
			p, run = next, to
		}
	})
}
