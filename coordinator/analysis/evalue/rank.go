package evalue

import (
	"math"
	"slices"
)

// Arms are the values of both arms within one stratum.
type Arms struct{ Exposed, Control []float64 }

// Ranked is what a rank test says: Up is the chance of a rank sum as high, Low
// of one as low, if members had been put into the arms by lot. LeastUp and
// LeastLow are the least chances that these members' values could have given;
// they do not depend on who of them is exposed.
type Ranked struct{ Up, Low, LeastUp, LeastLow float64 }

// Two is the two-sided test's p and the least it could have been.
func (r Ranked) Two() (p, least float64) {
	return min(1, 2*min(r.Up, r.Low)), min(1, 2*min(r.LeastUp, r.LeastLow))
}

// Swap looks from the other end.
func (r Ranked) Swap() Ranked { return Ranked{r.Low, r.Up, r.LeastLow, r.LeastUp} }

const (
	// exactBelow is the number of exposed members from which on the rank-sum's
	// law is approximated.
	exactBelow = 20
	// exactWork bounds the work of one exact law, in additions.
	exactWork = 8 << 20
	// leastApproximate is the least p an approximation is trusted with.
	leastApproximate = 1e-6
)

// RankTest compares two arms by the sum of the exposed members' ranks, stratum
// by stratum. Ties share their mean rank. ok is false when no stratum has both
// arms.
func RankTest(strata []Arms) (r Ranked, ok bool) {
	n1 := 0
	both := make([]Arms, 0, len(strata))
	for _, s := range strata {
		if len(s.Exposed) > 0 && len(s.Control) > 0 {
			both = append(both, s)
			n1 += len(s.Exposed)
		}
	}
	if len(both) == 0 {
		return Ranked{1, 1, 1, 1}, false
	}
	if n1 < exactBelow {
		return exactTest(both), true
	}
	return normalTest(both), true
}

// midranks returns twice the mid-rank of every value (so that they are whole),
// in the order exposed, control.
func midranks(s Arms) []int {
	type item struct {
		v  float64
		at int
	}
	items := make([]item, 0, len(s.Exposed)+len(s.Control))
	for _, v := range s.Exposed {
		items = append(items, item{v, len(items)})
	}
	for _, v := range s.Control {
		items = append(items, item{v, len(items)})
	}
	slices.SortFunc(items, func(a, b item) int {
		switch {
		case a.v < b.v:
			return -1
		case a.v > b.v:
			return 1
		}
		return a.at - b.at
	})
	ranks := make([]int, len(items))
	for from := 0; from < len(items); {
		to := from + 1
		for to < len(items) && items[to].v == items[from].v {
			to++
		}
		for i := from; i < to; i++ {
			ranks[items[i].at] = from + to + 1 // twice the mean of from+1 .. to
		}
		from = to
	}
	return ranks
}

// exactTest counts, over all ways to draw the exposed members, those whose
// rank sum is as extreme. A control too large for that is thinned evenly; the
// members are sorted by id, so which ones stay depends on no outcome.
func exactTest(strata []Arms) Ranked {
	law := []float64{1} // chance of each total
	total := 0
	for _, s := range strata {
		n1 := len(s.Exposed)
		most := int(math.Sqrt(exactWork/2)) / (n1 * len(strata))
		s.Control = thin(s.Control, max(n1, most-n1))
		ranks := midranks(s)
		for _, r := range ranks[:n1] {
			total += r
		}
		if slices.Max(ranks) == slices.Min(ranks) {
			total -= n1 * ranks[0] // everyone is alike: the sum is certain
			continue
		}
		law = convolve(law, drawLaw(ranks, n1))
	}
	r := Ranked{LeastUp: law[len(law)-1]}
	for sum, p := range law {
		if sum >= total {
			r.Up += p
		}
		if sum <= total {
			r.Low += p
		}
		if r.LeastLow == 0 {
			r.LeastLow = p
		}
	}
	r.Up, r.Low = min(1, r.Up), min(1, r.Low)
	return r
}

// thin keeps about most of the values, evenly spaced.
func thin(v []float64, most int) []float64 {
	if len(v) <= most {
		return v
	}
	kept := make([]float64, most)
	for i := range kept {
		kept[i] = v[i*len(v)/most]
	}
	return kept
}

// drawLaw is the law of the sum of k of the ranks drawn without replacement.
func drawLaw(ranks []int, k int) []float64 {
	sorted := slices.Clone(ranks)
	slices.Sort(sorted)
	sums := make([]int, len(sorted)+1) // of the lowest ranks
	for i, r := range sorted {
		sums[i+1] = sums[i] + r
	}
	most := sums[len(sorted)] - sums[len(sorted)-k]
	// ways[c][s]: the share of draws, so far, of c ranks that sum to s. Scaling
	// by the chance that a rank is drawn keeps every number within [0,1].
	ways := make([][]float64, k+1)
	for c := range ways {
		ways[c] = make([]float64, most+1)
	}
	ways[0][0] = 1
	n := len(sorted)
	for i, r := range sorted {
		left := float64(n - i)
		for c := min(i+1, k); c >= 0; c-- {
			skip := max(0, left-float64(k-c)) / left
			take := 0.0
			if c > 0 {
				take = float64(k-c+1) / left
			}
			// c of the lowest i+1 ranks sum to no less and no more than this.
			for s := sums[i+1] - sums[i+1-c]; s >= sums[c]; s-- {
				w := ways[c][s] * skip
				if c > 0 && s >= r {
					w += ways[c-1][s-r] * take
				}
				ways[c][s] = w
			}
		}
	}
	return ways[k]
}

func convolve(a, b []float64) []float64 {
	if len(a) == 1 {
		return b
	}
	out := make([]float64, len(a)+len(b)-1)
	for i, x := range a {
		if x == 0 {
			continue
		}
		for j, y := range b {
			out[i+j] += x * y
		}
	}
	return out
}

// normalTest approximates the law by its first three moments (a finite
// population's; ties make it skew), with half a step of continuity. Skewness is
// used only where it makes the test more careful.
func normalTest(strata []Arms) Ranked {
	var diff, variance, third float64
	for _, s := range strata {
		n1, n := float64(len(s.Exposed)), float64(len(s.Exposed)+len(s.Control))
		ranks := midranks(s)
		mean := n + 1 // of twice the ranks
		var m2, m3 float64
		for i, r := range ranks {
			d := float64(r) - mean
			if i < len(s.Exposed) {
				diff += d
			}
			m2 += d * d
			m3 += d * d * d
		}
		n0 := n - n1
		variance += n1 * n0 / (n * (n - 1)) * m2
		if n > 2 {
			third += n1 * n0 * (n0 - n1) / (n * (n - 1) * (n - 2)) * m3
		}
	}
	if variance == 0 {
		return Ranked{1, 1, 1, 1} // everyone is alike
	}
	sd := math.Sqrt(variance)
	skew := third / (variance * sd)
	tail := func(d, skew float64) float64 {
		z := (d - 1) / sd // the least step of twice a rank sum is 1
		if skew > 0 && z > 1 {
			z -= skew * (z*z - 1) / 6
			z = max(z, 1)
		}
		return max(leastApproximate, math.Erfc(z/math.Sqrt2)/2)
	}
	return Ranked{tail(diff, skew), tail(-diff, -skew), leastApproximate, leastApproximate}
}
