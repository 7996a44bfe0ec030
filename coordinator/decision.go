package coordinator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/rollout"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

// decision is what a turn is about to commit, and what memory holds once it is.
type decision struct {
	store.Decision
	dir      fleet.Directive
	records  []store.Rollout      // parallel to the steps
	verdicts [][]*api.VerdictInfo // parallel to the steps
	sampled  []time.Time          // parallel to the steps
}

// draft turns the steps into one decision: what is to be remembered, what is to
// be published, and why.
func (l *loop) draft(steps []step, now time.Time) (decision, error) {
	d := decision{dir: l.dir}
	d.Samples = map[fleet.RolloutID]api.Sample{}
	for _, s := range steps {
		if err := l.record(&d, s, now); err != nil {
			return d, err
		}
	}
	models, changes := l.placements(steps)
	barred := l.inventory.Revoked(l.group, now)
	if l.dir.Sequence > 0 && !l.taken && samePlacements(models, l.dir.Models) {
		if sameRevoked(barred, l.dir.Revoked) {
			return d, nil
		}
		changes = ""
	}
	changes = describeRevoked(changes, l.dir.Revoked, barred)
	d.dir.Sequence++
	d.dir.Issued = now.Truncate(time.Second)
	d.dir.Models, d.dir.Revoked = models, barred
	body, err := encode("directive", d.dir)
	if err != nil {
		return d, err
	}
	d.Directive = &store.Directive{Group: l.group, Sequence: d.dir.Sequence, Body: body, Issued: d.dir.Issued}
	d.Notes = append(d.Notes, note(now, audit.DirectiveIssued, string(l.group), fmt.Sprintf("directive %d: %s", d.dir.Sequence, changes),
		ledger.Directive{Group: l.group, Sequence: d.dir.Sequence, Digest: fleet.DigestOf(body)}))
	return d, nil
}

// record adds one step to the decision.
func (l *loop) record(d *decision, s step, now time.Time) error {
	standings, err := s.run.watch.Changed()
	if err != nil {
		return err
	}
	rec := s.run.rec
	rec.Ended = s.status.Ended
	verdicts, err := s.verdictsAfter()
	if err != nil {
		return err
	}
	info := s.info(rec, verdicts)
	for _, f := range []struct {
		to   *json.RawMessage
		what string
		v    any
	}{{&rec.Status, "status", s.status}, {&rec.Analysis, "analysis", s.analysis}, {&rec.Verdict, "verdicts", verdicts}, {&rec.Info, "rollout", info}} {
		if *f.to, err = encode(f.what, f.v); err != nil {
			return err
		}
	}
	d.records, d.verdicts = append(d.records, rec), append(d.verdicts, verdicts)
	if !sameRecord(rec, s.run.rec) {
		d.Rollouts = append(d.Rollouts, rec)
	}
	d.Standings = append(d.Standings, standings...)
	d.Notes = append(d.Notes, s.notes(now)...)
	sampled := s.run.sampled
	if l.sampleDue(s, now) {
		d.Samples[rec.ID] = api.Sample{At: now, Exposed: info.Exposed, Control: info.Control}
		sampled = now
	}
	d.sampled = append(d.sampled, sampled)
	return nil
}

// samples a rollout's history holds at most, about.
const samples = 400

// sampleDue spaces the points of the history so that a long rollout's stay few;
// the last one is always taken.
func (l *loop) sampleDue(s step, now time.Time) bool {
	if s.status.State == rollout.Draft {
		return false
	}
	every := max(l.report, now.Sub(s.run.rec.Started)/samples)
	return s.status.State.Terminal() || now.Sub(s.run.sampled) >= every
}

func sameRecord(a, b store.Rollout) bool {
	return a.Ended.Equal(b.Ended) && bytes.Equal(a.Status, b.Status) && bytes.Equal(a.Analysis, b.Analysis) &&
		bytes.Equal(a.Verdict, b.Verdict) && bytes.Equal(a.Info, b.Info)
}

