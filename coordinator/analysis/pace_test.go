package analysis_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/analysis"
	"github.com/modelfleet/modelfleet/coordinator/rollout"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

const second = fleet.Duration(time.Second)

// quickSpec is a policy of seconds, as one tries modelfleet out with.
func quickSpec(on fleet.Inconclusive) fleet.Spec {
	lab, err := fleet.ParseSelector("ring=lab")
	if err != nil {
		panic(err)
	}
	return fleet.Spec{
		Stages: []fleet.Stage{
			{Name: "lab", Selector: lab, Soak: 4 * second}, {Name: "ten", Percent: 10, Soak: 4 * second},
			{Name: "half", Percent: 50, Soak: 4 * second, Budget: fleet.Budget{InProgress: 16}}, {Name: "all", Percent: 100, Soak: 4 * second, Control: 5},
		},
		Gates: []fleet.Gate{{Gate: fleet.GateFatal}, {Gate: fleet.GateErrors, Tolerate: 50}, {Gate: fleet.GateBreaker, Failures: 3, Of: 5}},
		Alpha: 1, BurnIn: second, MemberSoak: 3 * second, StageDeadline: 15 * second, OnInconclusive: on, OnFail: fleet.RollbackOnFail,
	}
}

// quick is a fleet of 48 devices, 4 of them in the lab, that report and close a
// window every second, under both engines at a tick of 250 ms.
type quick struct {
	spec    fleet.Spec
	config  analysis.Config
	st      rollout.Status
	gates   analysis.State
	verdict analysis.Verdict
	roster  *rollout.Roster
	release fleet.Release
	now     time.Time
	r       *rand.Rand
	devices []*quickDevice
	passed  map[string]time.Duration // from the end of a stage's soak to its passing
}

// quickDevice is one of them; now is how it does, sent what it last reported.
type quickDevice struct {
	facts     fleet.Facts
	rates     [2]quickRates // under the stable release and the new one
	crashes   bool          // the new release brings it down
	told      time.Time
	on        bool
	now, sent analysis.Member
	sentOn    bool
	heard     bool
	test      selfTest
}

// quickRates are of a window's being errored, and of a prediction's being wrong.
type quickRates struct{ errored, wrong float64 }

func newQuick(t *testing.T, seed uint64, on fleet.Inconclusive, stable, next quickRates, crashing int) *quick {
	q := &quick{spec: quickSpec(on), now: noon, r: rand.New(rand.NewPCG(seed, 11)), passed: map[string]time.Duration{}}
	q.release = fleet.Release{Team: "vision", Model: "detector", Version: "3.0.0", Variants: []fleet.Variant{{Name: fleet.DefaultVariant, Root: fleet.DigestOf([]byte("3"))}}}
	q.config = analysis.NewConfig(q.spec, analysis.Timing{Report: time.Second, Look: time.Second})
	var facts []fleet.Facts
	for i := range 48 {
		d := &quickDevice{rates: [2]quickRates{stable, next}}
		ring := "field"
		if i%12 == 5 {
			ring, d.crashes = "lab", i/12 < crashing
		}
		d.facts = fleet.Facts{
			ID: fleet.MemberID(fmt.Sprintf("d%02d", i)), Enrolled: noon.Add(-time.Hour),
			Labels: fleet.Labels{"ring": ring, fleet.LabelClass: []string{"jetson", "rpi"}[i/4%2]},
		}
		d.now = analysis.Member{ID: d.facts.ID, Stratum: d.facts.Class()}
		for range 60 {
			d.window(q.r, &d.now.Pre, d.rates[0])
		}
		d.test.lambda = max(0.02, float64(d.now.Pre.Errored)/60)
		facts = append(facts, d.facts)
		q.devices = append(q.devices, d)
	}
	q.roster = rollout.NewRoster("r1", q.release, q.spec, facts)
	var err error
	if q.st, err = rollout.New("r1", q.release, q.spec, rollout.Approval{By: "ann"}, q.now); err != nil {
		t.Fatal(err)
	}
	return q
}

