package publisher

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// Placed is what became of a change of a team's role.
type Placed struct {
	Team    fleet.Team `json:"team"`
	Key     string     `json:"key,omitempty"` // of the object in the bucket; empty: there was nothing to change
	Missing int        `json:"missing,omitempty"`
	// Before says that it was proposed before, just so, by the keys in Signers.
	Before  bool     `json:"before,omitempty"`
	Signers []string `json:"signers,omitempty"`

	// Carried and Lost is what was listed under former keys, or too few: what this
	// version signs anew, and what falls off.
	Carried []fleet.Release   `json:"-"`
	Lost    []repository.Lost `json:"-"`

	signed repository.Signed
}

// Cause is why a release falls off, without the operation.
func Cause(err error) string {
	if v, ok := errors.AsType[*trust.Violation](err); ok {
		return v.Err.Error()
	}
	return err.Error()
}

// Done reports whether the role is complete in the bucket.
func (p Placed) Done() bool { return p.Key != "" && p.Missing == 0 }

// ID names a proposal for people: the first digits of its digest.
func (p Placed) ID() string { return proposalID(p.Key) }

func proposalID(key string) string {
	parts := strings.Split(key, ".")
	if len(parts) < 2 {
		return key
	}
	return parts[len(parts)-2][:min(12, len(parts[len(parts)-2]))]
}

// Change changes a team's role: make says what, given where the role stands; nil
// for nothing. When somebody else of the team is quicker it is asked again.
func Change(ctx context.Context, o Options, team fleet.Team, make func(repository.Draft) (*repository.Change, error)) (Placed, error) {
	for n := 1; ; n++ {
		draft, err := o.Repository.Draft(ctx, team)
		if err != nil {
			return Placed{}, err
		}
		c, err := make(draft)
		if err != nil || c == nil {
			return Placed{Team: team}, err
		}
		signed, err := draft.Next(*c, o.Now, o.Key)
		if err != nil {
			return Placed{}, err
		}
		if len(c.Add) > 0 && len(signed.Added) == 0 {
			return Placed{Team: team}, nil // listed before
		}
		p := Placed{Team: team, Key: signed.Write.Key, Missing: signed.Missing, Lost: draft.Lost, signed: signed}
		for _, r := range draft.Carried {
			if !slices.Contains(c.Delist, r.Ref()) {
				p.Carried = append(p.Carried, r)
			}
		}
		if p.Missing > 0 {
			if p.Key, p.Signers, err = o.proposed(ctx, team, signed.Write); err != nil || p.Key != signed.Write.Key {
				p.Before = true
				return p, err
			}
		}
		_, err = o.Store.Create(ctx, signed.Write.Key, registry.BodyOf(signed.Write.Body))
		if fault.Is(err, fault.Conflict) && n < attempts {
			continue
		}
		if err != nil {
			return p, fault.New(fault.KindOf(err), "write publisher role", signed.Write.Key, err)
		}
		return p, nil
	}
}

// proposed looks for a proposal of the very same change, signed by whomever of
// the team; else w's own key.
func (o Options) proposed(ctx context.Context, team fleet.Team, w repository.Write) (key string, signers []string, err error) {
	all, err := Proposals(ctx, o, team)
	if err != nil {
		return "", nil, err
	}
	for _, p := range all {
		if p.Err == nil && repository.SameChange(p.raw, w.Body) {
			return p.Key, p.Signers, nil
		}
	}
	return w.Key, nil, nil
}

// Proposal is one of a team's proposals in the bucket.
type Proposal struct {
	repository.Review
	Err error // why it cannot be approved: a Conflict when it is stale
	raw []byte
}

// ID names it for people.
func (p Proposal) ID() string { return proposalID(p.Key) }

// Proposals are a team's proposals, each reviewed, in the order of their keys.
// What is no proposal of the team's own is among them with the reason.
func Proposals(ctx context.Context, o Options, team fleet.Team) ([]Proposal, error) {
	var out []Proposal
	for obj, err := range o.Store.List(ctx, repository.ProposalPrefix(team)) {
		if err != nil {
			return out, fault.New(fault.KindOf(err), "list proposals", trust.RoleOf(team), err)
		}
		raw, _, err := o.Store.Get(ctx, obj.Key, "")
		if err != nil {
			return out, err
		}
		p := Proposal{raw: raw}
		p.Review, p.Err = o.Repository.Review(ctx, team, obj.Key, raw, o.Now)
		p.Team, p.Key = team, obj.Key
		if k := fault.KindOf(p.Err); p.Err != nil && k != fault.Untrusted && k != fault.Conflict && k != fault.NotFound && k != fault.Invalid {
			return out, p.Err
		}
		out = append(out, p)
	}
	return out, nil
}

