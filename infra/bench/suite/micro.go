package suite

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"github.com/modelfleet/modelfleet/infra/bench/figure"
)

// line is one result of `go test -bench -benchmem`.
var line = regexp.MustCompile(`(?m)^(Benchmark\S+?)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op.*?\s(\d+) allocs/op`)

// decide runs the engine's own benchmarks and gives their medians.
func decide(ctx context.Context, o figure.Options) ([]figure.Figure, error) {
	return micro(ctx, o, "./coordinator/rollout", "^BenchmarkDecide")
}

// micro runs the Go benchmarks of a package that match pattern and gives the
// median time and allocations of each.
func micro(ctx context.Context, o figure.Options, pkg, pattern string) ([]figure.Figure, error) {
	count := "5"
	if o.Quick {
		count = "1"
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", pattern, "-benchmem", "-count", count, pkg)
	cmd.Dir = o.Root
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("run the benchmarks of %s: %w: %s", pkg, err, out)
	}
	var names []string
	times, allocs := map[string][]float64{}, map[string][]float64{}
	for _, m := range line.FindAllStringSubmatch(string(out), -1) {
		name := strings.TrimPrefix(m[1], "Benchmark")
		ns, err1 := strconv.ParseFloat(m[2], 64)
		n, err2 := strconv.ParseFloat(m[3], 64)
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("read %q of %s: not a benchmark result", m[0], pkg)
		}
		if times[name] == nil {
			names = append(names, name)
		}
		times[name], allocs[name] = append(times[name], ns), append(allocs[name], n)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("run the benchmarks of %s: none matched %s:\n%s", pkg, pattern, out)
	}
	var figures []figure.Figure
	for _, name := range names {
		figures = append(figures,
			figure.Figure{Name: name, Value: figure.Median(times[name]), Unit: "ns"},
			figure.Figure{Name: name + " allocs", Value: figure.Median(allocs[name]), Unit: "allocs"})
	}
	return figures, nil
}
