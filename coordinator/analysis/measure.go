package analysis

import (
	"math"

	"github.com/modelfleet/modelfleet/coordinator/analysis/evalue"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// measure is one rate that members are compared by.
type measure struct {
	name  string
	gate  int     // index into Config.Gates
	share float64 // of the gate's weight
	ratio float64 // tolerated ratio of the exposed members' rate to the control's; below 1 when less is worse
	rate  func(c *Counters) (events, exposure float64)
}

// The parts of the errors gate. Fixed, since weights that depend on the data
// would spend alpha twice.
const (
	alarmShare = 0.35 // members' first alarms: a self-alarm, or that the release failed
	errorShare = 0.35 // errored windows, by rank
	wrongShare = 0.30 // wrong predictions, by rank
)

// latencySigma is the spread of log latency by which a tolerated slowdown is
// turned into a tolerated ratio of exceedances: +10% of latency is 1.5 times as
// many requests above the 95th percentile.
const latencySigma = 0.5

var (
	quantiles   = [3]string{"p50", "p95", "p99"}
	quantileAt  = [3]float64{0.50, 0.95, 0.99}
	latencyPart = [3]float64{0.2, 0.4, 0.4}
)

// measures of the gates that are on, in a fixed order.
func (c *Config) measures() []measure {
	var all []measure
	for i, g := range c.Gates {
		tolerated := 1 + g.Tolerate.Of()
		switch g.Gate.Gate {
		case fleet.GateErrors:
			all = append(all,
				measure{"errored windows", i, errorShare, tolerated, func(c *Counters) (float64, float64) { return float64(c.Errored), float64(c.Windows) }},
				measure{"wrong predictions", i, wrongShare, tolerated, func(c *Counters) (float64, float64) { return float64(c.Wrong), float64(c.Right + c.Wrong) }})
		case fleet.GateLatency:
			all = append(all, latencyMeasures(i, g)...)
		case fleet.GateMetric:
			if g.Direction == fleet.Down {
				tolerated = 1 / tolerated
			}
			all = append(all, measure{g.Name, i, 1, tolerated, func(c *Counters) (float64, float64) { return c.metric(g.Name) }})
		}
	}
	return all
}

func latencyMeasures(i int, g GateConfig) []measure {
	sum := 0.0
	for q, name := range quantiles {
		if contains(g.At, name) {
			sum += latencyPart[q]
		}
	}
	var all []measure
	for q, name := range quantiles {
		if contains(g.At, name) {
			all = append(all, measure{name, i, latencyPart[q] / sum, exceedances(quantileAt[q], g.Tolerate.Of()),
				func(c *Counters) (float64, float64) { return float64(c.Slow[q]), float64(c.Requests) }})
		}
	}
	return all
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// exceedances is how many times as many requests exceed the q-quantile when
// each takes 1+slower times as long.
func exceedances(q, slower float64) float64 {
	z := math.Sqrt2*math.Erfinv(2*q-1) - math.Log(1+slower)/latencySigma
	return math.Erfc(z/math.Sqrt2) / 2 / (1 - q)
}

func (c *Counters) metric(name string) (sum, n float64) {
	for _, m := range c.Metrics {
		if m.Name == name {
			return m.Sum, float64(m.N)
		}
	}
	return 0, 0
}

// compared is one member as the rank tests see it: what it counted in this
// stage, and before.
type compared struct {
	arm     fleet.Arm
	stratum string
	pre     *Counters
	post    Counters
}

// values are each arm's values of a measure: the root of a member's rate less
// the root of its own past rate, which takes off what makes members differ.
// Exposed rates are divided by the ratio, so that a release exactly as bad as
// that is exchangeable with the control. n1 and n0 count the members with data.
func values(members []compared, rate func(c *Counters) (float64, float64), ratio float64) (strata []evalue.Arms, n1, n0 int) {
	withPast, n := [3]int{}, [3]int{}
	for i := range members {
		m := &members[i]
		if _, exposure := rate(&m.post); exposure > 0 {
			n[m.arm]++
			if _, before := rate(m.pre); before > 0 {
				withPast[m.arm]++
			}
		}
	}
	// A past counts when most members of both arms have one; then those without
	// are left out, for a member without a past would stand out by that alone.
	usePast := withPast[fleet.Exposed]*2 > n[fleet.Exposed] && withPast[fleet.Control]*2 > n[fleet.Control]
	var names []string
	for i := range members {
		m := &members[i]
		events, exposure := rate(&m.post)
		if exposure <= 0 {
			continue
		}
		r := max(0, events/exposure)
		if m.arm == fleet.Exposed {
			r /= ratio
		}
		v := math.Sqrt(r)
		if usePast {
			before, span := rate(m.pre)
			if span <= 0 {
				continue
			}
			v -= math.Sqrt(max(0, before/span))
		}
		at := stratumOf(&names, &strata, m.stratum)
		if m.arm == fleet.Exposed {
			strata[at].Exposed = append(strata[at].Exposed, v)
			n1++
		} else {
			strata[at].Control = append(strata[at].Control, v)
			n0++
		}
	}
	return pool(strata), n1, n0
}

func stratumOf(names *[]string, strata *[]evalue.Arms, name string) int {
	for i, n := range *names {
		if n == name {
			return i
		}
	}
	*names = append(*names, name)
	*strata = append(*strata, evalue.Arms{})
	return len(*names) - 1
}

// pool puts the strata that lack an arm together into one.
func pool(strata []evalue.Arms) []evalue.Arms {
	var kept []evalue.Arms
	var rest evalue.Arms
	for _, s := range strata {
		if len(s.Exposed) > 0 && len(s.Control) > 0 {
			kept = append(kept, s)
			continue
		}
		rest.Exposed = append(rest.Exposed, s.Exposed...)
		rest.Control = append(rest.Control, s.Control...)
	}
	return append(kept, rest)
}

// since returns what c counted since base; base itself is dropped when it is
// not behind c.
func (c Counters) since(base Counters) Counters {
	if base.Windows > c.Windows || base.Errored > c.Errored || base.Requests > c.Requests || base.Errors > c.Errors ||
		base.Right > c.Right || base.Wrong > c.Wrong || base.Slow[0] > c.Slow[0] || base.Slow[1] > c.Slow[1] || base.Slow[2] > c.Slow[2] {
		return c
	}
	d := c
	d.Windows -= base.Windows
	d.Errored -= base.Errored
	d.Requests -= base.Requests
	d.Errors -= base.Errors
	d.Right -= base.Right
	d.Wrong -= base.Wrong
	for i := range d.Slow {
		d.Slow[i] -= base.Slow[i]
	}
	d.Bins, d.Metrics = make([]uint64, len(c.Bins)), make([]Metric, len(c.Metrics))
	copy(d.Bins, c.Bins)
	copy(d.Metrics, c.Metrics)
	for i := range d.Bins {
		if i < len(base.Bins) && base.Bins[i] <= d.Bins[i] {
			d.Bins[i] -= base.Bins[i]
		}
	}
	for i := range d.Metrics {
		if sum, n := base.metric(d.Metrics[i].Name); uint64(n) <= d.Metrics[i].N {
			d.Metrics[i].Sum -= sum
			d.Metrics[i].N -= uint64(n)
		}
	}
	return d
}
