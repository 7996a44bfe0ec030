package fleet_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

func drawSelector(t *rapid.T, label string) fleet.Selector {
	text := ""
	for i := range rapid.IntRange(0, 3).Draw(t, label) {
		if i > 0 {
			text += ", "
		}
		text += rapid.SampledFrom([]string{
			"a=x", "a=y", "a in (x, y)", "a in (y, z)", "a!=x", "a notin (x, y)", "a notin (z)", "a", "!a",
			"b=x", "b!=x", "b in (x, z)", "!b", "b", "kind=device", "kind!=function",
		}).Draw(t, "term")
	}
	s, err := fleet.ParseSelector(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func drawLabels(t *rapid.T) fleet.Labels {
	l := fleet.Labels{}
	for _, k := range []string{"a", "b"} {
		if v := rapid.SampledFrom([]string{"", "x", "y", "z", "w"}).Draw(t, k); v != "" {
			l[k] = v
		}
	}
	return l
}

// What is within a scope chooses nobody outside of it, whatever labels there are.
func TestWithinIsSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		inner, outer := drawSelector(t, "inner"), drawSelector(t, "outer")
		f := fleet.Facts{Labels: drawLabels(t), Kind: rapid.SampledFrom([]fleet.Kind{fleet.Device, fleet.Function}).Draw(t, "kind")}
		if inner.Within(outer) && inner.Matches(f) && !outer.Matches(f) {
			t.Fatalf("%q is said to lie within %q, and chooses %v", inner, outer, f)
		}
		if !inner.Within(inner) || !inner.Within(fleet.Selector{}) {
			t.Fatalf("%q does not lie within itself, or within everything", inner)
		}
	})
}

// Labels that fix a selector have every member chosen that has them, whatever else
// it says of itself.
func TestFixesIsSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, fixed, own := drawSelector(t, "scope"), drawLabels(t), drawLabels(t)
		kind := rapid.SampledFrom([]fleet.Kind{fleet.Device, fleet.Function}).Draw(t, "kind")
		for k, v := range fixed { // the token's win
			own[k] = v
		}
		if f := (fleet.Facts{Labels: own, Kind: kind}); s.Fixes(fixed, kind) && !s.Matches(f) {
			t.Fatalf("%v is said to fix %q, and %v is not chosen", fixed, s, f)
		}
	})
}

func TestWithinSeesWhatPeopleWrite(t *testing.T) {
	for _, c := range []struct {
		inner, outer string
		want         bool
	}{
		{"region=eu, class=x", "region=eu", true},
		{"region=eu", "region in (eu, us)", true},
		{"region=eu", "region!=us", true},
		{"region=eu", "region", true},
		{"!camera", "camera!=broken", true},
		{"zone notin (a, b, c)", "zone notin (a, b)", true},
		{"", "region=eu", false},
		{"region in (eu, us)", "region=eu", false},
		{"region!=us", "region=eu", false},
		{"site=cork", "region=eu", false},
	} {
		inner, err := fleet.ParseSelector(c.inner)
		if err != nil {
			t.Fatal(err)
		}
		outer, err := fleet.ParseSelector(c.outer)
		if err != nil {
			t.Fatal(err)
		}
		if got := inner.Within(outer); got != c.want {
			t.Errorf("%q within %q: %v", c.inner, c.outer, got)
		}
	}
}
