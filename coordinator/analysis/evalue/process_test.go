package evalue

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

// TestFirstEvents: with a share of 5% and no event in the control, three
// exposed members' events are evidence of more than 500, one by one or at once,
// and in a small fleet, where an event takes a member out, of still more.
func TestFirstEvents(t *testing.T) {
	t.Parallel()
	for _, n := range []int{20, 100_000} {
		var one, all Process
		for i := range 3 {
			one.Add(Worse(1), 1, n-i, 19*n, 1, 0)
		}
		all.Add(Worse(1), 1, n, 19*n, 3, 0)
		near(t, "E one by one", one.E(), all.E(), 0.2)
		if e := all.E(); e < 500 || e > 2000 {
			t.Errorf("E of three among %d is %g", n, e)
		}
	}
	var four Process
	four.Add(Worse(1), 1, 4, 44, 4, 0)
	if e := four.E(); e < 5_000 || e > 194_580 { // 194580 ways to draw 4 of 48
		t.Errorf("E of all four is %g", e)
	}
}

// TestBatchesAreExact: over all draws, the mean of a batch's factor is 1, and
// it is less when the release is better than tolerated.
func TestBatchesAreExact(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ n1, n0, k int }{{4, 44, 1}, {4, 44, 3}, {4, 44, 46}, {20, 20, 15}, {300, 700, 200}} {
		for _, r0 := range []float64{1, 1.5} {
			for _, g := range []Grid{Worse(r0), Better(r0 / 1.25)} {
				mean, healthy := 0.0, 0.0
				ways := draws(c.n1, c.n0, c.k)
				for i, w := range ways {
					var p Process
					x := max(0, c.k-c.n0) + i
					p.Add(g, r0, c.n1, c.n0, x, c.k-x)
					mean += p.E() * math.Exp(w+float64(i)*math.Log(r0)-logTilted(ways, r0))
					healthy += p.E() * math.Exp(w-logTilted(ways, 1))
				}
				near(t, "mean", mean, 1, 1e-9)
				if g == Worse(r0) && healthy > 1+1e-9 {
					t.Errorf("mean of a healthy release's factor is %g", healthy)
				}
			}
		}
	}
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
		n1, n0 := 10, 990
		for event := range 300 {
			if event%100 == 0 && event > 0 { // the next stage
				n1, n0 = n1+200, n0-200
			}
			x1 := 0
			if r.IntN(n1+n0) < n1 {
				x1 = 1
			}
			p.Add(Worse(1), 1, n1, n0, x1, 1-x1)
			n1, n0 = n1-x1, n0-(1-x1)
			if p.E() >= 20 {
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
			p.Add(Better(1), margin, 30_000, 70_000, x1, 1-x1)
			if p.E() >= 20 {
				passed++
				break
			}
		}
	}
	if passed > runs/20 {
		t.Errorf("%d of %d passed", passed, runs)
	}
}

// TestLooksHaveMeanOne draws arms by lot from members with ties, and adds up
// the whole law of the e-value: its mean is at most 1 wherever the bet lies.
func TestLooksHaveMeanOne(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(9, 10))
	for range 40 {
		values := make([]float64, 9)
		for i := range values {
			values[i] = float64(r.IntN(5))
		}
		for _, level := range []float64{1e-9, 0.02, 0.3} {
			up, two, n := 0.0, 0.0, 0.0
			for set := range 1 << len(values) {
				var a Arms
				for i, v := range values {
					if set>>i&1 == 1 {
						a.Exposed = append(a.Exposed, v)
					} else {
						a.Control = append(a.Control, v)
					}
				}
				if len(a.Exposed) != 3 {
					continue
				}
				got, _ := RankTest([]Arms{a})
				var one, both Looks
				one.Add(1, got.Up, level, got.LeastUp)
				p, least := got.Two()
				both.Add(1, p, level, least)
				up, two, n = up+one.E(), two+both.E(), n+1
			}
			if up/n > 1+1e-9 || two/n > 1+1e-9 {
				t.Errorf("%v at %g: means %g and %g", values, level, up/n, two/n)
			}
		}
	}
}

func TestCalibratorHasMeanOne(t *testing.T) {
	t.Parallel()
	sum, n := 0.0, 200_000
	for i := range n {
		sum += Calibrate((float64(i) + 0.5) / float64(n))
	}
	if mean := sum / float64(n); mean > 1 || mean < 0.9 {
		t.Errorf("mean %g", mean)
	}
	for _, p := range []float64{0, 1e-300, 1e-9, 0.5, 1 - 1e-12, 1} {
		if e := Calibrate(p); math.IsNaN(e) || math.IsInf(e, 0) || e < 0 {
			t.Errorf("Calibrate(%g) is %g", p, e)
		}
	}
}

// TestExactTestCountsDraws compares with going through all draws, with ties and
// strata.
func TestExactTestCountsDraws(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(5, 6))
	for range 50 {
		var strata []Arms
		for range 1 + r.IntN(2) {
			s := Arms{}
			for range 1 + r.IntN(3) {
				s.Exposed = append(s.Exposed, float64(r.IntN(4)))
			}
			for range 1 + r.IntN(5) {
				s.Control = append(s.Control, float64(r.IntN(4)))
			}
			strata = append(strata, s)
		}
		got, ok := RankTest(strata)
		want := enumerate(strata)
		for i, p := range [4][2]float64{{got.Up, want.Up}, {got.Low, want.Low}, {got.LeastUp, want.LeastUp}, {got.LeastLow, want.LeastLow}} {
			if !ok || math.Abs(p[0]-p[1]) > 1e-9 {
				t.Fatalf("%v: %d: %+v, want %+v", strata, i, got, want)
			}
		}
	}
}

func enumerate(strata []Arms) Ranked {
	sums, observed := []int{0}, 0
	for _, s := range strata {
		ranks := midranks(s)
		for _, x := range ranks[:len(s.Exposed)] {
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
			if n == len(s.Exposed) {
				for _, before := range sums {
					next = append(next, before+sum)
				}
			}
		}
		sums = next
	}
	share := func(of func(sum int) bool) float64 {
		n := 0
		for _, s := range sums {
			if of(s) {
				n++
			}
		}
		return float64(n) / float64(len(sums))
	}
	return Ranked{
		Up: share(func(s int) bool { return s >= observed }), Low: share(func(s int) bool { return s <= observed }),
		LeastUp: share(func(s int) bool { return s == slices.Max(sums) }), LeastLow: share(func(s int) bool { return s == slices.Min(sums) }),
	}
}

// TestApproximationIsCareful: where the exact law can still be had, the
// approximate tail is not far below it, even with nearly everyone tied.
func TestApproximationIsCareful(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 8))
	for range 40 {
		s := Arms{Exposed: make([]float64, 19), Control: make([]float64, 40)}
		tied := r.Float64()
		for i := range s.Exposed {
			if r.Float64() > tied {
				s.Exposed[i] = r.Float64() + 0.7*r.Float64()
			}
		}
		for i := range s.Control {
			if r.Float64() > tied {
				s.Control[i] = r.Float64()
			}
		}
		exact, approximate := exactTest([]Arms{s}).Up, normalTest([]Arms{s}).Up
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
