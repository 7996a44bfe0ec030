package analysis_test

import (
	"math"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/analysis"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

func TestWeightsOfTheGatesThatAreOnSumToOne(t *testing.T) {
	t.Parallel()
	specs := []fleet.Spec{
		{},
		{Gates: []fleet.Gate{{Gate: fleet.GateDrift, Off: true}}},
		{Gates: []fleet.Gate{{Gate: fleet.GateMetric, Name: "a", Direction: fleet.Up}, {Gate: fleet.GateMetric, Name: "b", Direction: fleet.Down}}},
		{Gates: []fleet.Gate{{Gate: fleet.GateBreaker, Off: true}, {Gate: fleet.GateLatency, At: []string{"p50"}}}},
	}
	for _, spec := range specs {
		sum := 0.0
		for _, g := range analysis.NewConfig(spec, analysis.Timing{}).Gates {
			sum += g.Weight
			if g.Off {
				t.Errorf("%s is off", g.Gate.Gate)
			}
		}
		if math.Abs(sum-1) > 1e-12 {
			t.Errorf("%v: sum %g", spec.Gates, sum)
		}
	}
}

func TestSpecTunesGates(t *testing.T) {
	t.Parallel()
	cfg := analysis.NewConfig(fleet.Spec{Alpha: 5, Gates: []fleet.Gate{
		{Gate: fleet.GateErrors, Tolerate: 20}, {Gate: fleet.GateBreaker, Failures: 1, Of: 2}, {Gate: fleet.GateLatency, Off: true},
	}}, analysis.Timing{Report: time.Second})
	if cfg.Alpha != 0.05 || cfg.SilentFor != 3*time.Second || cfg.Look != time.Second {
		t.Errorf("%+v", cfg)
	}
	for _, g := range cfg.Gates {
		switch g.Gate.Gate {
		case fleet.GateErrors:
			if g.Tolerate != 20 || !g.Required {
				t.Errorf("%+v", g)
			}
		case fleet.GateBreaker:
			if g.Failures != 1 || g.Of != 2 {
				t.Errorf("%+v", g)
			}
		case fleet.GateLatency:
			t.Error("latency is on")
		}
	}
}
