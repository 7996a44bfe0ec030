package repository

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// Lost is a release that a team listed under former keys and that the present ones
// cannot carry over.
type Lost struct {
	Release fleet.Release
	Why     error
}

// carryOver starts a draft from what the coordinator admitted of the team last, under
// keys or a threshold that the policy names no more: else everything published
// would be forgotten. Only the releases whose bundles the present keys signed come
// along, and floors only if one of those keys signed the role: a stolen key that
// was taken out is to leave nothing behind. What comes along counts once the
// present keys have signed it.
func (r *Repository) carryOver(ctx context.Context, d *Draft) error {
	m, err := r.lastAdmitted(ctx, d.Team)
	if m == nil || err != nil {
		return err
	}
	admitted := m.Signed.Version
	tr, err := trust.ReadTeamRole(m)
	if err != nil {
		return nil // the coordinator admitted no such role
	}
	keys, err := r.Keys(d.Team)
	if err != nil {
		return err
	}
	lost := map[string]Lost{}
	for _, path := range slices.Sorted(maps.Keys(tr.Entries)) {
		e := tr.Entries[path]
		body, err := r.fetch(ctx, path)
		if err == nil {
			_, err = (trust.Backing{Entry: e, Keys: keys}).VerifyBundle(body)
		} else if !fault.Is(err, fault.NotFound) {
			return err
		}
		if err != nil {
			lost[e.Release.Ref()] = Lost{Release: e.Release, Why: err}
		}
	}
	listed := maps.Clone(tr.Entries)
	for path, e := range tr.Entries {
		if _, gone := lost[e.Release.Ref()]; gone {
			delete(tr.Entries, path)
			delete(m.Signed.Targets, path)
		}
	}
	pol := policy{meta: d.policy}
	stays := pol.delegated(trust.RoleOf(d.Team)).KeyIDs
	signs := func(m *metadata.Metadata[metadata.TargetsType]) bool {
		return slices.ContainsFunc(stays, func(id string) bool { return pol.signedBy(id, m) == nil })
	}
	if !signs(m) {
		tr.Floors = map[fleet.ModelName]uint64{}
		delete(m.Signed.UnrecognizedFields, trust.FieldFloor)
	}
	late, err := r.notAdmitted(ctx, *d, admitted, signs)
	if err != nil {
		return err
	}
	for path, l := range late {
		if _, known := listed[path]; !known {
			lost[l.Release.Ref()] = l
		}
	}
	for _, ref := range slices.Sorted(maps.Keys(lost)) {
		d.Lost = append(d.Lost, lost[ref])
	}
	d.base, d.Role = m, tr
	entries, err := merge(tr)
	for _, e := range entries {
		d.Carried = append(d.Carried, e.Release)
	}
	return err
}

// lastAdmitted is the team's role that the snapshot lists (it goes on listing one
// whose keys were replaced), verified by the newest policy that gave it to the keys
// that signed it; nil when there is none.
func (r *Repository) lastAdmitted(ctx context.Context, name fleet.Team) (*metadata.Metadata[metadata.TargetsType], error) {
	const op = "read former role"
	r.mu.Lock()
	sn, newest := r.current.snapshotMeta, r.policy.meta.Signed.Version
	r.mu.Unlock()
	role := trust.RoleOf(name)
	if sn == nil || sn.Signed.Meta[role+".json"] == nil {
		return nil, nil
	}
	info := sn.Signed.Meta[role+".json"]
	key := trust.MetadataKey(role, info.Version)
	raw, err := r.fetch(ctx, key)
	if err != nil {
		return nil, err
	}
	if err := info.VerifyLengthHashes(raw); err != nil {
		return nil, trust.Violated(trust.RuleSnapshot, op, key, err)
	}
	return r.underAnyPolicy(ctx, role, info.Version, newest, raw)
}

// underAnyPolicy verifies a version of a team's role by the newest policy, from one
// on backwards, that gave it to the keys that signed it; nil when none did.
func (r *Repository) underAnyPolicy(ctx context.Context, role string, version, newest int64, raw []byte) (*metadata.Metadata[metadata.TargetsType], error) {
	for v := newest; v >= 1; v-- {
		body, err := r.fetch(ctx, trust.MetadataKey(metadata.TARGETS, v))
		if fault.Is(err, fault.NotFound) {
			continue
		} else if err != nil {
			return nil, err
		}
		pol, err := trust.Decode[metadata.TargetsType](body)
		if err != nil || pol.Signed.Delegations == nil || r.signedByAnyRoot(metadata.TARGETS, pol) != nil {
			continue // root's keys never signed it
		}
		if m, err := (policy{meta: pol}).authentic(role, version, raw); err == nil {
			return m, nil
		}
	}
	return nil, nil
}

// notAdmitted are the releases, by path, of the versions after one that no snapshot
// listed and that a key which stays has signed. They do not come along, as one
// person alone could have put them there; whoever published them just before the
// keys changed is told to do so again.
func (r *Repository) notAdmitted(ctx context.Context, d Draft, admitted int64, signs func(m *metadata.Metadata[metadata.TargetsType]) bool) (map[string]Lost, error) {
	role, lost := trust.RoleOf(d.Team), map[string]Lost{}
	for v := admitted + 1; v < d.Version; v++ {
		raw, err := r.fetch(ctx, trust.MetadataKey(role, v))
		if fault.Is(err, fault.NotFound) {
			continue
		} else if err != nil {
			return nil, err
		}
		m, err := r.underAnyPolicy(ctx, role, v, d.policy.Signed.Version, raw)
		if err != nil {
			return nil, err
		}
		if m == nil || !signs(m) {
			continue
		}
		tr, err := trust.ReadTeamRole(m)
		if err != nil {
			continue // the coordinator admits no such role
		}
		for path, e := range tr.Entries {
			lost[path] = Lost{Release: e.Release, Why: fmt.Errorf("no trust pack listed version %d of %s before the keys changed; publish it again", v, role)}
		}
	}
	return lost, nil
}