// placements are the directive's models after the steps, and in words what they
// change.
func (l *loop) placements(steps []step) ([]fleet.Placement, string) {
	after := map[*run]rollout.Status{}
	for _, r := range l.runs {
		after[r] = r.status
	}
	bases := map[fleet.ModelName]fleet.Placement{}
	for _, p := range l.dir.Models {
		bases[p.Model] = p
	}
	for _, r := range l.runs {
		if m := r.rec.Release.Model; bases[m].Model == "" {
			bases[m] = fleet.Placement{Model: m}
		}
	}
	for _, s := range steps {
		after[s.run] = s.status
		m := s.run.rec.Release.Model
		bases[m] = s.apply(bases[m])
	}
	out := []fleet.Placement{}
	why := ""
	for _, m := range slices.Sorted(maps.Keys(bases)) {
		p := bases[m]
		p.Rollout, p.WhenRevoked = l.exposure(m, after), l.whenRevoked(m)
		p = l.relist(p)
		old, _ := l.dir.Placement(m)
		if change := describe(old, p); change != "" {
			why += string(m) + ": " + change + "; "
		}
		if len(p.Releases()) > 0 || len(p.Failed) > 0 {
			out = append(out, p)
		}
	}
	if why == "" {
		why = "the fleet's first; "
	}
	return out, why[:len(why)-2]
}

// apply is the placement after the step, but for whom the rollout exposes.
func (s step) apply(p fleet.Placement) fleet.Placement {
	rel, spec := s.run.rec.Release, s.run.spec
	if spec.Retry && s.run.status.AsOf.IsZero() && !s.status.AsOf.IsZero() {
		p = p.WithoutFailed(rel) // it begins, and an operator said so
	}
	if why, failed := s.gateFailed(); failed {
		p = p.WithFailed(fleet.Failing(rel, s.run.rec.ID, why))
	}
	if s.status.State == rollout.Succeeded {
		p = p.Settled(spec.Population.Selector, rel).WithoutFailed(rel)
	}
	return p
}

// gateFailed reports whether the rollout was stopped in this step because a gate
// failed, not because a person wanted it.
func (s step) gateFailed() (why string, failed bool) {
	for _, a := range s.actions {
		if a.Kind == rollout.EnterState && a.Reason.Code == rollout.GateFailed && (a.To == rollout.RollingBack.String() || a.To == rollout.Paused.String()) {
			return a.Reason.Text, true
		}
	}
	return "", false
}

// exposure is what the directive says of a model's rollouts: the newest that has
// begun decides.
func (l *loop) exposure(m fleet.ModelName, after map[*run]rollout.Status) *fleet.Exposure {
	for i := len(l.runs) - 1; i >= 0; i-- {
		r := l.runs[i]
		if r.rec.Release.Model != m {
			continue
		}
		st := after[r]
		if x := rollout.Exposure(r.spec, st); x != nil {
			return x
		}
		if !st.AsOf.IsZero() {
			return nil // it began, and says nothing any more
		}
	}
	return nil
}

// describe says in words how a placement changes.
func describe(old, next fleet.Placement) string {
	ref := func(r *fleet.Release) string {
		if r == nil {
			return "nothing"
		}
		return r.Ref()
	}
	text := ""
	if ref(old.Stable) != ref(next.Stable) {
		text = "stable from " + ref(old.Stable) + " to " + ref(next.Stable)
	}
	if n := len(next.Overrides); n > 0 && (len(old.Overrides) != n || old.Overrides[0].Release.Ref() != next.Overrides[0].Release.Ref()) {
		text = "stable for " + next.Overrides[0].Selector.String() + " is " + next.Overrides[0].Release.Ref()
	}
	sep := ""
	if text != "" {
		sep = ", "
	}
	if change := describeFailed(old, next); change != "" {
		text, sep = text+sep+change, ", "
	}
	if again := describeRelisted(old, next); again != "" {
		text, sep = text+sep+again, ", "
	}
	if old.WhenRevoked != next.WhenRevoked {
		what := "a revoked release of it is not served"
		if next.WhenRevoked == fleet.KeepRevoked {
			what = "a revoked release of it is served on where nothing else may run"
		}
		text, sep = text+sep+what, ", "
	}
	switch o, n := old.Rollout, next.Rollout; {
	case o == nil && n != nil:
		text += sep + "rollout " + string(n.ID) + " of " + n.Release.Ref() + " begins"
	case o != nil && n == nil:
		text += sep + "rollout " + string(o.ID) + " of " + o.Release.Ref() + " no longer exposes anybody"
	case o != nil && n != nil && o.ID != n.ID:
		text += sep + "rollout " + string(n.ID) + " takes the place of " + string(o.ID)
	case o != nil && n != nil && !samePlacements([]fleet.Placement{{Rollout: o}}, []fleet.Placement{{Rollout: n}}):
		text += sep + "rollout " + string(n.ID) + " moves its bounds"
	}
	return text
}

