package trust

import (
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Had is a release that a member has, as far as it remembers it.
type Had struct {
	Model   fleet.ModelName
	Path    string       // of the bundle; "": not known any more
	Root    fleet.Digest // zero: not known any more
	Bundle  fleet.Digest
	Counter uint64
}

// Publisher is what a team's role says, and what it said before.
type Publisher struct {
	TeamRole          // with the highest floors that were seen
	Seen     []string // bundles that the team's present keys listed, now or before: the short form of their digests, sorted
}

// Revokes says why no member may run a release any more, or nil: the policy
// names its root, its publisher listed it and lists it no longer, or its
// publisher's floor is above it. Silence revokes nothing: neither a pack without
// the publisher's role, nor a role that expired, nor a team that the policy no
// longer knows, nor what keys that are new never listed.
func (t Trusted) Revokes(h Had) error {
	if !h.Root.IsZero() && slices.Contains(t.Revoked.Releases, h.Root) {
		return broken(RuleRevoked, "the policy revokes %s", h.Root.Short())
	}
	team, role, ok := t.owner(h)
	if !ok {
		return nil
	}
	e, listed := role.find(h)
	if !listed {
		if _, seen := slices.BinarySearch(role.Seen, h.Bundle.Short()); !seen {
			return nil
		}
		return broken(RuleListed, "delisted by its publisher: role %s version %d lists it no longer", RoleOf(team), role.Version)
	}
	if floor := role.Floors[h.Model]; e.Release.Counter < floor {
		return broken(RuleFloor, "its publisher raised the floor of %s to %d, above its counter %d", h.Model, floor, e.Release.Counter)
	}
	return nil
}

// owner is the publisher whose word counts for a release: the one its path names,
// else the one that lists releases of the model.
func (t Trusted) owner(h Had) (fleet.Team, Publisher, bool) {
	if r, _, err := ParseBundlePath(h.Path); err == nil {
		role, ok := t.Teams[r.Team]
		return r.Team, role, ok
	}
	for team, role := range t.Teams { // at most one: models belong to one team
		if role.Has(h.Model) {
			return team, role, true
		}
	}
	return "", Publisher{}, false
}

// Has reports whether the role has a say in a model: it lists a release of it, or
// sets its floor.
func (t TeamRole) Has(m fleet.ModelName) bool {
	if _, ok := t.Floors[m]; ok {
		return true
	}
	for _, e := range t.Entries {
		if e.Release.Model == m {
			return true
		}
	}
	return false
}

// find is the role's entry for the very bytes.
func (t TeamRole) find(h Had) (Entry, bool) {
	if e, ok := t.Entries[h.Path]; ok {
		return e, e.Release.Variants[0].Bundle == h.Bundle
	}
	for _, e := range t.Entries {
		if h.Path == "" && e.Release.Variants[0].Bundle == h.Bundle {
			return e, true
		}
	}
	return Entry{}, false
}

// Bars says why a member is not spoken to, or nil: the policy or the directive
// revokes it, or its certificate ran out so long ago that even a member that
// reaches nobody would have been found by now.
func (t Trusted) Bars(id fleet.MemberID, expired, now time.Time) error {
	switch r, barred := t.Directive.Bars(id); {
	case slices.Contains(t.Revoked.Members, id):
		return broken(RuleRevoked, "the policy revokes member %s", id)
	case barred:
		return broken(RuleRevoked, "member %s was revoked (until %s)", id, r.Until.Format(time.DateOnly))
	}
	if t.Issued.After(now) {
		now = t.Issued
	}
	if !expired.IsZero() && now.After(expired.Add(fleet.Grace)) {
		return broken(RuleExpired, "the certificate of member %s ran out on %s", id, expired.Format(time.DateOnly))
	}
	return nil
}
