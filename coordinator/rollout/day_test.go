package rollout_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/rollout"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"pgregory.net/rapid"
)

var midnight = time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)

func digest(s string) fleet.Digest { return fleet.DigestOf([]byte(s)) }

func release(version string) fleet.Release {
	return fleet.Release{
		Team: "vision", Model: "detector", Version: fleet.Version(version),
		Variants: []fleet.Variant{{Name: fleet.DefaultVariant, Root: digest(version)}},
	}
}

// member is a modelled member: it does what the directive tells it, if it hears it.
type member struct {
	facts fleet.Facts
	seen  rollout.Observation
}

// day is a random fleet on a random day under the engine.
type day struct {
	spec    fleet.Spec
	st      rollout.Status
	members []member
	roster  *rollout.Roster
	now     time.Time
	seq     uint64
	script  []rollout.Command // every command said, those Decide has not taken last
	verdict *rollout.Verdict
	newer   *rollout.Peer
	calm    bool // members answer and do as told, nobody commands
	mute    bool // members never answer again
}

// tick is one call of Decide, as the laws see it.
type tick struct {
	d       *day
	before  rollout.Status
	after   rollout.Status
	view    rollout.View
	actions []rollout.Action
}

func drawSpec(t *rapid.T) fleet.Spec {
	n := rapid.IntRange(1, 4).Draw(t, "stages")
	spec := fleet.Spec{
		Alpha: 1, StageDeadline: fleet.Duration(4 * time.Hour), MemberSoak: fleet.Duration(time.Minute),
		OnInconclusive: rapid.SampledFrom([]fleet.Inconclusive{fleet.HoldInconclusive, fleet.ContinueInconclusive, fleet.AbortInconclusive}).Draw(t, "onInconclusive"),
		OnFail:         rapid.SampledFrom([]fleet.OnFail{fleet.RollbackOnFail, fleet.RollbackOnFail, fleet.PauseOnFail}).Draw(t, "onFail"),
		ReturnRate:     rapid.SampledFrom([]int{0, 0, 1, 3}).Draw(t, "returnRate"),
	}
	percent := 0
	for i := range n {
		st := fleet.Stage{
			Name: fmt.Sprint("s", i), Soak: fleet.Duration(rapid.IntRange(0, 60).Draw(t, "soak") * int(time.Minute)),
			Approval: fleet.Approval(rapid.SampledFrom([]int{0, 0, 0, 1, 2}).Draw(t, "approval")),
		}
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			st.Selector, _ = fleet.ParseSelector("ring=lab")
		case 1:
			st.Count = rapid.IntRange(1, 30).Draw(t, "count")
		default:
			percent = rapid.IntRange(max(1, percent), 100).Draw(t, "percent")
			st.Percent = fleet.Percent(percent)
		}
		if rapid.Bool().Draw(t, "control") {
			st.Control = 5
		}
		if rapid.Bool().Draw(t, "budget") {
			st.Budget.InProgress = rapid.IntRange(1, 5).Draw(t, "inProgress")
		}
		if rapid.Bool().Draw(t, "perLabel") {
			st.Budget.PerLabel = map[string]int{"site": rapid.IntRange(1, 2).Draw(t, "perSite")}
		}
		spec.Stages = append(spec.Stages, st)
	}
	last := &spec.Stages[n-1] // a rollout ends with everyone
	last.Selector, last.Count, last.Percent = fleet.Selector{}, 0, 100
	return spec
}

func newDay(t *rapid.T) *day {
	d := &day{spec: drawSpec(t), now: midnight.Add(time.Duration(rapid.IntRange(0, 999).Draw(t, "ms")) * time.Millisecond)}
	for range rapid.IntRange(0, 40).Draw(t, "members") {
		d.enrol(t, midnight.Add(-time.Hour))
	}
	var err error
	if d.st, err = rollout.New("r1", release("2.0"), d.spec, rollout.Approval{By: "ann"}, d.now); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *day) enrol(t *rapid.T, at time.Time) {
	labels := fleet.Labels{"site": rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "site")}
	if rapid.IntRange(0, 9).Draw(t, "lab") == 0 {
		labels["ring"] = "lab"
	}
	m := member{facts: fleet.Facts{ID: fleet.MemberID(fmt.Sprintf("m%03d", len(d.members))), Labels: labels, Enrolled: at.UTC().Truncate(time.Second)}}
	m.seen = rollout.Observation{Reachable: true, Running: digest("1.0")}
	d.members = append(d.members, m)
	d.roster = nil
}

func (d *day) facts() []fleet.Facts {
	all := make([]fleet.Facts, len(d.members))
	for i, m := range d.members {
		all[i] = m.facts
	}
	return all
}

func (d *day) view() rollout.View {
	if d.roster == nil {
		d.roster = rollout.NewRoster(d.st.ID, d.st.Release, d.spec, d.facts())
	}
	v := rollout.View{Roster: d.roster, Observed: make([]rollout.Observation, d.roster.Len()), Verdict: d.verdict, Commands: d.script, Newer: d.newer}
	for _, m := range d.members {
		if i, ok := d.roster.Index(m.facts.ID); ok {
			v.Observed[i] = m.seen
		}
	}
	return v
}

// told is what the directive tells a member: the very code members run.
func (d *day) told(f fleet.Facts) fleet.Assignment {
	stable := release("1.0")
	if d.st.State == rollout.Succeeded {
		stable = d.st.Release
	}
	return fleet.Placement{Model: "detector", Stable: &stable, Rollout: rollout.Exposure(d.spec, d.st)}.Assign(f)
}

