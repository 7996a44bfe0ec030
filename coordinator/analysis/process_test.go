package analysis

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func near(t *testing.T, what string, got, want, within float64) {
	t.Helper()
	if math.Abs(got-want) > within*math.Abs(want) {
		t.Errorf("%s is %g, want %g", what, got, want)
	}
}

// TestFirstEvents are published figures: with a share of 5% and no event in the
// control, two exposed members make E = 29 and three 283.
func TestFirstEvents(t *testing.T) {
	t.Parallel()
	var p Process
	p.add(&worseGrid, 1, 0.05, 2, 0)
	near(t, "E after two", p.e(), 29, 0.02)
	p.add(&worseGrid, 1, 0.05, 1, 0)
	near(t, "E after three", p.e(), 283, 0.02)
}

// TestProcessKeepsAlpha watches healthy releases event by event while the
// exposed share ramps: E may reach 20 in at most one of twenty.
func TestProcessKeepsAlpha(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	const runs = 2000
	reached := 0
	for range runs {
		var p Process
		for event := range 300 {
			pi := []float64{0.01, 0.1, 0.5}[event/100]
			x1 := 0
			if r.Float64() < pi {
				x1 = 1
			}
			p.add(&worseGrid, 1, pi, x1, 1-x1)
			if p.e() >= 20 {
				reached++
				break
			}
		}
	}
	if reached > runs/20 {
		t.Errorf("%d of %d reached 20", reached, runs)
	}
}

// TestPassIsHardToEarn: a release truly worse by the margin passes by evidence
// in at most beta of the runs.
func TestPassIsHardToEarn(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	const runs, pi, margin = 1000, 0.3, 1.25
	passed := 0
	for range runs {
		var p Process
		for range 400 {
			x1 := 0
			if r.Float64() < pi*margin/(pi*margin+1-pi) {
				x1 = 1
			}
			p.add(&betterGrid, margin, pi, x1, 1-x1)
			if p.e() >= 20 {
				passed++
				break
			}
		}
	}
	if passed > runs/20 {
		t.Errorf("%d of %d passed", passed, runs)
	}
}

func TestCalibratorHasMeanOne(t *testing.T) {
	t.Parallel()
	sum, n := 0.0, 200_000
	for i := range n {
		sum += calibrate((float64(i) + 0.5) / float64(n))
	}
	if mean := sum / float64(n); mean > 1 || mean < 0.9 {
		t.Errorf("mean %g", mean)
	}
	for _, p := range []float64{0, 1e-300, 1e-9, 0.5, 1 - 1e-12, 1} {
		if e := calibrate(p); math.IsNaN(e) || math.IsInf(e, 0) || e < 0 {
			t.Errorf("calibrate(%g) is %g", p, e)
		}
	}
}

// TestExactTestCountsDraws compares with going through all draws, with ties and
// strata.
func TestExactTestCountsDraws(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(5, 6))
	for range 50 {
		var strata []arms
		for range 1 + r.IntN(2) {
			s := arms{}
			for range 1 + r.IntN(3) {
				s.exposed = append(s.exposed, float64(r.IntN(4)))
			}
			for range 1 + r.IntN(5) {
				s.control = append(s.control, float64(r.IntN(4)))
			}
			strata = append(strata, s)
		}
		up, low, ok := rankTest(strata)
		wantUp, wantLow := enumerate(strata)
		if !ok || math.Abs(up-wantUp) > 1e-9 || math.Abs(low-wantLow) > 1e-9 {
			t.Fatalf("%v: up %g low %g, want %g %g", strata, up, low, wantUp, wantLow)
		}
	}
}

func enumerate(strata []arms) (up, low float64) {
	sums, observed := []int{0}, 0
	for _, s := range strata {
		ranks := midranks(s)
		for _, x := range ranks[:len(s.exposed)] {
			observed += x
		}
		var next []int
		for set := range 1 << len(ranks) {
			sum, n := 0, 0
			for i, x := range ranks {
				if set>>i&1 == 1 {
					sum, n = sum+x, n+1
				}
			}
			if n == len(s.exposed) {
				for _, before := range sums {
					next = append(next, before+sum)
				}
			}
		}
		sums = next
	}
	for _, s := range sums {
		if s >= observed {
			up++
		}
		if s <= observed {
			low++
		}
	}
	return up / float64(len(sums)), low / float64(len(sums))
}

// TestApproximationIsCareful: where the exact law can still be had, the
// approximate tail is not far below it, even with nearly everyone tied.
func TestApproximationIsCareful(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 8))
	for range 40 {
		s := arms{exposed: make([]float64, 19), control: make([]float64, 40)}
		tied := r.Float64()
		for i := range s.exposed {
			if r.Float64() > tied {
				s.exposed[i] = r.Float64() + 0.7*r.Float64()
			}
		}
		for i := range s.control {
			if r.Float64() > tied {
				s.control[i] = r.Float64()
			}
		}
		exact, _, _ := exactTest([]arms{s})
		approximate, _, _ := normalTest([]arms{s})
		if exact > 1e-7 && exact < 0.2 && approximate < exact/3 {
			t.Errorf("exact %g, approximate %g with %.0f%% tied", exact, approximate, 100*tied)
		}
	}
}

func TestThinKeepsOrder(t *testing.T) {
	t.Parallel()
	v := make([]float64, 1000)
	for i := range v {
		v[i] = float64(i)
	}
	if got := thin(v, 100); len(got) != 100 || !slices.IsSorted(got) {
		t.Errorf("%v", got)
	}
}

// TestExceedances are published figures for log-normal latency.
func TestExceedances(t *testing.T) {
	t.Parallel()
	near(t, "p95 +10%", exceedances(0.95, 0.10), 1.46, 0.02)
	near(t, "p99 +10%", exceedances(0.99, 0.10), 1.64, 0.02)
	near(t, "p95 +20%", exceedances(0.95, 0.20), 2.0, 0.03)
}