// describeFailed says in words which releases are given up, and which may be
// tried again.
func describeFailed(old, next fleet.Placement) string {
	var parts []string
	has := func(p fleet.Placement, f fleet.FailedRelease) bool {
		return slices.ContainsFunc(p.Failed, func(o fleet.FailedRelease) bool { return o.Release == f.Release && o.Rollout == f.Rollout })
	}
	for _, f := range next.Failed {
		if !has(old, f) {
			parts = append(parts, f.Release+" failed the gates of rollout "+string(f.Rollout)+" and is quarantined where it ran")
		}
	}
	for _, f := range old.Failed {
		if !slices.ContainsFunc(next.Failed, func(o fleet.FailedRelease) bool { return o.Release == f.Release }) {
			parts = append(parts, f.Release+", which failed in rollout "+string(f.Rollout)+", is no longer held back")
		}
	}
	return strings.Join(parts, ", ")
}

// samePlacements compares what would be signed.
func samePlacements(a, b []fleet.Placement) bool {
	x, errA := json.Marshal(a)
	y, errB := json.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(x, y)
}

// accept takes a committed decision into memory and tells of it.
func (l *loop) accept(d decision, steps []step) {
	l.dir = d.dir
	if d.Directive != nil {
		l.taken = false
	}
	for i, s := range steps {
		r := s.run
		for _, a := range s.actions {
			l.tell(s, a)
		}
		if s.weighty() {
			l.log.Info("verdict", "rollout", r.rec.ID, "release", r.rec.Release.Ref(), "stage", s.verdict.Stage, "outcome", s.verdict.Outcome, "e", s.verdict.E, "reason", s.verdict.Reason)
		}
		r.rec, r.status, r.analysis, r.verdict = d.records[i], s.status, s.analysis, s.verdict
		r.verdicts, r.sampled = d.verdicts[i], d.sampled[i]
		if r.status.State.Terminal() {
			r.watch, r.roster, r.facts = nil, nil, nil
		}
	}
	l.prune()
}

// prune forgets the rollouts that ended and have no say in the directive any
// more: a later one of their model has begun.
func (l *loop) prune() {
	decided := map[fleet.ModelName]bool{}
	for i := len(l.runs) - 1; i >= 0; i-- {
		r := l.runs[i]
		m := r.rec.Release.Model
		if r.status.State.Terminal() && decided[m] {
			l.runs = slices.Delete(l.runs, i, i+1)
		}
		decided[m] = decided[m] || !r.status.AsOf.IsZero()
	}
}

// tell logs an action and gives it to those who listen.
func (l *loop) tell(s step, a rollout.Action) {
	id, ref := s.run.rec.ID, s.run.rec.Release.Ref()
	l.log.Info("rollout decided", "rollout", id, "release", ref, "step", a.Kind, "stage", a.Stage, "from", a.From, "to", a.To, "members", a.Members, "reason", a.Reason.String())
	kind := "rollout"
	if a.Kind == rollout.EnterState && a.To == rollout.RollingBack.String() {
		kind = "alarm"
	}
	l.events.Publish(api.Event{At: l.now().UTC(), Kind: kind, Subject: string(id), Text: sentence(s, a)})
}
