package desk

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/intake"
	"github.com/modelfleet/modelfleet/coordinator/rollout"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// StartRollout accepts a rollout; the loop begins it. A dry run refuses what it would
// refuse, and answers what would begin.
func (d *Desk) StartRollout(ctx context.Context, by api.OperatorToken, r api.RolloutRequest) (api.RolloutInfo, error) {
	const op = "start rollout"
	if err := Allow(by, api.Operator, op); err != nil {
		return api.RolloutInfo{}, err
	}
	if r.Group == "" {
		r.Group = fleet.DefaultGroup
	}
	spec, err := specOf(r)
	if err != nil {
		return api.RolloutInfo{}, err
	}
	rel, err := d.admitted(ctx, op, string(r.Model)+"@"+string(r.Version))
	if err != nil {
		return api.RolloutInfo{}, err
	}
	if err := allowRollout(by, rel.Release, spec, op); err != nil {
		return api.RolloutInfo{}, err
	}
	dir, err := d.directive(ctx, r.Group)
	if err != nil {
		return api.RolloutInfo{}, err
	}
	from := ""
	if p, ok := dir.Placement(r.Model); ok && p.Stable != nil {
		from = p.Stable.Ref()
		if from == rel.Ref() && len(p.Overrides) == 0 {
			return api.RolloutInfo{}, fault.Newf(fault.Conflict, op, from, "it is the stable release already").
				WithHint("there is nothing to roll out; `modelfleet rollout list` shows how it came")
		}
	}
	if p, ok := dir.Placement(r.Model); ok && len(p.Settled(spec.Population.Selector, rel.Release).Overrides) > fleet.MaxOverrides {
		return api.RolloutInfo{}, fault.Newf(fault.Exhausted, op, string(r.Model), "%d parts of the fleet have a stable release of their own already", len(p.Overrides)).
			WithHint("roll out to everyone, or to one of those parts: `modelfleet verify --pack` names them")
	}
	if err := notAgain(dir, rel.Release, spec); err != nil {
		return api.RolloutInfo{}, err
	}
	if err := d.someone(rel.Release, spec, r.Group); err != nil {
		return api.RolloutInfo{}, err
	}
	rec, err := d.newRollout(ctx, by, r, rel.Release, spec)
	if err != nil {
		return api.RolloutInfo{}, err
	}
	rec.From = from
	info := Info(rec, spec, rollout.Status{})
	d.planned(&info, spec)
	if r.DryRun {
		info.ID = ""
		return info, nil
	}
	if rec.Info, err = json.Marshal(info); err != nil {
		return api.RolloutInfo{}, fault.New(fault.Internal, op, string(rec.ID), err)
	}
	note := audit.Note{
		At: rec.Started, Actor: by.Name, Action: audit.RolloutStarted, Subject: string(rec.ID), Reason: asked(rec.Release.Ref(), r.Reason),
		Detail: map[string]any{"release": rec.Release, "from": from, "spec": rec.Spec},
	}
	if err := d.o.Store.AddRollout(ctx, rec, note); err != nil {
		return api.RolloutInfo{}, err
	}
	d.mu.Lock()
	d.took(rec)
	d.mu.Unlock()
	d.o.Logger.Info("rollout started", "rollout", rec.ID, "release", rec.Release.Ref(), "by", by.Name)
	d.o.Events.Publish(api.Event{At: rec.Started, Kind: "rollout", Subject: string(rec.ID), Text: by.Name + " started the rollout of " + rec.Release.Ref()})
	d.o.Wake()
	return info, nil
}

// asked is what an operator asked for, and why, in a line of the audit log.
func asked(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}

// notAgain refuses a release that the gates of an earlier rollout failed, unless
// the spec says that it is to be tried again.
func notAgain(dir fleet.Directive, rel fleet.Release, spec fleet.Spec) error {
	p, _ := dir.Placement(rel.Model)
	f, failed := p.FailedAs(rel)
	if !failed || spec.Retry {
		return nil
	}
	what := "the gates of rollout " + string(f.Rollout) + " failed it"
	if f.Release != rel.Ref() {
		what = "it shares files with " + f.Release + ", which the gates of rollout " + string(f.Rollout) + " failed"
	}
	return fault.Newf(fault.Conflict, "start rollout", rel.Ref(), "%s: %s", what, f.Reason).
		WithHint("publish a better version; to try this one again, also where it is in quarantine, start it with --retry")
}

func specOf(r api.RolloutRequest) (fleet.Spec, error) {
	var spec fleet.Spec
	var err error
	switch {
	case len(r.Spec) > 0 && r.Preset != "":
		return spec, fault.Newf(fault.Invalid, "start rollout", "", "both a spec and a preset are given")
	case len(r.Spec) > 0:
		if spec, err = fleet.ParseSpec(r.Spec); err == nil {
			err = checkMetrics(spec)
		}
	default:
		spec, err = fleet.Preset(cmp.Or(r.Preset, "standard"))
	}
	spec.Retry = spec.Retry || r.Retry
	return spec, err
}