// window is a second of 40 labelled requests.
func (d *quickDevice) window(r *rand.Rand, c *analysis.Counters, rates quickRates) (errored bool) {
	c.Windows++
	c.Requests += 40
	if errored = r.Float64() < rates.errored; errored {
		c.Errored++
		c.Errors += 12
	}
	wrong := binomial(r, 40, rates.wrong)
	c.Wrong += wrong
	c.Right += 40 - wrong
	return errored
}

// live lets a device do as it is told: it switches a little later, counts after
// its burn-in, crashes, alarms, settles, and reports once a second.
func (d *quickDevice) live(q *quick, at int) {
	m := &d.now
	x := rollout.Exposure(q.spec, q.st)
	exposed := x != nil && x.Covers(d.facts)
	if x != nil && m.Arm == fleet.NoArm {
		m.Arm, m.Since = fleet.Control, q.now
	}
	switch {
	case exposed && d.told.IsZero():
		d.told = q.now.Add(time.Duration(q.r.IntN(1000)) * time.Millisecond)
	case exposed && m.Arm == fleet.Control && !q.now.Before(d.told):
		m.Arm, m.Since, m.Post, m.Alarm, d.on = fleet.Exposed, q.now, analysis.Counters{}, false, true
		d.test.ll = [3]float64{}
	case d.on && d.crashes && q.now.Sub(m.Since) >= 2*time.Second:
		m.Failed, m.FailedAt, m.Settled, d.on = true, q.now, q.now, false
	case d.on && m.Settled.IsZero() && q.now.Sub(m.Since) >= q.spec.MemberSoak.D():
		m.Settled = q.now
	}
	if at%4 != int(d.facts.ID[2])%4 {
		return
	}
	burnt := !m.Since.IsZero() && q.now.Sub(m.Since) >= q.spec.BurnIn.D()+time.Second
	if rates := d.rates[count(d.on)]; burnt && !m.Failed {
		m.Alarm = d.test.window(d.window(q.r, &m.Post, rates)) || m.Alarm
	}
	d.sent, d.sentOn, d.heard = *m, d.on, true
	d.sent.Seen = q.now
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (q *quick) view() rollout.View {
	v := rollout.View{Roster: q.roster, Observed: make([]rollout.Observation, q.roster.Len())}
	for _, d := range q.devices {
		i, _ := q.roster.Index(d.facts.ID)
		o := rollout.Observation{Reachable: d.heard, Rollout: q.st.ID}
		if d.sentOn {
			o.Running, o.Phase = q.release.Variants[0].Root, fleet.Soaking
			if !d.sent.Settled.IsZero() {
				o.Phase = fleet.Healthy
			}
		}
		if d.sent.Failed {
			o.Phase, o.Failure = fleet.Quarantined, fleet.ReleaseFailure
		}
		v.Observed[i] = o
	}
	return v
}

// tick is a quarter of a second.
func (q *quick) tick(at int) {
	q.now = q.now.Add(250 * time.Millisecond)
	for _, d := range q.devices {
		d.live(q, at)
	}
	v := q.view()
	if !q.st.AsOf.IsZero() && (q.st.State == rollout.Running || q.st.State == rollout.Paused) {
		ev := analysis.Evidence{Stage: q.st.Stage, At: q.now, Told: rollout.Count(q.st, v).Told}
		if s := q.st.Stages[q.st.Stage]; s.State == rollout.Soaking || s.State == rollout.Deciding {
			ev.Soaked = s.Soaked
		}
		for _, d := range q.devices {
			if d.heard && d.sent.Arm != fleet.NoArm {
				ev.Members = append(ev.Members, d.sent)
			}
		}
		q.gates, q.verdict = analysis.Evaluate(q.config, q.gates, ev)
		v.Verdict = &rollout.Verdict{Outcome: rollout.Outcome(q.verdict.Outcome), Stage: q.verdict.Stage, At: q.verdict.At, E: q.verdict.E, Reason: q.verdict.Reason, Suspicious: q.verdict.Suspicious}
	}
	before := q.st
	st, actions := rollout.Decide(q.spec, q.st, v, q.now)
	for _, a := range actions {
		if s := before.Stages[a.Stage]; a.To == rollout.Passed.String() && !s.Released {
			q.passed[s.Name] = q.now.Sub(s.Soaked.Add(4 * time.Second))
		}
	}
	q.st = st
}

// run plays until the rollout ends or the time is over.
func (q *quick) run(d time.Duration) {
	for at := 0; q.now.Sub(noon) < d && !q.st.State.Terminal() && !q.back(); at++ {
		q.tick(at)
	}
}

// back reports whether the release was taken back.
func (q *quick) back() bool {
	return q.st.State == rollout.RollingBack || q.st.State == rollout.RolledBack
}

// burnt is when every exposed device was through its burn-in.
func (q *quick) burnt() time.Time {
	var last time.Time
	for _, d := range q.devices {
		if at := d.now.Since.Add(q.spec.BurnIn.D()); d.now.Arm == fleet.Exposed && at.After(last) {
			last = at
		}
	}
	return last
}

// TestABadReleaseIsCaughtInSeconds: four of 48 devices try a release that errs
// in every window and is three times as often wrong; on one it crashes. The
// first stage must fail a few seconds after the burn-in.
func TestABadReleaseIsCaughtInSeconds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		next     quickRates
		crashing int
		within   time.Duration
	}{
		{"errors, wrong answers and a crash loop", quickRates{1, 0.26}, 1, 5 * time.Second},
		{"errors and wrong answers", quickRates{1, 0.26}, 0, 5 * time.Second},
		{"wrong answers", quickRates{0, 0.26}, 0, 15 * time.Second},
		{"crash loops on all", quickRates{0, 0.076}, 4, 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var slowest, sum time.Duration
			for seed := range uint64(20) {
				q := newQuick(t, seed, fleet.ContinueInconclusive, quickRates{0, 0.076}, c.next, c.crashing)
				q.run(90 * time.Second)
				took := q.st.Since.Sub(q.burnt())
				slowest = max(slowest, took)
				if sum += took; !q.back() || q.st.Stage != 0 || took > c.within {
					t.Errorf("seed %d: %v in stage %d, %v after the burn-in: %s%s", seed, q.st.State, q.st.Stage, took, q.verdict.Reason, gates(q.verdict))
				}
			}
			t.Logf("%v after the burn-in, slowest %v", sum/20, slowest)
		})
	}
}

