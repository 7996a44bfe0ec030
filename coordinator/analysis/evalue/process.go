package evalue

import "math"

// Grid are the ratios a process mixes over, each with the same weight.
type Grid [8]float64

// Worse are ratios at which the exposed arm does worse than r0 times as bad.
// They reach far: where few members are exposed, a handful of events must say
// all there is to say. None is below r0, or a process against r0 would take a
// release that is better than that for evidence.
func Worse(r0 float64) Grid { return Grid{1.25, 1.5, 2, 3, 5, 10, 30, 100}.times(r0) }

// Better are ratios at which it does as bad as r0 times, or better.
func Better(r0 float64) Grid { return Grid{0.1, 0.33, 0.5, 0.67, 0.8, 0.9, 1, 1.1}.times(r0) }

func (g Grid) times(r0 float64) Grid {
	for i := range g {
		g[i] *= r0
	}
	return g
}

// Process is a grid-mixture conditional e-process of first events: so many of
// the members at risk had one; how many of those were in the exposed arm? If
// the arms were drawn by lot and the release does nothing, that number is
// hypergeometric, whatever the members' own rates are and however they vary
// with time. If it multiplies the odds of an event by r, it has Fisher's
// noncentral law. The process multiplies the likelihood ratios of batch after
// batch, against a tolerated ratio r0; smaller true ratios only lower it. For
// one event among many members this is the conditional binomial of Lindon &
// Malek (arXiv 2011.03567), with odds and rates alike. The arms may change at
// any batch, and strata multiply: both are further terms of the same sums.
type Process struct {
	LL Grid `json:"ll"` // log likelihood ratio of each grid point against r0
}

// Add takes a batch: of n1 exposed members and n0 of the control that were at
// risk, x1 and x0 had their event.
func (p *Process) Add(g Grid, r0 float64, n1, n0, x1, x0 int) {
	if n1 <= 0 || n0 <= 0 || x1+x0 <= 0 {
		return // one arm only: an event says nothing
	}
	ways := draws(n1, n0, x1+x0)
	lowest := max(0, x1+x0-n0)
	for j, r := range g {
		p.LL[j] += float64(x1-lowest)*math.Log(r/r0) - logTilted(ways, r) + logTilted(ways, r0)
	}
}

// draws is the log of the number of ways in which k of n1+n0 members can be
// lowest, lowest+1, ... exposed ones, up to a factor.
func draws(n1, n0, k int) []float64 {
	lowest, most := max(0, k-n0), min(n1, k)
	ways := make([]float64, most-lowest+1)
	for x := lowest; x < most; x++ {
		ways[x-lowest+1] = ways[x-lowest] + math.Log(float64(n1-x)*float64(k-x)/(float64(x+1)*float64(n0-k+x+1)))
	}
	return ways
}

// logTilted is the log of the sum of the ways, each exposed event weighing r.
func logTilted(ways []float64, r float64) float64 {
	tilt, most := math.Log(r), math.Inf(-1)
	for i, w := range ways {
		most = max(most, w+float64(i)*tilt)
	}
	sum := 0.0
	for i, w := range ways {
		sum += math.Exp(w + float64(i)*tilt - most)
	}
	return most + math.Log(sum)
}

// E is the evidence against a ratio of r0 or less (or, on a better grid, of r0
// or more). It starts at 1.
func (p *Process) E() float64 {
	sum := 0.0
	for _, ll := range p.LL {
		sum += math.Exp(min(ll, 600)) // JSON has no infinity
	}
	return sum / float64(len(p.LL))
}
