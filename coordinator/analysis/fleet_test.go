package analysis_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/analysis"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// world is a modelled fleet whose members differ, and what the release does to
// those that run it.
type world struct {
	members, exposed int
	errorRate        float64 // of a request, mean over members
	shape            float64 // of the gamma law of members' rates; 0: all alike
	burst            float64 // chance that an errored window is followed by another; 0: independent
	wrongRate        float64 // of a labelled prediction
	worse            float64 // the release multiplies error rates
	wronger          float64 // and wrong predictions
	slower           float64 // and requests beyond the latency edges
	broken           float64 // share of exposed members that are broken: 30% more errors
	fatal            float64 // chance that an exposed member fails fatally when it activates
	fatalBase        float64 // chance, in each member and look, of a fatal failure for other reasons
	drift            float64 // moves this share of predictions to the first bin
}

const (
	requests  = 10 // a window
	labels    = 5  // a window
	preLength = 180
)

type unit struct {
	rate, wrong, slow float64
	bad               bool
	test              selfTest
}

// selfTest is a member's own e-process against its past.
type selfTest struct {
	ll     [3]float64
	lambda float64
}

func (s *selfTest) window(errored bool) bool {
	sum := 0.0
	for j, r := range [3]float64{3, 10, 30} {
		if errored {
			s.ll[j] += math.Log(r)
		}
		s.ll[j] -= s.lambda * (r - 1)
		sum += math.Exp(s.ll[j])
	}
	return sum/3 >= 1000
}

func gamma(r *rand.Rand, shape float64) float64 {
	if shape <= 0 {
		return 1
	}
	boost := 1.0
	d := shape
	if d < 1 {
		boost, d = math.Pow(r.Float64(), 1/d), d+1
	}
	d -= 1. / 3
	c := 1 / math.Sqrt(9*d)
	for {
		x := r.NormFloat64()
		v := math.Pow(1+c*x, 3)
		if v > 0 && math.Log(r.Float64()) < x*x/2+d-d*v+d*math.Log(v) {
			return boost * d * v / shape
		}
	}
}

func binomial(r *rand.Rand, n int, p float64) uint64 {
	k := 0
	for range n {
		if r.Float64() < p {
			k++
		}
	}
	return uint64(k)
}

// count adds one window of a member to c.
func (w *world) count(r *rand.Rand, u *unit, c *analysis.Counters, exposed bool, errored *bool) {
	rate, wrong, slow := u.rate, u.wrong, u.slow
	if exposed {
		rate, wrong, slow = rate*w.worse, wrong*w.wronger, slow*w.slower
		if u.bad {
			rate += 0.3
		}
	}
	p := 1 - math.Pow(1-min(rate, 1), requests)
	if w.burst > 0 { // the same share of errored windows, in runs
		if p = p * (1 - w.burst); *errored {
			p = w.burst
		}
	}
	*errored = r.Float64() < p
	c.Windows++
	c.Requests += requests
	if *errored {
		c.Errored++
		c.Errors++
	}
	bad := binomial(r, labels, min(wrong, 1))
	c.Wrong += bad
	c.Right += labels - bad
	c.Slow[1] += binomial(r, requests, min(slow, 1))
	c.Slow[2] += binomial(r, requests, min(slow/5, 1))
	for range 5 {
		b := r.IntN(len(c.Bins))
		if exposed && r.Float64() < w.drift {
			b = 0
		}
		c.Bins[b]++
	}
}

// run plays one stage of so many looks, and returns the last verdict and the
// look at which the release failed, or 0.
func (w *world) run(seed uint64, cfg analysis.Config, looks int) (analysis.Verdict, int) {
	if w.worse == 0 {
		w.worse = 1
	}
	if w.wronger == 0 {
		w.wronger = 1
	}
	if w.slower == 0 {
		w.slower = 1
	}
	r := rand.New(rand.NewPCG(seed, 7))
	units := make([]unit, w.members)
	ev := analysis.Evidence{Told: w.exposed, Soaked: noon, Members: make([]analysis.Member, w.members)}
	lots := r.Perm(w.members)
	last := make([]bool, w.members)
	for i := range units {
		u, m := &units[i], &ev.Members[i]
		u.rate = w.errorRate * gamma(r, w.shape)
		u.wrong = min(0.9, w.wrongRate*gamma(r, 2*w.shape))
		u.slow = min(0.5, 0.05*gamma(r, 2*w.shape))
		u.bad = r.Float64() < w.broken
		m.ID, m.Since, m.Arm = fleet.MemberID(fmt.Sprintf("m%05d", i)), noon, fleet.Control
		if lots[i] < w.exposed {
			m.Arm, m.Settled = fleet.Exposed, noon.Add(time.Minute)
		}
		m.Pre.Bins, m.Post.Bins = make([]uint64, 10), make([]uint64, 10)
		for range preLength {
			w.count(r, u, &m.Pre, false, &last[i])
		}
		u.test.lambda = max(float64(m.Pre.Errored)/preLength, 0.02)
	}
	var st analysis.State
	var v analysis.Verdict
	caught := 0
	for look := 1; look <= looks; look++ {
		ev.At = noon.Add(time.Duration(look) * 10 * time.Second)
		for i := range units {
			m := &ev.Members[i]
			m.Seen = ev.At
			exposed := m.Arm == fleet.Exposed
			w.count(r, &units[i], &m.Post, exposed, &last[i])
			m.Alarm = units[i].test.window(last[i]) || m.Alarm
			if (look == 1 && exposed && r.Float64() < w.fatal) || r.Float64() < w.fatalBase {
				if !m.Failed {
					m.Failed, m.FailedAt = true, ev.At
				}
			}
		}
		st, v = analysis.Evaluate(cfg, st, ev)
		if v.Outcome == analysis.Fail {
			return v, look
		}
	}
	return v, caught
}
