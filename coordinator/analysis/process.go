package analysis

import "math"

// grid are the rate ratios a process mixes over, each with the same weight.
type grid [8]float64

var (
	worseGrid  = grid{1.1, 1.25, 1.5, 2, 3, 5, 10, 30}
	betterGrid = grid{0.1, 0.33, 0.5, 0.67, 0.8, 0.9, 1, 1.1}
)

// Process is a grid-mixture conditional-binomial e-process: an event happened;
// was it in the exposed arm, whose share of the exposure is pi, or in the
// control? Given that one happened, the exposed arm had it with probability
// pi*r/(pi*r+1-pi), where r is the ratio of the arms' rates, whatever those
// are and however they vary with time (Lindon & Malek, arXiv 2011.03567). For
// members drawn without replacement the true law is less spread than that
// (Hoeffding 1963), so the bound still holds. pi may change at any batch, and
// strata multiply: both are further terms of the same sums.
type Process struct {
	LL grid `json:"ll"` // log likelihood ratio of each grid point against r0
}

// add takes a batch: x1 events in the exposed arm, x0 in the control.
func (p *Process) add(g *grid, r0, pi float64, x1, x0 int) {
	if pi <= 0 || pi >= 1 {
		return // one arm only: an event says nothing
	}
	q0 := pi * r0 / (pi*r0 + 1 - pi)
	for j, r := range g {
		q := pi * r / (pi*r + 1 - pi)
		p.LL[j] += float64(x1)*math.Log(q/q0) + float64(x0)*math.Log((1-q)/(1-q0))
	}
}

// e is the evidence against a ratio of r0 or less (or, on the better grid, of
// r0 or more). It starts at 1.
func (p *Process) e() float64 {
	sum := 0.0
	for _, ll := range p.LL {
		sum += math.Exp(min(ll, 600)) // JSON has no infinity
	}
	return sum / float64(len(p.LL))
}

// Rank is the e-process of a rank test that is made at a few looks, each with
// a weight fixed beforehand. A p-value is turned into an e-value; what is not
// spent counts 1, so the process starts at 1 and has mean at most 1 at every
// stopping time.
type Rank struct {
	Sum   float64 `json:"sum"`   // of weight times e-value
	Spent float64 `json:"spent"` // of the weights
}

func (r *Rank) e() float64 { return r.Sum + 1 - r.Spent }

// add spends weight on a p-value. level is the p at which this look alone
// should settle the matter.
func (r *Rank) add(weight, p, level float64) {
	e := calibrate(p) / 2
	if p <= level {
		e += 1 / (2 * level)
	}
	r.Sum += weight * e
	r.Spent += weight
}

// calibrate turns a p-value into an e-value: the mixture of k*p^(k-1) over k in
// (0,1) (Vovk & Wang, Annals of Statistics 2021). It pays more than 1/(2*sqrt p)
// where it matters, below p = 0.001.
func calibrate(p float64) float64 {
	p = max(p, 1e-300)
	if p > 1-1e-6 {
		return 0.5
	}
	l := math.Log(p)
	return (1 - p + p*l) / (p * l * l)
}
