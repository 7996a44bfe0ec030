package desk

import (
	"context"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// Releases lists the admitted releases of an operator's models, newest first.
func (d *Desk) Releases(ctx context.Context, by api.OperatorToken) ([]api.ReleaseInfo, error) {
	rs, err := d.o.Store.Releases(ctx)
	if err != nil {
		return nil, err
	}
	entries, err := d.o.Publisher.Listed()
	if err != nil {
		return nil, err
	}
	running, err := d.runningIn(ctx, by.Scope)
	if err != nil {
		return nil, err
	}
	out := make([]api.ReleaseInfo, 0, len(rs))
	for _, r := range rs {
		if !by.Scope.HasModel(r.Team, r.Model) {
			continue
		}
		info := d.releaseInfo(r, running)
		info.Unlisted = !info.Revoked && !lists(entries, r.Release)
		out = append(out, info)
	}
	return out, nil
}

func (d *Desk) releaseInfo(r store.Release, running map[string]int) api.ReleaseInfo {
	info := api.ReleaseInfo{Release: r.Release, Admitted: r.Admitted, By: r.By, Metrics: r.Metrics, RevokedFor: d.revokedFor(r.Release, r.Revoked)}
	info.Revoked, info.Members = info.RevokedFor != "", running[r.Ref()]
	return info
}

// Admit takes up what a publisher put into the bucket. A refusal is audited with
// its reason.
func (d *Desk) Admit(ctx context.Context, by api.OperatorToken, r api.AdmitRequest) (api.AdmitReply, error) {
	const op = "admit releases"
	if err := Allow(by, api.Operator, op); err != nil {
		return api.AdmitReply{}, err
	}
	team, err := fleet.ParseTeam(string(r.Team))
	if err != nil {
		return api.AdmitReply{}, err
	}
	if err := AllowTeam(by, team, op); err != nil {
		return api.AdmitReply{}, err
	}
	before := d.known(team)
	a, err := d.take(ctx, team, by.Name)
	if err != nil {
		return api.AdmitReply{}, d.refuse(ctx, team, by.Name, err)
	}
	for _, ig := range a.Ignored {
		d.o.Logger.Warn("version of publisher role ignored", "team", team, "err", ig)
	}
	d.o.Wake()
	return d.reply(ctx, team, a, before)
}

// take admits and writes down what was admitted before members can see it.
func (d *Desk) take(ctx context.Context, team fleet.Team, by string) (repository.Admission, error) {
	now := d.o.Now().UTC()
	return d.o.Publisher.Admit(ctx, team, now, func(a repository.Admission) error { return d.record(ctx, a, by, now) })
}

// vouched says who signed a release without a key, if anybody had to.
func vouched(a repository.Admission, r fleet.Release) string {
	if who := a.Vouched[r.Ref()]; who != "" {
		return "; signed without a key by " + who
	}
	return ""
}

// record keeps what an admission changed, with its audit entries.
func (d *Desk) record(ctx context.Context, a repository.Admission, by string, now time.Time) error {
	adm := store.Admission{Team: a.Team}
	var notes []audit.Note
	for _, e := range a.Added {
		if err := d.sameFiles(e.Release); err != nil {
			return err
		}
		adm.Admitted = append(adm.Admitted, store.Release{Release: e.Release, Admitted: now, By: by, Metrics: e.Metrics})
		notes = append(notes, audit.Note{
			At: now, Actor: by, Action: audit.ReleaseAdmitted, Subject: e.Release.Ref(),
			Reason: said("signed", a) + vouched(a, e.Release), Detail: e,
		})
	}
	for _, rel := range a.Delisted {
		adm.Revoked = append(adm.Revoked, rel.Ref())
		notes = append(notes, audit.Note{
			At: now, Actor: by, Action: audit.ReleaseRevoked, Subject: rel.Ref(),
			Reason: said("delisted", a),
		})
	}
	notes = append(notes, floorNotes(a, by, now)...)
	if err := d.o.Store.Admit(ctx, adm, notes...); err != nil {
		return err
	}
	if err := d.reload(ctx); err != nil {
		return err
	}
	for _, n := range notes {
		d.o.Logger.Info("release decided", "action", n.Action, "release", n.Subject, "by", by, "reason", n.Reason)
		d.o.Events.Publish(api.Event{At: now, Kind: "release", Subject: n.Subject, Text: n.Action + ": " + n.Reason})
	}
	return nil // the loop ends the rollouts of what was taken back
}

// refuse audits a refusal that says something about the publisher, and returns it.
func (d *Desk) refuse(ctx context.Context, team fleet.Team, by string, cause error) error {
	if k := fault.KindOf(cause); k != fault.Untrusted && k != fault.NotFound && k != fault.Invalid {
		return cause
	}
	now := d.o.Now().UTC()
	note := audit.Note{At: now, Actor: by, Action: audit.ReleaseRefused, Subject: string(team), Reason: cause.Error(), Detail: map[string]any{"rule": trust.RuleOf(cause)}}
	if err := d.o.Store.Append(ctx, note); err != nil {
		return err
	}
	d.o.Logger.Warn("releases refused", "team", team, "by", by, "rule", trust.RuleOf(cause), "err", cause)
	d.o.Events.Publish(api.Event{At: now, Kind: "alarm", Subject: string(team), Text: "releases refused: " + cause.Error()})
	return cause
}

// reply tells what an admission changed; again are the releases known before.
func (d *Desk) reply(ctx context.Context, team fleet.Team, a repository.Admission, again map[string]bool) (api.AdmitReply, error) {
	rs, err := d.o.Store.Releases(ctx)
	if err != nil {
		return api.AdmitReply{}, err
	}
	var out api.AdmitReply
	added, gone := map[string]bool{}, map[string]bool{}
	for _, e := range a.Added {
		added[e.Release.Ref()] = true
		if again[e.Release.Ref()] {
			out.Again = append(out.Again, e.Release.Ref())
		}
	}
	for _, rel := range a.Delisted {
		gone[rel.Ref()] = true
	}
	running, err := d.runningIn(ctx, api.Scope{})
	if err != nil {
		return api.AdmitReply{}, err
	}
	for _, r := range rs {
		info := d.releaseInfo(r, running)
		switch {
		case r.Team != team:
		case added[r.Ref()]:
			out.Admitted = append(out.Admitted, info)
		case gone[r.Ref()]:
			out.Revoked = append(out.Revoked, info)
		case !r.Revoked:
			out.Known = append(out.Known, info)
		}
	}
	return out, nil
}

// Catchup makes the store and the bucket agree after a restart: what was admitted
// and not published is admitted again, and what the bucket lists and the store
// does not know, since it was made anew, is written down.
func (d *Desk) Catchup(ctx context.Context) error {
	// The store first: what is in it was listed before, unless it was lost.
	rs, err := d.o.Store.Releases(ctx)
	if err != nil {
		return err
	}
	listed, err := d.o.Publisher.Listed()
	if err != nil {
		return err
	}
	have, kept := map[string]bool{}, map[string]bool{}
	for _, e := range listed {
		have[e.Release.Ref()] = true
	}
	behind := map[fleet.Team]bool{}
	for _, r := range rs {
		kept[r.Ref()] = true
		if have[r.Ref()] == r.Revoked {
			behind[r.Team] = true
		}
	}
	now := d.o.Now().UTC()
	for _, e := range listed {
		if kept[e.Release.Ref()] {
			continue
		}
		adm := store.Admission{Team: e.Release.Team, Admitted: []store.Release{{Release: e.Release, Admitted: now, By: audit.Coordinator, Metrics: e.Metrics}}}
		note := audit.Note{At: now, Actor: audit.Coordinator, Action: audit.ReleaseAdmitted, Subject: e.Release.Ref(), Reason: "found admitted in the bucket", Detail: e}
		if err := d.o.Store.Admit(ctx, adm, note); err != nil {
			return err
		}
		d.o.Logger.Warn("release taken from the bucket, the store has none", "release", e.Release.Ref())
	}
	for team := range behind {
		unknown := func(a repository.Admission) error { return d.record(ctx, news(a, rs, have), audit.Coordinator, now) }
		if _, err := d.o.Publisher.Admit(ctx, team, now, unknown); err != nil {
			d.o.Logger.Error("admitted releases are not published", "team", team, "err", err)
			continue
		}
		d.o.Logger.Info("admission finished after a restart", "team", team)
	}
	return d.reload(ctx)
}

// news is what the store does not know of an admission that is made again: the
// publisher may have gone on since, and that is as much a decision as it would
// have been before the restart. listed is what the bucket's snapshot lists.
func news(a repository.Admission, rs []store.Release, listed map[string]bool) repository.Admission {
	added, known, counters := map[string]bool{}, map[string]bool{}, map[string]uint64{}
	for _, e := range a.Added {
		added[e.Release.Ref()] = true
	}
	a.Delisted = slices.Clone(a.Delisted)
	for _, r := range rs {
		ref := r.Ref()
		known[ref], counters[ref] = !r.Revoked, r.Counter
		if r.Team == a.Team && !r.Revoked && !listed[ref] && !added[ref] { // taken back before anybody saw it
			a.Delisted = append(a.Delisted, r.Release)
		}
	}
	a.Added = slices.DeleteFunc(slices.Clone(a.Added), func(e trust.Entry) bool {
		return known[e.Release.Ref()] && counters[e.Release.Ref()] == e.Release.Counter
	})
	a.Delisted = slices.DeleteFunc(a.Delisted, func(r fleet.Release) bool { return !known[r.Ref()] })
	return a
}
