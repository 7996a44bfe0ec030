package analysis

import (
	"math"
	"slices"
	"strings"

	"github.com/modelfleet/modelfleet/coordinator/analysis/evalue"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// look compares the members' rates when a look is due, enough members are
// heard, and there is something new to see. What it waits for is the same in
// both arms: a look that waited for the exposed members would be made at times
// that depend on how they do.
func (e *evaluation) look() {
	s, ev := &e.st, e.ev
	if s.Began.IsZero() || !e.heard() {
		return
	}
	if !s.LookedAt.IsZero() && ev.At.Sub(s.LookedAt) < e.cfg.Look {
		return
	}
	soak, until := e.cfg.soak(ev.Stage), ev.At
	if !ev.Soaked.IsZero() {
		until = ev.Soaked
	}
	spend, exposing := due(exposingPlan(), soak, until.Sub(s.Began))
	soaking := 0
	if !ev.Soaked.IsZero() {
		var weight float64
		weight, soaking = due(soakingPlan(), soak, ev.At.Sub(ev.Soaked))
		spend += weight
	}
	data := e.data()
	if exposing+soaking <= s.Exposing+s.Soaking || data == s.Data {
		return
	}
	s.Exposing, s.Soaking, s.LookedAt, s.Data = exposing, soaking, ev.At, data
	members := e.compared()
	e.lookAtRates(members, spend)
	e.lookAtLabels(members, spend)
	e.lookAtDrift(members, spend)
}

// heard reports whether enough of all members are heard to compare the arms.
func (e *evaluation) heard() bool {
	all := Arm{Members: e.exposed.Members + e.control.Members, Seen: e.exposed.Seen + e.control.Seen}
	return e.covered(all)
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

// compared are the members with what they counted in this stage. A member on
// which the release failed counts as if all its windows were errored: it tries
// no more, and would otherwise be missing, or look well.
func (e *evaluation) compared() []compared {
	out := make([]compared, 0, len(e.ev.Members))
	for i := range e.ev.Members {
		m := &e.ev.Members[i]
		c := compared{arm: m.Arm, stratum: m.Stratum, pre: &m.Pre, post: m.Post}
		at, is := slices.BinarySearchFunc(e.st.Base, m.ID, func(b Base, id fleet.MemberID) int { return strings.Compare(string(b.ID), string(id)) })
		if is && e.st.Base[at].Arm == m.Arm {
			c.post = m.Post.since(e.st.Base[at].Post)
		}
		if m.Failed {
			c.post.Windows = max(1, c.post.Windows)
			c.post.Errored = c.post.Windows
		}
		out = append(out, c)
	}
	return out
}

// lookAtRates brings every measure that has data to where the plan's weights
// have been spent up to spend, a part of the stage's.
func (e *evaluation) lookAtRates(members []compared, spend float64) {
	for i, q := range e.measures {
		m := &e.st.Measures[i]
		m.Exposed, m.Control = means(members, q.rate)
		strata, n1, n0 := values(members, q.rate, q.ratio)
		m.N1, m.N0 = n1, n0
		test, ok := evalue.RankTest(strata)
		part := spend - m.Pass.Spent
		if !ok || part <= 0 {
			continue
		}
		margin := 1 + e.cfg.Margin
		if q.ratio < 1 { // less is worse
			test, margin = test.Swap(), 1/margin
		}
		m.P = test.Up
		weight := part * e.cfg.share(e.st.Stage)
		m.Fail.Add(weight, test.Up, e.cfg.Alpha*e.cfg.Gates[q.gate].Weight*q.share*weight/2, test.LeastUp)
		strata, _, _ = values(members, q.rate, q.ratio*margin)
		test, _ = evalue.RankTest(strata)
		if q.ratio < 1 {
			test = test.Swap()
		}
		m.Pass.Add(part, test.Low, e.cfg.Beta*part/2, test.LeastLow)
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
func (e *evaluation) lookAtLabels(members []compared, spend float64) {
	s := &e.st
	strata, n1, n0 := values(members, wrongRate, 1)
	test, ok := evalue.RankTest(strata)
	if !ok || spend <= s.Compared {
		return
	}
	weight := (spend - s.Compared) * e.cfg.share(s.Stage)
	s.Compared = spend
	s.Better.Add(weight, test.Low, e.cfg.Alpha*weight/2, test.LeastLow)
	strata, _, _ = values(members, wrongRate, nonInferior)
	test, _ = evalue.RankTest(strata)
	s.NotWorse.Add(weight, test.Low, e.cfg.Beta*weight/2, test.LeastLow)

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
	case s.Better.E() >= 1/e.cfg.Alpha || c.High < 0:
		c.Relation = Better
	case s.NotWorse.E() >= 1/e.cfg.Beta || c.High < (nonInferior-1)*c.Control:
		c.Relation = NonInferior
	}
	s.Labelled = &c
}

func (e *evaluation) wrongE() float64 {
	for i, q := range e.measures {
		if q.share == wrongShare && e.cfg.Gates[q.gate].Gate.Gate == fleet.GateErrors {
			return e.st.Measures[i].Fail.E()
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
func (e *evaluation) lookAtDrift(members []compared, spend float64) {
	g, on := e.cfg.gate(fleet.GateDrift)
	bins := 0
	for i := range members {
		bins = max(bins, len(members[i].post.Bins))
	}
	s := &e.st
	if !on || bins < 2 || spend <= s.Binned {
		return
	}
	if s.Bins == nil {
		s.Bins = make([]evalue.Looks, bins)
	}
	weight := (spend - s.Binned) * e.cfg.share(s.Stage)
	s.Binned = spend
	level := e.cfg.Alpha * g.Weight * weight / float64(len(s.Bins)) / 2
	for b := range s.Bins {
		strata, _, _ := values(members, func(c *Counters) (float64, float64) { return c.bin(b) }, 1)
		if test, ok := evalue.RankTest(strata); ok {
			p, least := test.Two()
			s.Bins[b].Add(weight, p, level, least)
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