// checkMetrics refuses gates on metrics that no member reports: such a gate
// would never have evidence.
func checkMetrics(spec fleet.Spec) error {
	for _, g := range spec.Gates {
		if g.Gate == fleet.GateMetric && !slices.Contains(Metrics(), g.Name) {
			return fault.Newf(fault.Invalid, "check rollout spec", "gate metric "+g.Name, "no member reports it").
				WithHint("members report %s", strings.Join(Metrics(), ", "))
		}
	}
	return nil
}

// Metrics are the names that a metric gate may watch: shares of requests, or of
// labelled predictions.
func Metrics() []string { return []string{intake.MetricErrorRate, intake.MetricWrongRate} }

// admitted finds a release that may be rolled out.
func (d *Desk) admitted(ctx context.Context, op, ref string) (store.Release, error) {
	rs, err := d.o.Store.Releases(ctx)
	if err != nil {
		return store.Release{}, err
	}
	i := slices.IndexFunc(rs, func(r store.Release) bool { return r.Ref() == ref })
	if i < 0 {
		return store.Release{}, fault.Newf(fault.NotFound, op, ref, "no such release was admitted").
			WithHint("publish it, or admit it with `modelfleet releases admit TEAM`; `modelfleet releases list` shows what there is")
	}
	return rs[i], d.mayRun(op, rs[i])
}

// someone refuses a rollout that no member can take part in.
func (d *Desk) someone(rel fleet.Release, spec fleet.Spec, g fleet.Group) error {
	matching := 0
	for _, m := range d.o.Inventory.Members() {
		if m.Revoked || m.Facts.Group != g || !spec.Population.Selector.Matches(m.Facts) {
			continue
		}
		matching++
		if _, ok := rel.For(m.Facts); ok {
			return nil
		}
	}
	if matching == 0 {
		return fault.Newf(fault.Invalid, "start rollout", rel.Ref(), "no member is in its population %q", spec.Population.Selector.String()).
			WithHint("enrol members first, or widen the selector")
	}
	return fault.Newf(fault.Invalid, "start rollout", rel.Ref(), "none of its variants is for any of the %d members in its population", matching).
		WithHint("publish a variant for their class")
}

// planned adds how many members each stage will expose, as the fleet is now.
func (d *Desk) planned(info *api.RolloutInfo, spec fleet.Spec) {
	var facts []fleet.Facts
	for _, m := range d.o.Inventory.Members() {
		if m.Revoked || m.Locked != "" || m.Facts.Group != info.Group {
			continue
		}
		if m.Facts.Kind == fleet.Function {
			if rep, heard := d.o.Intake.Newest(m.KeyID); !heard || d.o.Intake.Gone(rep, d.o.Now()) {
				continue
			}
		}
		facts = append(facts, m.Facts)
	}
	roster := rollout.NewRoster(info.ID, info.Release, spec, facts)
	info.Population = roster.Len()
	for i, n := range rollout.Plan(spec, roster) {
		info.Stages[i].Target = n
	}
}

func (d *Desk) newRollout(ctx context.Context, by api.OperatorToken, r api.RolloutRequest, rel fleet.Release, spec fleet.Spec) (store.Rollout, error) {
	all, err := d.o.Store.Rollouts(ctx, false)
	if err != nil {
		return store.Rollout{}, err
	}
	// A number for people, and chance so that a store made anew never gives an id
	// that members remember from an old one.
	id := fleet.RolloutID(fmt.Sprintf("r%d-%s", len(all)+1, strings.ToLower(rand.Text()[:4])))
	now := d.o.Now().UTC().Truncate(time.Millisecond)
	st, err := rollout.New(id, rel, spec, rollout.Approval{By: by.Name, As: by.As}, now)
	if err != nil {
		return store.Rollout{}, err
	}
	rec := store.Rollout{ID: id, Group: r.Group, Release: rel, Author: by.Name, AuthorAs: by.As, Started: now}
	if rec.Status, err = json.Marshal(st); err != nil {
		return rec, fault.New(fault.Internal, "start rollout", string(id), err)
	}
	if rec.Spec, err = json.Marshal(spec); err != nil {
		return rec, fault.New(fault.Internal, "start rollout", string(id), err)
	}
	return rec, nil
}

