package analysis

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// round keeps six significant digits: what a verdict says must not depend on
// how a processor fuses its multiplications.
func round(x float64) float64 {
	r, err := strconv.ParseFloat(strconv.FormatFloat(x, 'g', 6, 64), 64)
	if err != nil {
		return x
	}
	return r
}

// tiny reports whether the fleet is too small for statistics: with so few
// members even the most extreme outcome could be chance.
func (e *evaluation) tiny() bool { return e.members() < e.cfg.MinMembers }

func (e *evaluation) members() int {
	return max(e.exposed.Members, e.ev.Told) + e.control.Members
}

// compares reports whether there are two arms and enough members.
func (e *evaluation) compares() bool { return !e.tiny() && e.control.Members > 0 }

func (e *evaluation) verdict() Verdict {
	threshold := 1 / e.cfg.Alpha
	v := Verdict{
		Outcome: Pass, Stage: e.ev.Stage, At: e.ev.At, Threshold: round(threshold),
		Exposed: e.exposed, Control: e.control, Labelled: e.st.Labelled,
	}
	total, worst := 0.0, -1
	for i, g := range e.cfg.Gates {
		gate := e.judge(i, g)
		total += g.Weight * gate.E
		if worst < 0 || g.Weight*gate.E > e.cfg.Gates[worst].Weight*v.Gates[worst].E {
			worst = i
		}
		gate.E, gate.PassE, gate.Weight = round(gate.E), round(gate.PassE), round(g.Weight)
		v.Gates = append(v.Gates, gate)
	}
	v.E = round(total)
	switch {
	case len(v.Gates) == 0:
		v.Reason = "all gates are off"
	case total >= threshold && e.st.Failed == "":
		v.Gates[worst].Outcome = Fail
		v.Gates[worst].Suspicious, v.Gates[worst].Reason = false, strings.TrimSuffix(v.Gates[worst].Reason, suspicion)
		e.st.Failed = fmt.Sprintf("%s: %s; evidence %.4g of %.4g", v.Gates[worst].Gate, v.Gates[worst].Reason, v.E, v.Threshold)
	}
	for _, g := range v.Gates {
		if g.Outcome == Fail && e.st.Failed == "" {
			e.st.Failed = fmt.Sprintf("%s: %s", g.Gate, g.Reason)
		}
	}
	e.conclude(&v)
	return v
}

// conclude makes one outcome of the gates'.
func (e *evaluation) conclude(v *Verdict) {
	waits := slices.IndexFunc(v.Gates, func(g Gate) bool { return g.Suspicious })
	if v.Suspicious = waits >= 0 && e.st.Failed == ""; !v.Suspicious {
		waits = slices.IndexFunc(v.Gates, func(g Gate) bool { return g.Outcome == Inconclusive })
	}
	switch {
	case e.st.Failed != "":
		v.Outcome, v.Reason = Fail, e.st.Failed
	case waits >= 0:
		v.Outcome, v.Reason = Inconclusive, fmt.Sprintf("%s: %s", v.Gates[waits].Gate, v.Gates[waits].Reason)
	case len(v.Gates) > 0:
		v.Reason = fmt.Sprintf("%d gates passed with %d exposed members against %d; evidence against it %.3g of %.3g", len(v.Gates), e.exposed.Members, e.control.Members, v.E, v.Threshold)
	}
	if e.tiny() {
		if v.Reason != "" {
			v.Reason += "; "
		}
		v.Reason += fmt.Sprintf("not enough members for a fleet verdict (%d of %d): fatal events, the breaker and self-alarms decide", e.members(), e.cfg.MinMembers)
	}
}

// judge is one gate's part.
func (e *evaluation) judge(i int, c GateConfig) Gate {
	g := Gate{Gate: c.Gate.Gate, Name: c.Name, E: 1}
	switch c.Gate.Gate {
	case fleet.GateFatal:
		e.judgeFatal(&g)
	case fleet.GateBreaker:
		e.judgeBreaker(&g, c)
	case fleet.GateDrift:
		e.judgeDrift(&g, c)
	case fleet.GateErrors:
		e.judgeRates(&g, i, c)
		e.judgeAlarms(&g)
	default:
		e.judgeRates(&g, i, c)
	}
	return g
}

