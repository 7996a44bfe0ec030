package coordinator

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/analysis"
	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/desk"
	"github.com/modelfleet/modelfleet/coordinator/intake"
	"github.com/modelfleet/modelfleet/coordinator/rollout"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// run is one rollout in the loop's memory.
type run struct {
	rec      store.Rollout
	spec     fleet.Spec
	status   rollout.Status
	config   analysis.Config
	analysis analysis.State
	verdict  *analysis.Verdict
	watch    *intake.Watch
	verdicts []*api.VerdictInfo // the newest of each stage, by index

	roster  *rollout.Roster
	plan    []int         // of the roster: members that each stage will expose
	facts   []fleet.Facts // of the roster's members
	version uint64        // of the inventory that the roster is made of
	gone    int           // functions left out of it since they fell silent
	sampled time.Time
}

// add puts a rollout into memory.
func (l *loop) add(ctx context.Context, rec store.Rollout) error {
	r := &run{rec: rec}
	bad := func(err error) error { return fault.New(fault.Internal, "read rollout", string(rec.ID), err) }
	if err := json.Unmarshal(rec.Spec, &r.spec); err != nil {
		return bad(err)
	}
	if err := json.Unmarshal(rec.Status, &r.status); err != nil {
		return bad(err)
	}
	if len(rec.Analysis) > 0 {
		if err := json.Unmarshal(rec.Analysis, &r.analysis); err != nil {
			return bad(err)
		}
		r.verdict = r.analysis.Last
	}
	if len(rec.Verdict) > 0 {
		if err := json.Unmarshal(rec.Verdict, &r.verdicts); err != nil {
			return bad(err)
		}
	}
	r.config = analysis.NewConfig(r.spec, analysis.Timing{Report: l.report, Look: max(l.tick, l.report)})
	if !r.status.State.Terminal() {
		standings, err := l.store.Standings(ctx, rec.ID)
		if err != nil {
			return err
		}
		r.watch, err = l.intake.Watch(intake.WatchOptions{
			ID: rec.ID, Release: rec.Release, Stable: l.bases(rec.Release.Model), BurnIn: r.spec.BurnIn.D(), Started: rec.Started, Standings: standings, Edges: rec.Edges, Retry: r.spec.Retry,
			Metrics: slices.ContainsFunc(r.spec.Gates, func(g fleet.Gate) bool { return g.Gate == fleet.GateMetric && !g.Off }),
		})
		if err != nil {
			return err
		}
		r.rec.Edges = r.watch.Edges() // kept with the first decision
	}
	l.runs = append(l.runs, r)
	return nil
}

// bases are the releases that members outside a rollout of the model run.
func (l *loop) bases(m fleet.ModelName) []fleet.Release {
	p, _ := l.dir.Placement(m)
	p.Rollout = nil
	return p.Releases()
}

// step is what one turn did to one rollout.
type step struct {
	run      *run
	status   rollout.Status
	analysis analysis.State
	verdict  *analysis.Verdict
	evidence *analysis.Evidence // when it was evaluated in this turn
	actions  []rollout.Action
	tally    rollout.Tally
}

// decide lets every live rollout look at what is known.
func (l *loop) decide(ctx context.Context, now time.Time) ([]step, error) {
	var steps []step
	for i, r := range l.runs {
		if r.status.State.Terminal() {
			continue
		}
		l.muster(r, now)
		s := step{run: r, analysis: r.analysis, verdict: r.verdict}
		view := rollout.View{Roster: r.roster, Observed: r.watch.Observe(r.roster, now)}
		if judged(r.status) {
			ev := r.watch.Evidence(r.facts, now)
			ev.Stage, ev.Told, ev.Soaked = r.status.Stage, rollout.Count(r.status, view).Told, soaked(r.status)
			st, v := analysis.Evaluate(r.config, r.analysis, ev)
			s.analysis, s.verdict, s.evidence = st, &v, &ev
		}
		view.Verdict = verdictFor(s.verdict)
		cmds, err := l.store.Commands(ctx, r.rec.ID, r.status.Commands)
		if err != nil {
			return nil, err
		}
		for _, c := range cmds {
			view.Commands = append(view.Commands, rollout.Command{
				Seq: c.Seq, Kind: rollout.CommandKind(c.Command), By: c.By, As: c.As, At: c.At, Reason: c.Reason, Hold: c.Hold,
			})
		}
		view.Older, view.Newer = l.peers(i)
		view.Delisted = l.revoked(r.rec.Release)
		if r.status.State == rollout.RollingBack {
			l.strand(r, view.Observed)
		}
		s.status, s.actions = rollout.Decide(r.spec, r.status, view, now)
		s.tally = rollout.Count(s.status, view)
		steps = append(steps, s)
	}
	return steps, nil
}

// judged reports whether there is something for the gates to judge.
func judged(st rollout.Status) bool {
	switch st.State {
	case rollout.Running, rollout.Paused, rollout.AwaitingApproval:
		return !st.AsOf.IsZero()
	}
	return false
}

// soaked is when the soak of the stage that is judged began; zero while it has
// not, and then nothing passes.
func soaked(st rollout.Status) time.Time {
	switch s := st.Stages[st.Stage]; s.State {
	case rollout.Soaking, rollout.Deciding:
		return s.Soaked
	}
	return time.Time{}
}

// peers are the other live rollouts of the same model next to the i-th.
func (l *loop) peers(i int) (older, newer *rollout.Peer) {
	r := l.runs[i]
	for j, o := range l.runs {
		if j == i || o.rec.Release.Model != r.rec.Release.Model || o.status.State.Terminal() {
			continue
		}
		p := &rollout.Peer{ID: o.status.ID, Created: o.status.Created}
		if j < i {
			older = p
		} else {
			newer = p
		}
	}
	return older, newer
}

