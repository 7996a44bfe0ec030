package repository

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// Standing is how one role of the fleet stands: who may sign it, and until when
// what they signed is good.
type Standing struct {
	Role      string // "root", "targets" (the policy), "pub-TEAM", "fleet", "snapshot", "timestamp"
	Version   int64  // 0: nothing of the role was signed yet
	Keys      []string
	Threshold int
	Expires   time.Time     // zero when Version is 0
	Issued    time.Time     // when it was signed; only the timestamp says so
	Life      time.Duration // from signing to expiry, as the coordinator is set up
}

// Standings is how every role stands, root first and the others sorted by name.
// A publisher's role is the admitted one.
func (r *Repository) Standings() []Standing {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.opts.Lifetimes.orDefault()
	top := func(role string, version int64, expires time.Time, life time.Duration) Standing {
		s := Standing{Role: role, Version: version, Expires: expires, Life: life}
		if keys := r.root.Signed.Roles[role]; keys != nil {
			s.Keys, s.Threshold = slices.Clone(keys.KeyIDs), keys.Threshold
		}
		return s
	}
	pol := r.policy.meta.Signed
	out := []Standing{
		top(metadata.TARGETS, pol.Version, pol.Expires, l.Policy),
		r.signedStanding(top(metadata.SNAPSHOT, 0, time.Time{}, l.Snapshot)),
		r.signedStanding(top(metadata.TIMESTAMP, 0, time.Time{}, l.Timestamp)),
	}
	for _, d := range pol.Delegations.Roles {
		s := Standing{Role: d.Name, Keys: slices.Clone(d.KeyIDs), Threshold: d.Threshold, Life: l.Publisher}
		for name, t := range r.teams {
			if d.Name == trust.RoleOf(name) {
				s.Version, s.Expires = t.role.Version, t.role.Expires
			}
		}
		if d.Name == trust.RoleFleet {
			s.Life = l.Fleet
			if m := r.current.fleetMeta; m != nil {
				s.Version, s.Expires = m.Signed.Version, m.Signed.Expires
			}
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Standing) int { return strings.Compare(a.Role, b.Role) })
	return append([]Standing{top(metadata.ROOT, r.root.Signed.Version, r.root.Signed.Expires, l.Root)}, out...)
}

// signedStanding fills in what the coordinator signed of snapshot and timestamp.
func (r *Repository) signedStanding(s Standing) Standing {
	switch c := r.current; {
	case s.Role == metadata.SNAPSHOT && c.snapshotMeta != nil:
		s.Version, s.Expires = c.snapshotMeta.Signed.Version, c.snapshotMeta.Signed.Expires
	case s.Role == metadata.TIMESTAMP && c.timestampMeta != nil:
		s.Version, s.Expires = c.timestampMeta.Signed.Version, c.timestampMeta.Signed.Expires
		text, _ := c.timestampMeta.Signed.UnrecognizedFields[trust.FieldIssued].(string)
		s.Issued, _ = time.Parse(time.RFC3339, text) // zero when it does not say
	}
	return s
}

// Groups are those that a directive was signed for, sorted.
func (r *Repository) Groups() []fleet.Group {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.current.directives))
}