// Command tells a rollout something. It is written down; the loop acts on it.
func (d *Desk) Command(ctx context.Context, by api.OperatorToken, id fleet.RolloutID, cmd api.Command, req api.CommandRequest) error {
	op := string(cmd) + " rollout"
	need := api.Operator
	switch cmd {
	case api.Pause, api.Resume, api.Abort, api.Rollback:
	case api.Approve, api.Skip:
		need = api.Approver
	default:
		return fault.Newf(fault.Invalid, "command rollout", string(cmd), "there is no such command").
			WithHint("there are pause, resume, abort, rollback, approve and skip")
	}
	d.commanding.RLock()
	defer d.commanding.RUnlock()
	by, err := d.still(ctx, by, op)
	if err != nil {
		return err
	}
	if err := Allow(by, need, op); err != nil {
		return err
	}
	rec, err := d.o.Store.Rollout(ctx, id)
	if err != nil {
		return err
	}
	spec, err := fleet.ParseSpec(rec.Spec)
	if err != nil {
		return fault.New(fault.Internal, op, string(id), err)
	}
	if err := allowRollout(by, rec.Release, spec, op); err != nil {
		return err
	}
	switch {
	case !rec.Ended.IsZero():
		return fault.Newf(fault.Conflict, op, string(id), "it ended at %s", rec.Ended.Format(time.RFC3339)).
			WithHint("start a new rollout, also to go back to an older release")
	case need == api.Approver && speaksFor(by, rec):
		return fault.Newf(fault.Denied, op, string(id), "%s started it, and others than who did have to approve", rec.Author).
			WithHint("have another approver do it: not one whose token the author made")
	}
	now := d.o.Now().UTC()
	c := store.Command{Rollout: id, Command: cmd, By: by.Name, As: by.As, Reason: req.Reason, Hold: req.Hold, At: now}
	note := audit.Note{At: now, Actor: by.Name, Action: audit.RolloutCommanded, Subject: string(id), Reason: asked(string(cmd), req.Reason), Detail: map[string]any{"command": cmd, "hold": req.Hold}}
	if err := d.o.Store.AddCommand(ctx, c, note); err != nil {
		return err
	}
	d.o.Logger.Info("rollout commanded", "rollout", id, "command", cmd, "by", by.Name, "reason", req.Reason)
	d.o.Events.Publish(api.Event{At: now, Kind: "rollout", Subject: string(id), Text: by.Name + ": " + string(cmd)})
	d.o.Wake()
	return nil
}

// speaksFor reports whether an operator is, or was made by, a rollout's author.
func speaksFor(by api.OperatorToken, rec store.Rollout) bool {
	author := api.OperatorToken{Name: rec.Author, As: rec.AuthorAs}.Person()
	return by.Person() == author || slices.Contains(by.As, author)
}

// Rollouts are all of an operator's models, newest first, without history and evidence.
func (d *Desk) Rollouts(ctx context.Context, by api.OperatorToken) ([]api.RolloutInfo, error) {
	recs, err := d.o.Store.Rollouts(ctx, false)
	if err != nil {
		return nil, err
	}
	out := make([]api.RolloutInfo, 0, len(recs))
	for _, r := range recs {
		if !by.Scope.HasModel(r.Release.Team, r.Release.Model) {
			continue
		}
		info, err := decodeInfo(r)
		if err != nil {
			return nil, err
		}
		withoutEvidence(&info)
		d.fetching(&info)
		out = append(out, info)
	}
	return out, nil
}

func withoutEvidence(info *api.RolloutInfo) {
	for i := range info.Stages {
		if v := info.Stages[i].Verdict; v != nil {
			v.Evidence = nil
		}
	}
}

// Rollout is one rollout, with its history and the evidence of its verdicts. Its
// figures are of all members that take part, whatever the operator's scope.
func (d *Desk) Rollout(ctx context.Context, by api.OperatorToken, id fleet.RolloutID) (api.RolloutInfo, error) {
	rec, err := d.o.Store.Rollout(ctx, id)
	if err != nil {
		return api.RolloutInfo{}, err
	}
	if err := allowRelease(by, rec.Release, "get rollout"); err != nil {
		return api.RolloutInfo{}, err
	}
	info, err := decodeInfo(rec)
	if err != nil {
		return info, err
	}
	d.fetching(&info)
	if !by.Scope.Members.IsEmpty() { // evidence is of single members
		withoutEvidence(&info)
	}
	info.History, err = d.o.Store.Samples(ctx, id)
	return info, err
}

// fetching adds who downloads the release now, and who cannot.
func (d *Desk) fetching(info *api.RolloutInfo) {
	if info.Ended.IsZero() {
		info.Fetching, info.Stuck = d.o.Intake.Fetching(info.ID, info.Release.Model, d.o.Now())
	}
}

func decodeInfo(r store.Rollout) (api.RolloutInfo, error) {
	var info api.RolloutInfo
	if err := json.Unmarshal(r.Info, &info); err != nil {
		return info, fault.New(fault.Internal, "read rollout", string(r.ID), err)
	}
	return info, nil
}

// Info is what can be said of a rollout from its record and status alone; the
// loop adds what it counts.
func Info(rec store.Rollout, spec fleet.Spec, st rollout.Status) api.RolloutInfo {
	info := api.RolloutInfo{
		ID: rec.ID, Release: rec.Release, From: rec.From, Group: rec.Group, Author: rec.Author, Started: rec.Started, Ended: rec.Ended,
		State: st.State.String(), Hold: st.Hold, Reason: st.Reason.String(), Stage: st.Stage,
	}
	for _, a := range st.Approvals {
		info.Approvals = append(info.Approvals, a.By)
	}
	for i, s := range spec.Stages {
		stage := api.StageInfo{Name: s.Name, State: rollout.Waiting.String(), Soak: s.Soak}
		if i < len(st.Stages) {
			x := st.Stages[i]
			stage.State, stage.Target, stage.Exposed, stage.Since = x.State.String(), x.Target, x.Told, x.Since
		}
		info.Stages = append(info.Stages, stage)
	}
	return info
}