// Choose is the team's proposal whose id begins with id, or the only one that can
// be approved when id is empty.
func Choose(ctx context.Context, o Options, team fleet.Team, id string) (Proposal, error) {
	const op = "choose proposal"
	all, err := Proposals(ctx, o, team)
	if err != nil {
		return Proposal{}, err
	}
	list := "`modelfleet releases proposals` lists them"
	var fit []Proposal
	for _, p := range all {
		if id != "" && strings.HasPrefix(p.ID(), id) || id == "" && p.Err == nil {
			fit = append(fit, p)
		}
	}
	switch {
	case len(fit) == 1 && fit[0].Err != nil:
		return fit[0], fit[0].Err
	case len(fit) == 1:
		return fit[0], nil
	case len(fit) > 1:
		var ids []string
		for _, p := range fit {
			ids = append(ids, p.ID())
		}
		return Proposal{}, fault.Newf(fault.Invalid, op, string(team), "there are %d: %s", len(fit), strings.Join(ids, ", ")).WithHint("say which; %s", list)
	case id != "":
		return Proposal{}, fault.Newf(fault.NotFound, op, id, "team %s has none of that id", team).WithHint("%s", list)
	case slices.ContainsFunc(all, func(p Proposal) bool { return fault.Is(p.Err, fault.Untrusted) }):
		i := slices.IndexFunc(all, func(p Proposal) bool { return fault.Is(p.Err, fault.Untrusted) })
		return Proposal{}, all[i].Err
	case len(all) > 0:
		return Proposal{}, fault.Newf(fault.NotFound, op, string(team), "none of its %d proposals can be approved, the last because: %v", len(all), all[len(all)-1].Err).WithHint("%s", list)
	}
	return Proposal{}, fault.Newf(fault.NotFound, op, string(team), "it has none").WithHint("`modelfleet publish`, `releases delist` and `releases floor` make one when a team needs two signatures")
}

// Check reads every file of the releases that a proposal adds, from the bucket,
// and compares it with what was signed.
func (p Proposal) Check(ctx context.Context, o Options, progress func(done int64)) ([]Checked, error) {
	return checkEntries(ctx, o.Store, o.Repository, p.Team, p.Entries, progress)
}

// Approve adds the signature of o.Key to a proposal. Complete, the role is put
// into the bucket under its own name; somebody who was quicker makes it stale.
func Approve(ctx context.Context, o Options, p Proposal) (Placed, error) {
	signed, err := p.Review.Approve(o.Key)
	if err != nil {
		return Placed{}, err
	}
	out := Placed{Team: p.Team, Key: signed.Write.Key, Missing: signed.Missing, Signers: p.Signers, signed: signed}
	_, err = o.Store.Create(ctx, signed.Write.Key, registry.BodyOf(signed.Write.Body))
	switch {
	case fault.Is(err, fault.Conflict):
		return out, fault.New(fault.Conflict, "approve proposal", p.Key, errors.Join(errors.New("somebody was quicker: the version was taken meanwhile"), err)).
			WithHint("have it proposed again, by repeating the command that proposed it")
	case err != nil:
		return out, fault.New(fault.KindOf(err), "write publisher role", signed.Write.Key, err)
	}
	return out, nil
}

// Delist is the change that takes a release back, for [Change]. It is nil when
// the team took it back before; one that the team never published is NotFound.
func Delist(ctx context.Context, o Options, ref fleet.Release, reason string) func(repository.Draft) (*repository.Change, error) {
	return func(d repository.Draft) (*repository.Change, error) {
		for _, e := range d.Role.Entries {
			if e.Release.Ref() == ref.Ref() {
				return &repository.Change{Delist: []string{ref.Ref()}, Reason: reason}, nil
			}
		}
		for _, err := range o.Store.List(ctx, "models/"+string(d.Team)+"/"+string(ref.Model)+"/"+string(ref.Version)+"/") {
			return nil, err // its bundle is there: it was listed once
		}
		return nil, fault.Newf(fault.NotFound, "delist release", ref.Ref(), "team %s never published it", d.Team).
			WithHint("`modelfleet releases list` shows what is admitted, and whose it is")
	}
}

// Floor is the change that raises a model's floor, for [Change]: what has a lower
// counter may not run any more. It is nil when the floor is as high already.
func Floor(model fleet.ModelName, floor uint64, reason string) func(repository.Draft) (*repository.Change, error) {
	return func(d repository.Draft) (*repository.Change, error) {
		const op = "raise floor"
		var top uint64
		for _, e := range d.Role.Entries {
			if e.Release.Model == model {
				top = max(top, e.Release.Counter)
			}
		}
		switch {
		case top == 0:
			return nil, fault.Newf(fault.NotFound, op, string(model), "team %s lists no release of it", d.Team).WithHint("`modelfleet releases list` shows what is admitted, and whose it is")
		case floor > top:
			return nil, fault.Newf(fault.Invalid, op, string(model), "%d is above its newest release, which has counter %d: nothing of it would run", floor, top).
				WithHint("to stop all of it, delist its releases")
		case d.Role.Floors[model] >= floor:
			return nil, nil
		}
		return &repository.Change{Floors: map[fleet.ModelName]uint64{model: floor}, Reason: reason}, nil
	}
}

// CounterOf is the counter of a version that a team lists, for a floor.
func CounterOf(d repository.Draft, model fleet.ModelName, version fleet.Version) (uint64, error) {
	for _, e := range d.Role.Entries {
		if e.Release.Model == model && e.Release.Version == version {
			return e.Release.Counter, nil
		}
	}
	return 0, fault.Newf(fault.NotFound, "raise floor", string(model)+"@"+string(version), "team %s does not list it", d.Team).
		WithHint("`modelfleet releases list` shows what is admitted")
}

// Renew is the change that signs a role anew as it is, so that it does not expire.
func Renew(reason string) func(repository.Draft) (*repository.Change, error) {
	return func(d repository.Draft) (*repository.Change, error) {
		if d.Role.Version == 0 {
			return nil, fault.Newf(fault.NotFound, "renew publisher role", trust.RoleOf(d.Team), "the team has not published yet")
		}
		return &repository.Change{Reason: reason}, nil
	}
}