// floor reports whether the stage's exposure suffices to pass a gate that has
// nothing against the release, and says how far it is.
func (e *evaluation) floor(times int) (bool, string) {
	need := e.cfg.floorTime(e.ev.Stage)
	members := min(e.cfg.FloorMembers, max(1, e.exposed.Members)) * times
	switch {
	case e.exposed.Members == 0:
		return false, "no exposed member has tried the release yet"
	case e.ev.Soaked.IsZero():
		return false, "the stage still exposes"
	case !e.covered(e.exposed):
		return false, fmt.Sprintf("only %d of %d exposed members are heard", e.exposed.Seen, e.exposed.Members)
	case e.control.Members > 0 && !e.covered(e.control):
		return false, fmt.Sprintf("only %d of %d control members are heard", e.control.Seen, e.control.Members)
	case e.ev.At.Sub(e.ev.Soaked) < need || e.watched < time.Duration(members)*need:
		return false, fmt.Sprintf("watched for %s of %s, summed over members", e.watched.Round(time.Second), (time.Duration(members) * need).Round(time.Second))
	}
	return true, fmt.Sprintf("watched for %s, summed over members", e.watched.Round(time.Second))
}

// suspicion ends the reason of a gate that has something against the release,
// but not enough.
const suspicion = ": suspicious"

func (g *Gate) suspect(what string) {
	g.Outcome, g.Suspicious, g.Reason = Inconclusive, true, what+suspicion
}

// suspicious is the evidence from which on exposure alone passes nothing.
func (e *evaluation) suspicious(E float64) bool { return E >= math.Sqrt(1/e.cfg.Alpha) }

func (e *evaluation) judgeFatal(g *Gate) {
	g.E, g.PassE = e.st.Fatal.E(), e.st.FatalPass.E()
	enough, how := e.floor(1 + 2*e.st.Events)
	what := fmt.Sprintf("%d of %d exposed members failed and %d fell silent, %d and %d of %d in the control",
		e.exposed.Failed, e.exposed.Members, e.exposed.Silent, e.control.Failed, e.control.Silent, e.control.Members)
	switch {
	case e.suspicious(g.E):
		g.suspect(what)
	case enough, g.PassE >= 1/e.cfg.Beta && e.covered(e.exposed):
		g.Outcome, g.Reason = Pass, what+"; "+how
	default:
		g.Outcome, g.Reason = Inconclusive, what+"; "+how
	}
}

// judgeBreaker is absolute: so many of the first so many. When fewer are told,
// all of them (but two at least); in a tiny fleet, half of those that settled.
func (e *evaluation) judgeBreaker(g *Gate, c GateConfig) {
	var settled []*Member
	for i := range e.ev.Members {
		m := &e.ev.Members[i]
		if m.Arm == fleet.Exposed && (!m.Settled.IsZero() || m.Failed) {
			settled = append(settled, m)
		}
	}
	when := func(m *Member) time.Time {
		if m.Settled.IsZero() {
			return m.FailedAt
		}
		return m.Settled
	}
	slices.SortFunc(settled, func(a, b *Member) int {
		if d := when(a).Compare(when(b)); d != 0 {
			return d
		}
		return cmp.Compare(a.ID, b.ID)
	})
	first, failed := settled[:min(len(settled), c.Of)], 0
	for _, m := range first {
		failed += count(m.Failed)
	}
	limit := c.Failures
	if e.ev.Told > 0 {
		limit = min(limit, max(2, e.ev.Told))
	}
	if e.tiny() {
		limit = min(limit, max(1, (len(first)+1)/2))
	}
	g.Outcome, g.Reason = Pass, fmt.Sprintf("the release failed on %d of the first %d members", failed, len(first))
	if failed >= limit {
		g.Outcome = Fail
	}
}

// judgeAlarms lets self-alarms decide where there is nothing to compare with.
func (e *evaluation) judgeAlarms(g *Gate) {
	if e.compares() {
		return
	}
	if n := e.exposed.Alarms; n > 0 && n*2 >= e.exposed.Members && (n > 1 || e.tiny()) {
		g.Outcome, g.Reason = Fail, fmt.Sprintf("%d of %d exposed members raised their self-alarm", n, e.exposed.Members)
	}
}

