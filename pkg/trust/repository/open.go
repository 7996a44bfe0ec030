package repository

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

const op = "open trust repository"

// Open reads the repository out of a bucket and verifies it from the root on.
// Expired metadata is no error: the coordinator is there to renew it.
func Open(ctx context.Context, get Get, o Options) (*Repository, error) {
	switch {
	case o.StampedElsewhere:
		o.Timestamp = nil
	case o.Timestamp == nil:
		o.Timestamp = o.Coordinator
	}
	o.Lifetimes = o.Lifetimes.orDefault()
	r := &Repository{get: get, opts: o, teams: map[fleet.Team]team{}, former: map[fleet.Team]trust.TeamRole{}}
	steps := []func(context.Context) error{r.readRoots, r.readSigned}
	if o.looksAhead() {
		steps = append(steps, r.readAhead)
	}
	for _, step := range append(steps, r.readPolicy, r.recover, r.readFleet, r.readTeams, r.readSpent, r.readProofs, r.takeKeys) {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	have := r.versions()
	for _, role := range slices.Sorted(maps.Keys(o.Known)) {
		if have[role] < o.Known[role] {
			return nil, trust.Violated(trust.RuleVersion, op, role,
				fmt.Errorf("the bucket holds version %d, version %d was seen before", have[role], o.Known[role]))
		}
	}
	return r, nil
}

// readRoots walks the chain of roots. All of them go into packs, so that a
// member pinned to any of them finds its way.
func (r *Repository) readRoots(ctx context.Context) error {
	pinned, err := trust.Decode[metadata.RootType](r.opts.Root)
	if err != nil {
		return trust.Violated(trust.RuleRoot, op, "root", err)
	}
	if err := pinned.VerifyDelegate(metadata.ROOT, pinned); err != nil {
		return trust.Violated(trust.RuleRoot, op, "root", err)
	}
	r.roots, r.root = []json.RawMessage{r.opts.Root}, pinned
	for v := pinned.Signed.Version - 1; v >= 1 && len(r.roots) < maxRoots; v-- {
		raw, err := r.fetch(ctx, trust.MetadataKey(metadata.ROOT, v))
		if fault.Is(err, fault.NotFound) {
			break
		} else if err != nil {
			return err
		}
		m, err := trust.Decode[metadata.RootType](raw)
		if err == nil {
			err = precedes(m, v, r.roots[0])
		}
		if err != nil {
			return trust.Violated(trust.RuleRoot, op, fmt.Sprintf("root %d", v), err).
				WithHint("put back what the keepers of root signed as %s, and find who changed it", trust.MetadataKey(metadata.ROOT, v))
		}
		r.roots = slices.Insert(r.roots, 0, json.RawMessage(raw))
	}
	return r.followRoots(ctx)
}

// precedes checks that a root of that version is signed by itself and led to the next.
func precedes(m *metadata.Metadata[metadata.RootType], version int64, next []byte) error {
	if m.Signed.Version != version {
		return fmt.Errorf("it has version %d, want %d", m.Signed.Version, version)
	}
	if err := m.VerifyDelegate(metadata.ROOT, m); err != nil {
		return fmt.Errorf("by its own keys: %w", err)
	}
	if _, err := successor(m, next); err != nil {
		return fmt.Errorf("root %d does not follow it: %w", version+1, err)
	}
	return nil
}

// followRoots takes up the roots after the newest known one. What lies under the name
// of the next and is none is a [Stray]: the newest known one stays in force, as if
// nothing lay there.
func (r *Repository) followRoots(ctx context.Context) error {
	r.stray = nil
	for {
		next := r.root.Signed.Version + 1
		key := trust.MetadataKey(metadata.ROOT, next)
		raw, err := r.fetchVersion(ctx, key)
		if fault.Is(err, fault.NotFound) {
			return nil
		} else if err != nil {
			return err
		}
		m, err := successor(r.root, raw)
		if err != nil {
			r.stray = &Stray{Key: key, Body: raw, Err: trust.Violated(trust.RuleRoot, op, fmt.Sprintf("root %d", next), err).
				WithHint("remove %s from the bucket and find who put it there: the keepers of root did not sign it", key)}
			return nil
		}
		r.root, r.roots = m, append(r.roots, raw)
		if len(r.roots) > maxRoots {
			r.roots = r.roots[1:]
		}
	}
}

// maxRoots caps the chain of roots kept; a pack holds at most 64.
const maxRoots = 32

// successor verifies a root by the one before it and by itself.
func successor(prev *metadata.Metadata[metadata.RootType], raw []byte) (*metadata.Metadata[metadata.RootType], error) {
	m, err := trust.Decode[metadata.RootType](raw)
	if err != nil {
		return nil, err
	}
	if m.Signed.Version != prev.Signed.Version+1 {
		return nil, fmt.Errorf("it has version %d, want %d", m.Signed.Version, prev.Signed.Version+1)
	}
	if err := prev.VerifyDelegate(metadata.ROOT, m); err != nil {
		return nil, fmt.Errorf("by the keys before it: %w", err)
	}
	if err := m.VerifyDelegate(metadata.ROOT, m); err != nil {
		return nil, fmt.Errorf("by its own keys: %w", err)
	}
	return m, nil
}

// readSigned reads timestamp and snapshot; a bucket without them is a fleet
// whose coordinator has not signed yet.
func (r *Repository) readSigned(ctx context.Context) error {
	raw, err := r.fetch(ctx, trust.MetadataKey(metadata.TIMESTAMP, 0))
	if fault.Is(err, fault.NotFound) {
		return nil
	} else if err != nil {
		return err
	}
	ts, err := trust.Decode[metadata.TimestampType](raw)
	if err == nil {
		err = r.signedByAnyRoot(metadata.TIMESTAMP, ts)
	}
	if err != nil {
		return trust.Violated(trust.RuleTimestamp, op, "timestamp", err)
	}
	body, sn, err := r.readSnapshot(ctx, ts)
	if err != nil && r.root.VerifyDelegate(metadata.TIMESTAMP, ts) != nil {
		// By a key that root has taken out since: a thief leads nobody astray with
		// it. The newest snapshot counts, and is stamped anew.
		return r.readAhead(ctx)
	} else if err != nil {
		return err
	}
	r.current.timestamp, r.current.timestampMeta = raw, ts
	r.current.snapshot, r.current.snapshotMeta = body, sn
	return nil
}

// readSnapshot reads the snapshot that a timestamp leads to.
func (r *Repository) readSnapshot(ctx context.Context, ts *metadata.Metadata[metadata.TimestampType]) ([]byte, *metadata.Metadata[metadata.SnapshotType], error) {
	info := ts.Signed.Meta["snapshot.json"]
	if info == nil {
		return nil, nil, trust.Violated(trust.RuleTimestamp, op, "timestamp", fmt.Errorf("it names no snapshot"))
	}
	key := trust.MetadataKey(metadata.SNAPSHOT, info.Version)
	body, err := r.fetch(ctx, key)
	if err != nil {
		return nil, nil, err
	}
	sn, err := trust.Decode[metadata.SnapshotType](body)
	if err == nil {
		err = info.VerifyLengthHashes(body)
	}
	if err == nil {
		err = r.signedByAnyRoot(metadata.SNAPSHOT, sn)
	}
	if err != nil {
		return nil, nil, trust.Violated(trust.RuleSnapshot, op, key, err)
	}
	return body, sn, nil
}

// signedByAnyRoot verifies by the newest root or, just after a rotation, by the
// last one before it whose keys fit: the coordinator then signs anew.
func (r *Repository) signedByAnyRoot(role string, m any) error {
	err := r.root.VerifyDelegate(role, m)
	for i := len(r.roots) - 2; err != nil && i >= 0; i-- {
		old, perr := trust.Decode[metadata.RootType](r.roots[i])
		if perr != nil {
			return perr
		}
		if old.VerifyDelegate(role, m) == nil {
			return nil
		}
	}
	return err
}

// readPolicy finds the newest policy that root's keys signed, from the one the
// snapshot names on.
func (r *Repository) readPolicy(ctx context.Context) error {
	from := int64(1)
	if m := r.current.snapshotMeta; m != nil && !r.vouched() && !r.opts.heartbeat() {
		from = max(from, r.seen(metadata.TARGETS))
	} else if m != nil {
		if info := m.Signed.Meta["targets.json"]; info != nil {
			from = info.Version
		}
	}
	return r.readPolicyFrom(ctx, from)
}

func (r *Repository) readPolicyFrom(ctx context.Context, from int64) error {
	var last error
	for v := from; v == from || !r.opts.heartbeat(); v++ { // a heartbeat speaks of what the snapshot names, whatever came since
		raw, err := r.fetchVersion(ctx, trust.MetadataKey(metadata.TARGETS, v))
		if fault.Is(err, fault.NotFound) {
			break
		} else if err != nil {
			return err
		}
		m, err := trust.Decode[metadata.TargetsType](raw)
		if err == nil && m.Signed.Version != v {
			err = fmt.Errorf("it has version %d", m.Signed.Version)
		}
		if err == nil {
			err = r.root.VerifyDelegate(metadata.TARGETS, m)
		}
		if err != nil {
			last = err
			continue
		}
		r.policy.raw, r.policy.meta = raw, m
		r.dirty = v != from
	}
	if r.policy.meta == nil {
		if last == nil {
			return fault.Newf(fault.NotFound, op, trust.MetadataKey(metadata.TARGETS, from), "there is no policy in the bucket").
				WithHint("check the bucket and prefix, or make a fleet with: modelfleet init")
		}
		return trust.Violated(trust.RulePolicy, op, "targets", last)
	}
	if r.policy.meta.Signed.Delegations == nil {
		return trust.Violated(trust.RulePolicy, op, "targets", fmt.Errorf("it delegates nothing"))
	}
	r.policy.targets = map[string][]byte{}
	for path, target := range r.policy.meta.Signed.Targets {
		body, err := r.fetchTarget(ctx, path, target)
		if err != nil {
			return err
		}
		r.policy.targets[path] = body
	}
	return nil
}

// readFleet reads the fleet role and its directives. One that the policy's keys
// do not verify (the coordinator's key was just replaced) is left out, and the
// next directive takes the version after it.
func (r *Repository) readFleet(ctx context.Context) error {
	r.current.directives = map[fleet.Group]json.RawMessage{}
	raw, m, err := r.readRole(ctx, trust.RoleFleet)
	if m == nil || err != nil {
		return err
	}
	r.current.fleet, r.current.fleetMeta = raw, m
	for path, target := range m.Signed.Targets {
		group, ok := strings.CutSuffix(strings.TrimPrefix(path, "fleet/"), ".json")
		if !ok {
			continue
		}
		body, err := r.fetchTarget(ctx, path, target)
		if err != nil {
			return err
		}
		r.current.directives[fleet.Group(group)] = body
	}
	return nil
}

// readSpent looks for versions past the ones in use. A version is never written
// twice, so one that a crash left behind would stop every publication after it.
func (r *Repository) readSpent(ctx context.Context) error {
	r.spent = map[string]int64{}
	if r.opts.heartbeat() {
		return nil // it signs neither
	}
	for _, role := range []string{trust.RoleFleet, metadata.SNAPSHOT} {
		for v := r.versions()[role] + 1; ; v++ {
			_, err := r.fetch(ctx, trust.MetadataKey(role, v))
			if fault.Is(err, fault.NotFound) {
				break
			} else if err != nil {
				return err
			}
			r.spent[role] = v
		}
	}
	return nil
}

// readTeams reads the publisher roles in the snapshot.
func (r *Repository) readTeams(ctx context.Context) error {
	if r.current.snapshotMeta == nil {
		return nil
	}
	for file := range r.current.snapshotMeta.Signed.Meta {
		role, ok := strings.CutSuffix(file, ".json")
		name, isTeam := strings.CutPrefix(role, "pub-")
		if !ok || !isTeam {
			continue
		}
		raw, m, err := r.readRole(ctx, role)
		if err != nil {
			return err
		}
		if m == nil { // its keys were replaced or the team was taken out: it must publish anew
			r.remember(fleet.Team(name), raw)
			continue
		}
		tr, err := trust.ReadTeamRole(m)
		if err != nil {
			return trust.Violated(trust.RulePublisher, op, role, err)
		}
		r.teams[fleet.Team(name)] = team{raw: raw, role: tr}
	}
	return nil
}

// remember keeps what a team listed under keys that were replaced. What cannot be
// read lists nothing; a team that was taken out owns nothing.
func (r *Repository) remember(name fleet.Team, raw []byte) {
	if r.policy.delegated(trust.RoleOf(name)) == nil {
		return
	}
	m, err := trust.Decode[metadata.TargetsType](raw)
	if err != nil {
		return
	}
	if tr, err := trust.ReadTeamRole(m); err == nil {
		r.former[name] = tr
	}
}

// readRole reads a delegated role at the snapshot's version: nothing when the
// snapshot does not list it, its bytes alone when the policy's keys did not sign it.
func (r *Repository) readRole(ctx context.Context, role string) (json.RawMessage, *metadata.Metadata[metadata.TargetsType], error) {
	if r.current.snapshotMeta == nil {
		return nil, nil, nil
	}
	info := r.current.snapshotMeta.Signed.Meta[role+".json"]
	if info == nil {
		return nil, nil, nil
	}
	key := trust.MetadataKey(role, info.Version)
	raw, err := r.fetch(ctx, key)
	if err != nil {
		return nil, nil, err
	}
	if err := info.VerifyLengthHashes(raw); err != nil {
		return nil, nil, trust.Violated(trust.RuleSnapshot, op, key, err)
	}
	m, err := trust.Decode[metadata.TargetsType](raw)
	if err != nil {
		return nil, nil, trust.Violated(trust.RuleFormat, op, key, err)
	}
	if r.policy.meta.VerifyDelegate(role, m) != nil {
		return raw, nil, nil
	}
	return raw, m, nil
}

func (r *Repository) fetchTarget(ctx context.Context, path string, t *metadata.TargetFiles) ([]byte, error) {
	sum := t.Hashes["sha256"]
	if len(sum) != len(fleet.Digest{}) {
		return nil, trust.Violated(trust.RuleFormat, op, path, fmt.Errorf("listed without a SHA-256 digest"))
	}
	key := trust.TargetKey(path, fleet.Digest(sum))
	body, err := r.fetch(ctx, key)
	if err != nil {
		return nil, err
	}
	if err := t.VerifyLengthHashes(body); err != nil {
		return nil, trust.Violated(trust.RuleFormat, op, key, err)
	}
	return body, nil
}

// fetch reads an object and says which one when it cannot.
func (r *Repository) fetch(ctx context.Context, key string) ([]byte, error) {
	body, err := r.get(ctx, key)
	if err != nil {
		return nil, fault.New(fault.KindOf(err), "read trust repository", key, err)
	}
	return body, nil
}

// fetchVersion reads what lies under the name of a version to come, where strangers
// may have put anything. What is too large to be read is as good as empty: junk.
func (r *Repository) fetchVersion(ctx context.Context, key string) ([]byte, error) {
	body, err := r.fetch(ctx, key)
	if errors.Is(err, registry.ErrTooLarge) {
		return nil, nil
	}
	return body, err
}

// Reload takes up roots and policies that were put into the bucket since, and
// reports whether there were any. The next Sign or Refresh publishes them. Teams
// whose keys were replaced must publish anew.
func (r *Repository) Reload(ctx context.Context) (bool, error) {
	r.mu.Lock()
	next := &Repository{get: r.get, opts: r.opts, roots: slices.Clone(r.roots), root: r.root, current: r.current}
	seen := r.policy
	r.mu.Unlock()
	rootBefore := next.root.Signed.Version
	if err := next.followRoots(ctx); err != nil {
		return false, err
	}
	if err := next.readPolicyFrom(ctx, seen.meta.Signed.Version); err != nil {
		return false, err
	}
	r.mu.Lock()
	r.stray = next.stray
	r.mu.Unlock()
	if next.root.Signed.Version == rootBefore && bytes.Equal(next.policy.raw, seen.raw) {
		return false, nil
	}
	if err := next.takeKeys(ctx); err != nil {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opts.Coordinator, r.opts.Timestamp = next.opts.Coordinator, next.opts.Timestamp
	r.roots, r.root, r.policy, r.dirty = next.roots, next.root, next.policy, true
	maps.DeleteFunc(r.former, func(name fleet.Team, _ trust.TeamRole) bool {
		return r.policy.delegated(trust.RoleOf(name)) == nil
	})
	maps.DeleteFunc(r.teams, func(name fleet.Team, t team) bool {
		_, err := r.policy.authentic(trust.RoleOf(name), t.role.Version, t.raw)
		if err != nil {
			r.remember(name, t.raw)
		}
		return err != nil
	})
	return true, nil
}

// takeKeys has this repository sign with the keys that root names, as far as they
// can be found.
func (r *Repository) takeKeys(ctx context.Context) error {
	for role, s := range map[string]*signature.Signer{metadata.SNAPSHOT: &r.opts.Coordinator, metadata.TIMESTAMP: &r.opts.Timestamp} {
		if *s == nil || r.opts.Keys == nil {
			continue
		}
		id, err := keyID(*s)
		if err != nil {
			return fault.New(fault.KindOf(err), op, role, err)
		}
		named := r.root.Signed.Roles[role]
		if named == nil || slices.Contains(named.KeyIDs, id) {
			continue
		}
		other, err := r.opts.Keys(ctx, slices.Clone(named.KeyIDs))
		if err != nil {
			return err
		}
		if other != nil {
			*s = other
		}
	}
	return nil
}
