package evalue

import "math"

// Looks is the e-process of a test that is made at a few looks, each with a
// weight fixed beforehand; the weights sum to at most 1. A p-value is turned
// into an e-value; what is not spent counts 1, so the process starts at 1 and
// has mean at most 1 at every stopping time, however the looks depend on each
// other.
type Looks struct {
	Sum   float64 `json:"sum"`   // of weight times e-value
	Spent float64 `json:"spent"` // of the weights
}

// E is the evidence so far.
func (l *Looks) E() float64 { return l.Sum + 1 - l.Spent }

// Add spends weight on a test's p-value. Half of it is put on the calibrator.
// The other half is a bet: it pays when p is level or less, the p at which this
// look alone should settle the matter, or, if the test cannot reach that, the
// least it can reach. In a small arm that is most of the power there is. level
// and least must not depend on who of the compared members are exposed.
func (l *Looks) Add(weight, p, level, least float64) {
	e, bet := Calibrate(p)/2, max(level, least)
	if p <= bet {
		e += 1 / (2 * bet)
	}
	l.Sum += weight * e
	l.Spent += weight
}

// Calibrate turns a p-value into an e-value: the mixture of k*p^(k-1) over k in
// (0,1) (Vovk & Wang, Annals of Statistics 2021). It pays more than 1/(2*sqrt p)
// where it matters, below p = 0.001.
func Calibrate(p float64) float64 {
	p = max(p, 1e-300)
	if p > 1-1e-6 {
		return 0.5
	}
	l := math.Log(p)
	return (1 - p + p*l) / (p * l * l)
}