// live lets one member hear the directive and do one thing.
func (m *member) live(t *rapid.T, d *day) {
	if !d.calm && rapid.IntRange(0, 9).Draw(t, "flip") == 0 {
		m.seen.Reachable = !m.seen.Reachable
	}
	if d.mute {
		m.seen.Reachable = false
	} else if d.calm {
		m.seen.Reachable = true
	}
	if !m.seen.Reachable {
		return
	}
	a, o := d.told(m.facts), &m.seen
	want := a.Release.Variants[0].Root
	if o.Rollout != a.Rollout {
		o.Rollout, o.Phase, o.Failure = a.Rollout, fleet.Idle, fleet.NoFailure
	}
	switch {
	case o.Running == want && o.Phase != fleet.Soaking && o.Phase != fleet.Activating:
		if a.Arm == fleet.Exposed && o.Phase != fleet.Healthy {
			o.Phase = fleet.Healthy
		}
	case a.Arm != fleet.Exposed:
		o.Running, o.Phase = want, fleet.Idle
	case o.Phase == fleet.Quarantined || o.Quarantined:
		o.Phase = fleet.Quarantined
	case o.Phase == fleet.Activating:
		o.Running, o.Phase = want, fleet.Soaking
	case o.Phase == fleet.Soaking:
		o.Phase = fleet.Healthy
	default:
		m.attempt(t, d)
	}
}

// attempt is one step of a member towards the release, which may go wrong.
func (m *member) attempt(t *rapid.T, d *day) {
	o := &m.seen
	luck := 9
	if !d.calm {
		luck = rapid.IntRange(0, 9).Draw(t, "luck")
	}
	switch luck {
	case 0:
		o.Phase, o.Failure = fleet.Failed, fleet.TransportFailure
	case 1:
		o.Phase, o.Failure, o.Quarantined = fleet.Quarantined, fleet.ReleaseFailure, true
	case 2:
		o.Phase, o.Failure = fleet.Failed, fleet.MemberFailure
	case 3, 4, 5:
		o.Phase, o.Failure = fleet.Downloading, fleet.NoFailure
	default:
		o.Phase, o.Failure = fleet.Activating, fleet.NoFailure
	}
}

func (d *day) command(t *rapid.T) {
	d.seq++
	d.script = append(d.script, rollout.Command{
		Seq: d.seq, At: d.now,
		Kind: rapid.SampledFrom([]rollout.CommandKind{
			rollout.CommandApprove, rollout.CommandApprove, rollout.CommandApprove, rollout.CommandPause, rollout.CommandResume,
			rollout.CommandResume, rollout.CommandAbort, rollout.CommandRollback, rollout.CommandSkip, rollout.CommandDisown, "dance",
		}).Draw(t, "command"),
		As:   rapid.SampledFrom([][]string{nil, {"bob"}, {"bob", "cyd"}, {"dee"}, {"dee", "ann"}}).Draw(t, "as"),
		By:   rapid.SampledFrom([]string{"ann", "bob", "cyd", ""}).Draw(t, "by"),
		Hold: rapid.Bool().Draw(t, "hold"),
	})
}

// pass lets time pass, members live and operators speak, then decides.
func (d *day) pass(t *rapid.T) tick {
	d.now = d.now.Add(time.Duration(rapid.SampledFrom([]int{1, 30, 120, 900, 3600}).Draw(t, "seconds")) * time.Second)
	for i := range d.members {
		d.members[i].live(t, d)
	}
	if !d.calm {
		if rapid.IntRange(0, 5).Draw(t, "join") == 0 {
			d.enrol(t, d.now)
		}
		if rapid.IntRange(0, 7).Draw(t, "speak") == 0 {
			d.command(t)
		}
		if rapid.IntRange(0, 99).Draw(t, "newer") == 0 {
			d.newer = &rollout.Peer{ID: "r2", Created: midnight.Add(time.Duration(rapid.IntRange(-1, 1).Draw(t, "created")) * time.Hour)}
		}
		outcome := rapid.SampledFrom([]rollout.Outcome{rollout.Pass, rollout.Pass, rollout.Pass, rollout.Inconclusive, rollout.Inconclusive, rollout.Inconclusive, rollout.Fail}).Draw(t, "outcome")
		if outcome == rollout.Fail && rapid.IntRange(0, 4).Draw(t, "mercy") > 0 {
			outcome = rollout.Pass
		}
		d.verdict = &rollout.Verdict{Outcome: outcome, Stage: max(0, d.st.Stage-rapid.IntRange(0, 1).Draw(t, "old")), At: d.now, E: float64(rapid.IntRange(0, 2).Draw(t, "e")), Reason: "drawn",
			Suspicious: outcome == rollout.Inconclusive && rapid.Bool().Draw(t, "suspicious")}
	}
	return d.decide()
}

func (d *day) decide() tick {
	k := tick{d: d, before: d.st, view: d.view()}
	k.after, k.actions = rollout.Decide(d.spec, d.st, k.view, d.now)
	d.st = k.after
	return k
}

// everyTick drives random days and shows each decision to a law.
func everyTick(t *testing.T, law func(t *rapid.T, k tick)) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := newDay(t)
		for range rapid.IntRange(5, 40).Draw(t, "ticks") {
			law(t, d.pass(t))
		}
	})
}

// exposed lists the members that the directive exposes, as they compute it.
func exposed(spec fleet.Spec, st rollout.Status, facts []fleet.Facts) []fleet.MemberID {
	var ids []fleet.MemberID
	p := fleet.Placement{Model: "detector", Rollout: rollout.Exposure(spec, st)}
	for _, f := range facts {
		if p.Assign(f).Arm == fleet.Exposed {
			ids = append(ids, f.ID)
		}
	}
	slices.Sort(ids)
	return ids
}
