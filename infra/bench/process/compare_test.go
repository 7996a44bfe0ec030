package process

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/infra/bench/figure"
)

// A ratio compares what ran in the same round: one slow round of a busy machine
// moves neither the median nor the ratio.
func TestRatiosAreTakenRoundByRound(t *testing.T) {
	t.Parallel()
	wall := func(r Run) float64 { return r.Wall }
	ours := []Run{{Wall: 1}, {Wall: 10}, {Wall: 2}}
	anchor := []Run{{Wall: 2}, {Wall: 20}, {Wall: 4}}
	want := figure.Figure{Name: "n", Value: 2, Unit: "s", Anchor: "a", Ratio: 0.5}
	if diff := cmp.Diff(want, Compare("n", ours, anchor, "a", wall)); diff != "" {
		t.Error(diff)
	}
	want = figure.Figure{Name: "n", Value: 2, Unit: "s"}
	if diff := cmp.Diff(want, Compare("n", ours, nil, "a", wall)); diff != "" {
		t.Errorf("without an anchor: %s", diff)
	}
}

// Memory is bounded, not usually small: the greatest peak counts.
func TestMemoryIsTheGreatestPeak(t *testing.T) {
	t.Parallel()
	if got := Peak("n", []Run{{RSS: 30}, {RSS: 30.4}, {RSS: 30.2}}).Value; got != 30.4 {
		t.Errorf("peak of three rounds: %v, want 30.4", got)
	}
}