// judgeRates is a gate on the members' rates: the weighted mean of its measures.
func (e *evaluation) judgeRates(g *Gate, gate int, c GateConfig) {
	g.E, g.PassE = 0, math.Inf(1)
	if c.Gate.Gate == fleet.GateErrors {
		g.E = alarmShare * e.st.Alarm.E()
	}
	var parts []string
	n1, n0, partial, least := 0, 0, false, 1.0
	for i, q := range e.measures {
		if q.gate != gate {
			continue
		}
		m := &e.st.Measures[i]
		g.E += q.share * m.Fail.E()
		if m.N1+m.N0 == 0 {
			continue
		}
		n1, n0 = max(n1, m.N1), max(n0, m.N0)
		partial = partial || float64(m.N1)*float64(e.control.Members) < e.cfg.Coverage*float64(m.N0)*float64(e.exposed.Members)
		g.PassE, least = min(g.PassE, m.Pass.Sum), min(least, m.P)
		parts = append(parts, fmt.Sprintf("%s %s against %s", q.name, percent(m.Exposed), percent(m.Control)))
	}
	if len(parts) == 0 {
		g.PassE = 0
	}
	if c.Gate.Gate == fleet.GateErrors && e.exposed.Alarms > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d self-alarms", e.exposed.Alarms, e.exposed.Members))
	}
	what := strings.Join(parts, ", ")
	e.settle(g, c, what, n1, n0, partial)
	if g.Outcome == Pass && (least <= doubt || c.Gate.Gate == fleet.GateErrors && e.wronger(c)) {
		g.suspect(what)
	}
}

// doubt is the p-value at the last look from which on a gate passes nothing,
// for it may be the first sign. It spends no alpha: it rolls nothing back, and a
// healthy release leaves it behind as its members serve on.
const doubt = 0.005

// wronger reports whether the whole interval of the labelled predictions'
// comparison lies above what is tolerated: nothing passes then because it was
// watched for long enough.
func (e *evaluation) wronger(c GateConfig) bool {
	l := e.st.Labelled
	return l != nil && l.Low > c.Tolerate.Of()*l.Control
}

// percent is a share for people; a metric that is none is shown so all the same.
func percent(x float64) string { return fmt.Sprintf("%.3g%%", 100*x) }

func (e *evaluation) judgeDrift(g *Gate, c GateConfig) {
	sum, n1, n0 := 0.0, 0, 0
	for i := range e.st.Bins {
		sum += e.st.Bins[i].E()
	}
	if len(e.st.Bins) > 0 {
		g.E = sum / float64(len(e.st.Bins))
	}
	if e.st.PSI <= c.Floor {
		g.E = min(g.E, 1)
	}
	for i := range e.ev.Members {
		m := &e.ev.Members[i]
		if len(m.Post.Bins) > 0 {
			n1 += count(m.Arm == fleet.Exposed)
			n0 += count(m.Arm == fleet.Control)
		}
	}
	partial := float64(n1)*float64(e.control.Members) < e.cfg.Coverage*float64(n0)*float64(e.exposed.Members)
	e.settle(g, c, fmt.Sprintf("PSI %.3g, floor %.3g", e.st.PSI, c.Floor), n1, n0, partial)
}

// settle says what a comparing gate's evidence amounts to.
func (e *evaluation) settle(g *Gate, c GateConfig, what string, n1, n0 int, partial bool) {
	enough, how := e.floor(1)
	g.Outcome = Inconclusive
	switch {
	case e.suspicious(g.E):
		g.suspect(what)
	case e.exposed.Members > 0 && e.control.Members == 0:
		g.Reason = "no control is left to compare with; " + how
		if enough {
			g.Outcome = Pass
		}
	case n1+n0 == 0 && !c.Required && enough:
		g.Outcome, g.Reason = Pass, "no member reports it"
	case n1+n0 == 0:
		g.Reason = "no member reports it yet"
		if !enough {
			g.Reason += "; " + how
		}
	case n1 == 0 || partial:
		g.Reason = fmt.Sprintf("%s: %d exposed members report it, and %d of the control", what, n1, n0)
	case enough && (e.st.Soaking > 0 || e.tiny()), g.PassE >= 1/e.cfg.Beta && e.covered(e.exposed):
		g.Outcome, g.Reason = Pass, what+"; "+how
	case enough:
		g.Reason = what + "; no look was made yet"
	default:
		g.Reason = what + "; " + how
	}
}
