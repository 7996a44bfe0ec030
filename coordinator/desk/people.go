package desk

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/rollout"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// noRole is why the sessions end of who has no role any more.
const noRole = "the coordinator's -oidc file gives them no role any more"

// person says what somebody who signed in may do now; Denied: nothing.
func (d *Desk) person(c store.Claims) (store.Person, error) {
	if d.o.Issuer == nil {
		return store.Person{}, fault.Newf(fault.Denied, "match roles", c.Name, "this coordinator has no issuer any more").
			WithHint("start it with -oidc, or use an operator token")
	}
	return d.o.Issuer.Person(c)
}

func roleless(name string) error {
	return fault.Newf(fault.Denied, "authenticate", name, "%s, so the session is over", noRole).
		WithHint("ask an admin for a line of its roles that matches you, then sign in again: `modelfleet login`, or the dashboard's page")
}

// people are those who are signed in through the issuer and have a role, one entry
// each, by name.
func (d *Desk) people(ctx context.Context) ([]api.OperatorToken, error) {
	all, err := d.o.Store.Sessions(ctx)
	if err != nil {
		return nil, err
	}
	newest := map[string]api.OperatorToken{}
	for _, s := range all {
		if s.Claims == nil || !d.on(s) || s.Created.Before(newest[s.Name].Created) {
			continue
		}
		if p, err := d.person(*s.Claims); err == nil {
			newest[s.Name] = sessionInfo(s, p)
		}
	}
	out := make([]api.OperatorToken, 0, len(newest))
	for _, o := range newest {
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b api.OperatorToken) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// on reports whether a session has not ended.
func (d *Desk) on(s store.Session) bool { return s.Over == "" && d.o.Now().Before(s.Expires) }

// Reconsider makes true what the roles of now say of people who signed in: sessions of
// whom no line matches any more end, and an approval that is still waited for counts
// only while who gave it may still give it. It is for the start, and for whenever the
// roles have changed.
func (d *Desk) Reconsider(ctx context.Context) error {
	d.commanding.Lock() // no approval comes between the end of those that are there and the person's
	defer d.commanding.Unlock()
	all, err := d.o.Store.Sessions(ctx)
	if err != nil {
		return err
	}
	newest := map[string]store.Session{} // by identity; also those that are over: their approvals count on
	for _, s := range all {
		if s.Claims == nil {
			continue
		}
		if id := s.Claims.Identity(); !s.Created.Before(newest[id].Created) {
			newest[id] = s
		}
	}
	for _, s := range newest {
		if err := d.reconsider(ctx, s); err != nil {
			return err
		}
	}
	for _, s := range all {
		if s.Claims == nil || !d.on(s) {
			continue
		}
		if _, err := d.person(*s.Claims); !fault.Is(err, fault.Denied) {
			continue
		}
		note := audit.Note{At: d.o.Now().UTC(), Actor: audit.Coordinator, Action: audit.OperatorSignedOut, Subject: s.Name, Reason: noRole}
		if err := d.o.Store.EndSessions(ctx, []fleet.Digest{s.Hash}, noRole, note); err != nil {
			return err
		}
		d.o.Logger.Info("operator signed out", "operator", s.Name, "why", noRole)
	}
	return nil
}

// reconsider takes back what a person approved and may approve no more.
func (d *Desk) reconsider(ctx context.Context, s store.Session) error {
	who, err := d.person(*s.Claims)
	if err != nil && !fault.Is(err, fault.Denied) {
		return err
	}
	who.Claims = *s.Claims // also of whom no line matches: as the role "", which may nothing
	info := sessionInfo(s, who)
	return d.disown(ctx, api.OperatorToken{Name: audit.Coordinator}, info, s.Name+" may not approve it any more", func(r store.Rollout) (bool, error) {
		spec, err := fleet.ParseSpec(r.Spec)
		if err != nil {
			return false, fault.New(fault.Internal, "read rollout", string(r.ID), err)
		}
		if Allow(info, api.Approver, "approve rollout") == nil && allowRollout(info, r.Release, spec, "approve rollout") == nil {
			return false, nil
		}
		return d.approved(ctx, info, r)
	})
}

// approved reports whether a rollout goes by what a person said, or will once it is
// taken in.
func (d *Desk) approved(ctx context.Context, who api.OperatorToken, r store.Rollout) (bool, error) {
	var st rollout.Status
	if err := json.Unmarshal(r.Status, &st); err != nil {
		return false, fault.New(fault.Internal, "read rollout", string(r.ID), err)
	}
	theirs := func(as []string, by string) bool {
		return (api.OperatorToken{Name: by, As: as}).Person() == who.Person()
	}
	for _, a := range slices.Concat(st.Approvals, st.Skips) {
		if theirs(a.As, a.By) {
			return true, nil
		}
	}
	said, err := d.o.Store.Commands(ctx, r.ID, st.Commands)
	return slices.ContainsFunc(said, func(c store.Command) bool {
		return (c.Command == api.Approve || c.Command == api.Skip) && theirs(c.As, c.By)
	}), err
}