// TestAGoodReleaseGoesOnAtOnce: a healthy release passes each stage within two
// report periods of its soak's end, and none is rolled back.
func TestAGoodReleaseGoesOnAtOnce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		rates quickRates
	}{{"no errors", quickRates{0, 0.076}}, {"some errors", quickRates{0.05, 0.076}}, {"many errors", quickRates{0.5, 0.2}}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			held, runs := 0, runsOr(20)
			var slowest time.Duration
			for seed := range uint64(runs) {
				q := newQuick(t, seed, fleet.HoldInconclusive, c.rates, c.rates, 0)
				q.run(3 * time.Minute)
				if q.back() {
					t.Errorf("seed %d: rolled back: %s", seed, q.verdict.Reason)
				}
				if q.st.State != rollout.Succeeded {
					held++
					t.Logf("seed %d: %v in stage %d: %s", seed, q.st.State, q.st.Stage, q.verdict.Reason)
					continue
				}
				for name, after := range q.passed {
					slowest = max(slowest, after)
					if after > 2*time.Second {
						t.Errorf("seed %d: stage %s passed %v after its soak", seed, name, after)
					}
				}
			}
			t.Logf("slowest: %v after the soak; %d of %d held as suspicious", slowest, held, runs)
			if held > max(1, runs/20) {
				t.Errorf("%d of %d healthy releases were held", held, runs)
			}
		})
	}
}
