package analysis

import (
	"math"
	"slices"
)

// arms are the values of both arms within one stratum.
type arms struct{ exposed, control []float64 }

const (
	// exactBelow is the number of exposed members from which on the rank-sum's
	// law is approximated.
	exactBelow = 20
	// exactWork bounds the work of one exact law, in additions.
	exactWork = 8 << 20
	// leastApproximate is the least p an approximation is trusted with.
	leastApproximate = 1e-6
)

// rankTest compares two arms by the sum of the exposed members' ranks, stratum
// by stratum: up is the chance of a sum as high, low of one as low, if members
// had been put into the arms by lot. Ties share their mean rank. ok is false
// when no stratum has both arms.
func rankTest(strata []arms) (up, low float64, ok bool) {
	n1 := 0
	both := make([]arms, 0, len(strata))
	for _, s := range strata {
		if len(s.exposed) > 0 && len(s.control) > 0 {
			both = append(both, s)
			n1 += len(s.exposed)
		}
	}
	if len(both) == 0 {
		return 1, 1, false
	}
	if n1 < exactBelow {
		return exactTest(both)
	}
	return normalTest(both)
}

// midranks returns twice the mid-rank of every value (so that they are whole),
// in the order exposed, control.
func midranks(s arms) []int {
	type item struct {
		v  float64
		at int
	}
	items := make([]item, 0, len(s.exposed)+len(s.control))
	for _, v := range s.exposed {
		items = append(items, item{v, len(items)})
	}
	for _, v := range s.control {
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
func exactTest(strata []arms) (up, low float64, ok bool) {
	law := []float64{1} // chance of each total
	total := 0
	for _, s := range strata {
		n1 := len(s.exposed)
		most := int(math.Sqrt(exactWork/2)) / (n1 * len(strata))
		s.control = thin(s.control, max(n1, most-n1))
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
	for sum, p := range law {
		if sum >= total {
			up += p
		}
		if sum <= total {
			low += p
		}
	}
	return min(1, up), min(1, low), true
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
func normalTest(strata []arms) (up, low float64, ok bool) {
	var diff, variance, third float64
	for _, s := range strata {
		n1, n := float64(len(s.exposed)), float64(len(s.exposed)+len(s.control))
		ranks := midranks(s)
		mean := n + 1 // of twice the ranks
		var m2, m3 float64
		for i, r := range ranks {
			d := float64(r) - mean
			if i < len(s.exposed) {
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
		return 1, 1, true // everyone is alike
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
	return tail(diff, skew), tail(-diff, -skew), true
}
