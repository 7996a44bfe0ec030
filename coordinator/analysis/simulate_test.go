package analysis_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/analysis"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// config is that of one stage among so many, at an alpha.
func config(alpha fleet.Percent, stages int, soak time.Duration) analysis.Config {
	spec := fleet.Spec{Alpha: alpha}
	for range stages {
		spec.Stages = append(spec.Stages, fleet.Stage{Soak: fleet.Duration(soak)})
	}
	return analysis.NewConfig(spec, analysis.Timing{})
}

// runsOr is how many runs a simulation makes.
func runsOr(n int) int {
	if more, err := strconv.Atoi(os.Getenv("MODELFLEET_RUNS")); err == nil {
		return more
	}
	if testing.Short() {
		return n / 2
	}
	return n
}

// TestHealthyReleasesStay rolls healthy releases out over fleets whose members
// differ and whose errors come in bursts, looking every 10 s. At alpha 10% no
// more than that may be rolled back; requests tested one by one would roll back
// a third and more. MODELFLEET_RUNS makes more runs of it.
func TestHealthyReleasesStay(t *testing.T) {
	worlds := map[string]world{
		"four of 48":     {members: 48, exposed: 4, errorRate: 0.02, shape: 0.5, burst: 0.5, wrongRate: 0.1, fatalBase: 0.0001},
		"alike":          {members: 60, exposed: 6, errorRate: 0.01},
		"different":      {members: 60, exposed: 6, errorRate: 0.01, shape: 1},
		"very different": {members: 120, exposed: 30, errorRate: 0.01, shape: 0.2, wrongRate: 0.1},
		"bursty":         {members: 120, exposed: 24, errorRate: 0.01, shape: 0.2, burst: 0.9, wrongRate: 0.1},
		"half":           {members: 48, exposed: 24, errorRate: 0.02, shape: 0.5, burst: 0.5, wrongRate: 0.2, fatalBase: 0.0005},
		"rare":           {members: 200, exposed: 20, errorRate: 0.0005, shape: 0.5, burst: 0.8, wrongRate: 0.02},
	}
	runs := runsOr(40)
	for name, w := range worlds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := config(10, 1, 5*time.Minute)
			failed, passed, reason := 0, 0, ""
			for seed := range runs {
				v, _ := w.run(uint64(seed), cfg, 36)
				switch v.Outcome {
				case analysis.Fail:
					failed++
					reason = v.Reason
				case analysis.Pass:
					passed++
				default:
					reason = v.Reason
				}
			}
			t.Logf("%s: %d of %d rolled back, %d passed: %s", name, failed, runs, passed, reason)
			// 10% and three standard deviations of so many runs.
			if limit := float64(runs)*0.1 + 0.9*float64(runs)/10; float64(failed) > limit {
				t.Errorf("%d of %d healthy releases rolled back, last: %s", failed, runs, reason)
			}
			if passed*10 < runs*6 {
				t.Errorf("only %d of %d healthy releases passed, last: %s", passed, runs, reason)
			}
		})
	}
}

// TestBadReleasesAreCaught rolls bad releases out at alpha 1%.
func TestBadReleasesAreCaught(t *testing.T) {
	cases := []struct {
		name  string
		w     world
		least float64 // share that must be caught in 6 minutes
	}{
		{"twice the errors", world{members: 200, exposed: 40, errorRate: 0.02, shape: 1, worse: 2}, 0.9},
		{"five times the errors on a few", world{members: 48, exposed: 5, errorRate: 0.02, shape: 1, worse: 5}, 0.5},
		{"thrice the errors in bursts", world{members: 200, exposed: 40, errorRate: 0.02, shape: 0.5, burst: 0.5, worse: 3}, 0.3},
		{"broken on a quarter", world{members: 200, exposed: 40, errorRate: 0.01, shape: 1, broken: 0.25}, 0.75},
		{"fatal", world{members: 48, exposed: 5, errorRate: 0.01, fatal: 1}, 1},
		{"fatal on a third", world{members: 400, exposed: 40, errorRate: 0.01, fatal: 0.33}, 0.95},
		{"twice as often wrong", world{members: 100, exposed: 20, errorRate: 0.005, shape: 1, wrongRate: 0.1, wronger: 2}, 0.9},
		{"three times as many slow requests", world{members: 100, exposed: 20, errorRate: 0.005, shape: 1, slower: 3}, 0.9},
		{"other predictions", world{members: 100, exposed: 20, errorRate: 0.005, shape: 1, drift: 0.2}, 0.9},
	}
	runs := runsOr(12)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := config(1, 4, 5*time.Minute)
			caught, looks := 0, 0
			var last analysis.Verdict
			for seed := range runs {
				v, at := c.w.run(uint64(seed), cfg, 36)
				if last = v; at > 0 {
					caught++
					looks += at
				}
			}
			t.Logf("%s: %d of %d caught, on average after %.0f s: %s", c.name, caught, runs, 10*float64(looks)/float64(max(1, caught)), last.Reason)
			if float64(caught) < c.least*float64(runs) {
				t.Errorf("%d of %d caught; last: %s %+v", caught, runs, last.Reason, gates(last))
			}
		})
	}
}

func gates(v analysis.Verdict) string {
	s := ""
	for _, g := range v.Gates {
		s += fmt.Sprintf("\n%s %s %s E=%g pass=%g: %s", g.Gate, g.Name, g.Outcome, g.E, g.PassE, g.Reason)
	}
	return s
}

// BenchmarkEvaluate is the evaluation at every tick, and that with a look.
func BenchmarkEvaluate(b *testing.B) {
	for _, n := range []int{48, 1_000, 100_000} {
		cfg := config(1, 4, 5*time.Minute)
		begin := still(n/20, n-n/20)
		st, _ := analysis.Evaluate(cfg, analysis.State{}, begin)
		soon := advance(begin, 10*time.Second)
		for i := range soon.Members {
			soon.Members[i].Post.Errored = uint64(i*i) % 2
		}
		b.Run(fmt.Sprint("look/members=", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				analysis.Evaluate(cfg, st, soon)
			}
		})
		looked, _ := analysis.Evaluate(cfg, st, soon)
		soon.At = soon.At.Add(time.Second)
		b.Run(fmt.Sprint("tick/members=", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				analysis.Evaluate(cfg, looked, soon)
			}
		})
	}
}
