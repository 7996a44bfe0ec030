package install_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/modelfleet/modelfleet/infra/bench/figure"
	"github.com/modelfleet/modelfleet/infra/bench/install"
)

// The benchmark itself, on demand: BENCH_INSTALL=quick or =full.
func TestBenchmarkRuns(t *testing.T) {
	mode := os.Getenv("BENCH_INSTALL")
	if mode == "" {
		t.Skip("set BENCH_INSTALL=quick or full to run the install benchmark")
	}
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	figs, err := install.Run(t.Context(), figure.Options{Quick: mode == "quick", Root: root, Work: t.TempDir(), Logf: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range figs {
		t.Logf("%-45s %8.2f %-4s ratio %.2f of %s", f.Name, f.Value, f.Unit, f.Ratio, f.Anchor)
	}
}
