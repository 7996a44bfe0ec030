package suite

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"slices"

	"github.com/modelfleet/modelfleet/infra/bench/figure"
	"github.com/modelfleet/modelfleet/infra/demo/play"
)

// demo runs the demo as a process of its own and gives the median of each of
// its figures. The first run compiles and is not counted.
func demo(ctx context.Context, o figure.Options) ([]figure.Figure, error) {
	rounds := 3
	if o.Quick {
		rounds = 1
	}
	values, units := map[string][]float64{}, map[string]string{}
	for round := -1; round < rounds; round++ {
		figures, err := playOnce(ctx, o)
		if err != nil {
			return nil, err
		}
		o.Logf("demo: run %d of %d done", round+1, rounds)
		if round < 0 {
			continue
		}
		for name, f := range figures {
			values[name] = append(values[name], f.Value)
			units[name] = f.Unit
		}
	}
	var medians []figure.Figure
	for _, name := range slices.Sorted(maps.Keys(values)) {
		medians = append(medians, figure.Figure{Name: name, Value: figure.Median(values[name]), Unit: units[name]})
	}
	return medians, nil
}

func playOnce(ctx context.Context, o figure.Options) (map[string]play.Figure, error) {
	cmd := exec.CommandContext(ctx, "go", "run", "./infra/demo", "--json")
	cmd.Dir = o.Root
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("run the demo: %w\n%s\n%s", err, errs.Bytes(), out.Bytes())
	}
	var report struct {
		Figures map[string]play.Figure `json:"figures"`
	}
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		return nil, fmt.Errorf("read the demo's report: %w", err)
	}
	return report.Figures, nil
}
