package install

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/infra/bench/figure"
	"github.com/modelfleet/modelfleet/infra/bench/process"
)

// A ratio compares what ran in the same round: one slow round of a busy machine
// moves neither the median nor the ratio.
func TestRatiosAreTakenRoundByRound(t *testing.T) {
	t.Parallel()
	wall := func(r process.Run) float64 { return r.Wall }
	ours := []process.Run{{Wall: 1}, {Wall: 10}, {Wall: 2}}
	anchor := []process.Run{{Wall: 2}, {Wall: 20}, {Wall: 4}}
	want := figure.Figure{Name: "n", Value: 2, Unit: "s", Anchor: "a", Ratio: 0.5}
	if diff := cmp.Diff(want, compare("n", ours, anchor, "a", wall)); diff != "" {
		t.Error(diff)
	}
	want = figure.Figure{Name: "n", Value: 2, Unit: "s"}
	if diff := cmp.Diff(want, compare("n", ours, nil, "a", wall)); diff != "" {
		t.Errorf("without an anchor: %s", diff)
	}
}

// Memory is bounded, not usually small: the greatest peak counts.
func TestMemoryIsTheGreatestPeak(t *testing.T) {
	t.Parallel()
	if got := peak("n", []process.Run{{RSS: 30}, {RSS: 30.4}, {RSS: 30.2}}).Value; got != 30.4 {
		t.Errorf("peak of three rounds: %v, want 30.4", got)
	}
}

func TestAStoreIsCopiedByLinks(t *testing.T) {
	t.Parallel()
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	if err := os.MkdirAll(filepath.Join(from, "files", "aa"), 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("files", "aa", "f")
	if err := os.WriteFile(filepath.Join(from, path), []byte("weights"), 0o444); err != nil {
		t.Fatal(err)
	}
	if err := linkTree(from, to); err != nil {
		t.Fatal(err)
	}
	a, err := os.Stat(filepath.Join(from, path))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.Stat(filepath.Join(to, path))
	if err != nil || !os.SameFile(a, b) {
		t.Errorf("the copy is not the same file: %v", err)
	}
}
