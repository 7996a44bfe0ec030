package fleet_test

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// built is a release whose variants hold these bytes.
func built(version fleet.Version, contents ...string) fleet.Release {
	r := fleet.Release{Team: "vision", Model: "detector", Version: version}
	for i, c := range contents {
		r.Variants = append(r.Variants, fleet.Variant{Name: fmt.Sprint("v", i), Root: fleet.DigestOf([]byte(c))})
	}
	return r
}

// A failed release is known by its bytes, whatever version they are given.
func TestFailedReleasesAreKnownByTheirBytes(t *testing.T) {
	t.Parallel()
	bad, fixed := built("2.0.0", "cpu", "gpu"), built("2.0.1", "cpu'", "gpu'")
	p := fleet.Placement{Model: "detector"}
	with := p.WithFailed(fleet.Failing(bad, "r2", "errors"))
	for _, r := range []fleet.Release{bad, built("2.0.2", "cpu", "gpu"), built("2.0.3", "cpu", "gpu'")} {
		if f, ok := with.FailedAs(r); !ok || f.Rollout != "r2" || f.Release != "detector@2.0.0" {
			t.Errorf("%s: %+v, %v", r.Ref(), f, ok)
		}
		if left := with.WithoutFailed(r).Failed; len(left) != 0 {
			t.Errorf("without %s there is still %+v", r.Ref(), left)
		}
	}
	if f, ok := with.FailedAs(fixed); ok {
		t.Errorf("%s failed as %+v", fixed.Ref(), f)
	}
	if diff := cmp.Diff(with, with.WithoutFailed(fixed)); diff != "" {
		t.Errorf("another release changed it: %s", diff)
	}
	if len(p.Failed) != 0 {
		t.Error("the placement before was changed")
	}
}

// NewestFailedFirst: the newest are kept, each release once, within the caps.
func TestNewestFailedFirst(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := fleet.Placement{Model: "detector"}
		for i := range rapid.IntRange(1, 30).Draw(t, "failures") {
			version := fmt.Sprintf("%d.0.0", rapid.IntRange(1, 12).Draw(t, "version"))
			before := p
			p = p.WithFailed(fleet.Failing(built(fleet.Version(version), version), fleet.RolloutID(fmt.Sprint("r", i)), rapid.String().Draw(t, "reason")))
			if p.Failed[0].Rollout != fleet.RolloutID(fmt.Sprint("r", i)) || len(p.Failed) > fleet.MaxFailed {
				t.Fatalf("%d failed, the newest %+v", len(p.Failed), p.Failed[0])
			}
			if len(p.Failed) < min(len(before.Failed), fleet.MaxFailed) {
				t.Fatalf("from %d to %d by one more", len(before.Failed), len(p.Failed))
			}
			seen := map[string]bool{}
			for _, f := range p.Failed {
				if seen[f.Release] || len(f.Reason) > fleet.MaxFailedReason || !utf8.ValidString(f.Reason) {
					t.Fatalf("%+v", f)
				}
				seen[f.Release] = true
			}
		}
	})
}

func TestALongReasonIsShortened(t *testing.T) {
	t.Parallel()
	f := fleet.Failing(built("1.0.0", "a", "a"), "r1", strings.Repeat("ü", 300)+"\nend")
	if !strings.HasSuffix(f.Reason, "ü...") || len(f.Reason) > fleet.MaxFailedReason || len(f.Roots) != 1 {
		t.Errorf("%d bytes, %d roots: %s", len(f.Reason), len(f.Roots), f.Reason)
	}
}