// muster brings the roster up to date with who is enrolled.
func (l *loop) muster(r *run, now time.Time) {
	version, gone := l.inventory.Version(), 0
	var facts []fleet.Facts
	for _, m := range l.inventory.Members() {
		if m.Revoked || m.Locked != "" || m.Facts.Group != l.group {
			continue
		}
		if m.Facts.Kind == fleet.Function {
			rep, heard := l.intake.Newest(m.KeyID)
			if !heard || l.intake.Gone(rep, now) {
				gone++
				continue
			}
		}
		facts = append(facts, m.Facts)
	}
	if r.roster != nil && version == r.version && gone == r.gone {
		return
	}
	r.roster = rollout.NewRoster(r.rec.ID, r.rec.Release, r.spec, facts)
	r.plan = rollout.Plan(r.spec, r.roster)
	r.version, r.gone = version, gone
	r.facts = r.facts[:0]
	for _, f := range facts {
		if _, ok := r.roster.Index(f.ID); ok {
			r.facts = append(r.facts, f)
		}
	}
}

func verdictFor(v *analysis.Verdict) *rollout.Verdict {
	if v == nil {
		return nil
	}
	return &rollout.Verdict{Outcome: rollout.Outcome(v.Outcome), Suspicious: v.Suspicious, Stage: v.Stage, At: v.At, E: v.E, Reason: v.Reason}
}

// notes are the audit entries of a step: the verdict first, with everything
// needed to reach it again, then what was done about it.
func (s step) notes(now time.Time) []audit.Note {
	var out []audit.Note
	id := string(s.run.rec.ID)
	if s.weighty() {
		out = append(out, note(now, audit.RolloutVerdict, id, s.verdict.Reason, map[string]any{
			"verdict": s.verdict, "config": s.run.config, "before": s.run.analysis, "evidence": s.evidence,
		}))
	}
	for _, a := range s.actions {
		out = append(out, note(now, audit.RolloutDecided, id, s.decided(a), a))
	}
	return out
}

// decided says in a line what an action does, and why: of a stage and of the rollout
// the why may be the same.
func (s step) decided(a rollout.Action) string {
	why := a.Reason.String()
	switch stages := s.run.spec.Stages; {
	case a.Kind == rollout.EnterState:
		return a.To + ": " + why
	case a.Kind == rollout.EnterStage && a.Stage < len(stages):
		return "stage " + stages[a.Stage].Name + " " + a.To + ": " + why
	}
	return why
}

// weighty reports whether the verdict is to be kept for good: it changed, or
// something was done in its light.
func (s step) weighty() bool {
	if s.evidence == nil {
		return false
	}
	old := s.run.verdict
	if old == nil || old.Outcome != s.verdict.Outcome || old.Stage != s.verdict.Stage {
		return true
	}
	return slices.ContainsFunc(s.actions, func(a rollout.Action) bool {
		return a.Kind == rollout.EnterState || a.To == rollout.Passed.String() || a.To == rollout.Failed.String()
	})
}

// verdictsAfter are the newest verdicts of each stage, after the step.
func (s step) verdictsAfter() ([]*api.VerdictInfo, error) {
	out := slices.Clone(s.run.verdicts)
	if s.evidence == nil {
		return out, nil
	}
	for len(out) <= s.verdict.Stage {
		out = append(out, nil)
	}
	v := verdictInfo(*s.verdict)
	if old := out[s.verdict.Stage]; old != nil {
		v.Evidence = old.Evidence
	}
	if s.weighty() {
		var err error
		if v.Evidence, err = encode("evidence", s.evidence); err != nil {
			return nil, err
		}
	}
	out[s.verdict.Stage] = &v
	return out, nil
}

func verdictInfo(v analysis.Verdict) api.VerdictInfo {
	out := api.VerdictInfo{Outcome: string(v.Outcome), Reason: v.Reason, At: v.At, Gates: []api.GateInfo{}}
	if v.Labelled != nil && v.Labelled.Relation != analysis.Undecided {
		out.Reason += "; labelled predictions: " + string(v.Labelled.Relation)
	}
	for _, g := range v.Gates {
		name := string(g.Gate)
		if g.Name != "" {
			name += " " + g.Name
		}
		out.Gates = append(out.Gates, api.GateInfo{
			Gate: name, Outcome: string(g.Outcome), Reason: g.Reason, E: finite(g.E), PassE: finite(g.PassE), Threshold: finite(v.Threshold),
		})
	}
	return out
}

// finite keeps JSON able to say it.
func finite(x float64) float64 {
	switch {
	case math.IsNaN(x):
		return 0
	case math.IsInf(x, 0):
		return math.Copysign(math.MaxFloat64, x)
	}
	return x
}

// info is what can be shown of the rollout after the step.
func (s step) info(rec store.Rollout, verdicts []*api.VerdictInfo) api.RolloutInfo {
	info := desk.Info(rec, s.run.spec, s.status)
	info.Population, info.EverExposed, info.StillOn = s.tally.Population, s.run.watch.EverRan(), s.tally.On
	exposed := max(s.tally.Told, info.EverExposed) // those that went back still belong to their arm
	info.Exposed = s.run.watch.Arm(fleet.Exposed, exposed)
	info.Control = s.run.watch.Arm(fleet.Control, s.tally.Population-exposed)
	for i := range info.Stages {
		if i < len(verdicts) {
			info.Stages[i].Verdict = verdicts[i]
		}
		if st := &info.Stages[i]; st.State == rollout.Waiting.String() && i < len(s.run.plan) {
			st.Target = s.run.plan[i]
		}
	}
	return info
}
