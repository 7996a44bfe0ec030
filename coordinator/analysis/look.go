package analysis

import (
	"math"
	"slices"
	"strings"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// look compares the members' rates when a look is due, both arms are heard, and
// there is something new to see. Looks that were missed are made up for by one
// look with their weights together.
func (e *evaluation) look() {
	s, ev := &e.st, e.ev
	if s.Began.IsZero() || !e.covered(e.exposed) || !e.covered(e.control) {
		return
	}
	if !s.LookedAt.IsZero() && ev.At.Sub(s.LookedAt) < e.cfg.Look {
		return
	}
	soak, spent := e.cfg.soak(ev.Stage), &s.Exposing
	n := due(lookExposing[:], soak, ev.At.Sub(s.Began))
	if !ev.Soaked.IsZero() {
		spent, n = &s.Soaking, due(lookSoaking[:], soak, ev.At.Sub(ev.Soaked))
	}
	data := e.data()
	if n <= *spent || data == s.Data {
		return
	}
	part := float64(n-*spent) / float64(looksPerStage)
	*spent, s.LookedAt, s.Data = n, ev.At, data
	members := e.compared()
	e.lookAtRates(members, part)
	e.lookAtLabels(members, part)
	e.lookAtDrift(members, part)
}

// data sums everything that a look could see change.
func (e *evaluation) data() uint64 {
	var n uint64
	for i := range e.ev.Members {
		c := &e.ev.Members[i].Post
		n += c.Windows + c.Requests + c.Right + c.Wrong
		for _, b := range c.Bins {
			n += b
		}
		for _, m := range c.Metrics {
			n += m.N
		}
	}
	return n
}

// compared are the members with what they counted in this stage.
func (e *evaluation) compared() []compared {
	out := make([]compared, 0, len(e.ev.Members))
	for i := range e.ev.Members {
		m := &e.ev.Members[i]
		c := compared{arm: m.Arm, stratum: m.Stratum, pre: &m.Pre, post: m.Post}
		at, is := slices.BinarySearchFunc(e.st.Base, m.ID, func(b Base, id fleet.MemberID) int { return strings.Compare(string(b.ID), string(id)) })
		if is && e.st.Base[at].Arm == m.Arm {
			c.post = m.Post.since(e.st.Base[at].Post)
		}
		out = append(out, c)
	}
	return out
}

// perStage is the weight of each stage: they share alpha evenly.
func (e *evaluation) perStage() float64 { return 1 / float64(max(1, len(e.cfg.Soaks))) }

func (e *evaluation) lookAtRates(members []compared, part float64) {
	for i, q := range e.measures {
		m := &e.st.Measures[i]
		m.Exposed, m.Control = means(members, q.rate)
		strata, n1, n0 := values(members, q.rate, q.ratio)
		m.N1, m.N0 = n1, n0
		up, low, ok := rankTest(strata)
		if !ok {
			continue
		}
		margin := 1 + e.cfg.Margin
		if q.ratio < 1 { // less is worse
			up, margin = low, 1/margin
		}
		weight := part * e.perStage()
		m.Fail.add(weight, up, e.cfg.Alpha*e.cfg.Gates[q.gate].Weight*q.share*weight/2)
		strata, _, _ = values(members, q.rate, q.ratio*margin)
		up, low, _ = rankTest(strata)
		if q.ratio < 1 {
			low = up
		}
		m.Pass.add(part, low, e.cfg.Beta*part/2)
	}
}

// means are the mean rates of each arm's members.
func means(members []compared, rate func(*Counters) (float64, float64)) (exposed, control float64) {
	var sum, n [3]float64
	for i := range members {
		m := &members[i]
		if events, exposure := rate(&m.post); exposure > 0 {
			sum[m.arm] += events / exposure
			n[m.arm]++
		}
	}
	return sum[fleet.Exposed] / max(1, n[fleet.Exposed]), sum[fleet.Control] / max(1, n[fleet.Control])
}

func wrongRate(c *Counters) (wrong, labelled float64) {
	return float64(c.Wrong), float64(c.Right + c.Wrong)
}

// nonInferior is how much more often wrong a release may be and still be
// called non-inferior.
const nonInferior = 1.1

// leastInterval is the number of members of each arm from which on an interval
// of their mean is believed.
const leastInterval = 5

// lookAtLabels compares the share of wrong predictions, for the report.
func (e *evaluation) lookAtLabels(members []compared, part float64) {
	s, weight := &e.st, part*e.perStage()
	strata, n1, n0 := values(members, wrongRate, 1)
	_, low, ok := rankTest(strata)
	if !ok {
		return
	}
	s.Better.add(weight, low, e.cfg.Alpha*weight/2)
	strata, _, _ = values(members, wrongRate, nonInferior)
	_, low, _ = rankTest(strata)
	s.NotWorse.add(weight, low, e.cfg.Beta*weight/2)

	c := Comparison{Relation: Undecided, Low: -1, High: 1}
	c.Exposed, c.Control = means(members, wrongRate)
	c.Exposed, c.Control = round(c.Exposed), round(c.Control)
	m1, v1, m0, v0 := changes(members)
	c.Difference = round(m1 - m0)
	if n1 >= leastInterval && n0 >= leastInterval {
		looks := float64(looksPerStage * max(1, len(e.cfg.Soaks)))
		half := quantile(1-e.cfg.Alpha/(2*looks), min(n1, n0)-1) * math.Sqrt(v1/float64(n1)+v0/float64(n0))
		c.Low, c.High = round(max(-1, m1-m0-half)), round(min(1, m1-m0+half))
	}
	switch {
	case e.wrongE() >= 1/e.cfg.Alpha || c.Low > 0:
		c.Relation = Worse
	case s.Better.e() >= 1/e.cfg.Alpha || c.High < 0:
		c.Relation = Better
	case s.NotWorse.e() >= 1/e.cfg.Beta || c.High < (nonInferior-1)*c.Control:
		c.Relation = NonInferior
	}
	s.Labelled = &c
}

func (e *evaluation) wrongE() float64 {
	for i, q := range e.measures {
		if q.share == wrongShare && e.cfg.Gates[q.gate].Gate.Gate == fleet.GateErrors {
			return e.st.Measures[i].Fail.e()
		}
	}
	return 1
}

// changes are mean and variance, in each arm, of the members' change of their
// share of wrong predictions; of the share itself when the past has no labels.
func changes(members []compared) (m1, v1, m0, v0 float64) {
	past := true
	for i := range members {
		_, now := wrongRate(&members[i].post)
		_, before := wrongRate(members[i].pre)
		past = past && (now == 0 || before > 0)
	}
	var sum, squares, n [3]float64
	for i := range members {
		m := &members[i]
		wrong, labelled := wrongRate(&m.post)
		if labelled == 0 {
			continue
		}
		d := wrong / labelled
		if past {
			before, of := wrongRate(m.pre)
			d -= before / of
		}
		sum[m.arm] += d
		squares[m.arm] += d * d
		n[m.arm]++
	}
	stat := func(a fleet.Arm) (mean, variance float64) {
		if n[a] == 0 {
			return 0, 0
		}
		mean = sum[a] / n[a]
		return mean, max(0, squares[a]-n[a]*mean*mean) / max(1, n[a]-1)
	}
	m1, v1 = stat(fleet.Exposed)
	m0, v0 = stat(fleet.Control)
	return m1, v1, m0, v0
}

// quantile of Student's t, by the first terms of its expansion about the
// normal quantile (Abramowitz & Stegun 26.7.5).
func quantile(p float64, df int) float64 {
	z, n := math.Sqrt2*math.Erfinv(2*p-1), float64(max(1, df))
	z3, z5 := z*z*z, z*z*z*z*z
	return z + (z3+z)/(4*n) + (5*z5+16*z3+3*z)/(96*n*n)
}

// lookAtDrift compares the shares of predictions in each reference bin.
func (e *evaluation) lookAtDrift(members []compared, part float64) {
	g, on := e.cfg.gate(fleet.GateDrift)
	bins := 0
	for i := range members {
		bins = max(bins, len(members[i].post.Bins))
	}
	if !on || bins < 2 {
		return
	}
	s := &e.st
	if s.Bins == nil {
		s.Bins = make([]Rank, bins)
	}
	weight := part * e.perStage()
	level := e.cfg.Alpha * g.Weight * weight / float64(len(s.Bins)) / 2
	for b := range s.Bins {
		strata, _, _ := values(members, func(c *Counters) (float64, float64) { return c.bin(b) }, 1)
		if up, low, ok := rankTest(strata); ok {
			s.Bins[b].add(weight, min(1, 2*min(up, low)), level)
		}
	}
	s.PSI = round(psi(members, len(s.Bins)))
}

func (c *Counters) bin(b int) (in, all float64) {
	for i, n := range c.Bins {
		all += float64(n)
		if i == b {
			in = float64(n)
		}
	}
	return in, all
}

// psi is the population stability index of the arms' pooled predictions: the
// size of the difference, where the tests say only how sure it is.
func psi(members []compared, bins int) float64 {
	counts := [3][]float64{fleet.Exposed: make([]float64, bins), fleet.Control: make([]float64, bins)}
	var total [3]float64
	for i := range members {
		m := &members[i]
		for b, n := range m.post.Bins {
			if b < bins && counts[m.arm] != nil {
				counts[m.arm][b] += float64(n)
				total[m.arm] += float64(n)
			}
		}
	}
	if total[fleet.Exposed] == 0 || total[fleet.Control] == 0 {
		return 0
	}
	sum := 0.0
	for b := range bins {
		p := (counts[fleet.Exposed][b] + 0.5) / (total[fleet.Exposed] + 0.5*float64(bins))
		q := (counts[fleet.Control][b] + 0.5) / (total[fleet.Control] + 0.5*float64(bins))
		sum += (p - q) * math.Log(p/q)
	}
	return sum
}
