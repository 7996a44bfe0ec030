package suite

import (
	"context"
	"io"
	"runtime"
	"time"

	"github.com/modelfleet/modelfleet/infra/bench/figure"
	"github.com/modelfleet/modelfleet/infra/demo/play"
)

// idle gives the memory that agents and a coordinator keep resident when nothing
// happens, at the default report periods.
func idle(ctx context.Context, o figure.Options) ([]figure.Figure, error) {
	calm := 90 * time.Second
	if o.Quick {
		calm = 45 * time.Second
	}
	o.Logf("idle: 12 agents and a coordinator, left alone for %s", calm)
	agent, err := build(ctx, o, "agent/cmd/modelfleet-agent", runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	r, err := play.Idle(ctx, play.Options{Devices: 12, Out: io.Discard, Errs: io.Discard}, agent, calm)
	if err != nil {
		return nil, err
	}
	var agents []float64
	for _, n := range r.Agents {
		agents = append(agents, float64(n)/1e6)
	}
	return []figure.Figure{
		{Name: "idle agent RSS, median of 12", Value: figure.Median(agents), Unit: "MB"},
		{Name: "idle coordinator RSS, 12 members", Value: float64(r.Coordinator) / 1e6, Unit: "MB"},
	}, nil
}
