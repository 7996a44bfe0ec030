// Package repository makes a fleet's TUF repository and the trust packs that
// package trust verifies. Three parties use it:
//
//	genesis, err := repository.Init(...)              // the root's keepers, once: root and policy
//	draft, err := repo.Draft(ctx, "vision")           // a publisher: its role's next version
//	signed, err := draft.Next(change, now, key)
//	admission, err := repo.Admit(ctx, "vision", now)  // the coordinator: take it up
//	pub, err := repo.Sign(directive, now)             // ... and say what runs
//
// Nothing here writes to the bucket. What to write comes back as a list of
// [Write] in the order in which it must be done, so that whoever reads at any
// moment between two writes sees a whole repository: targets, roles, snapshot,
// timestamp, and the packs last. The layout is that of TUF's consistent
// snapshots; any TUF client can follow it.
package repository

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// Get reads an object of the bucket whole. An absent one is a fault of kind NotFound.
type Get func(ctx context.Context, key string) ([]byte, error)

// Write is one object to be put into the bucket.
type Write struct {
	Key  string
	Body []byte
	// Mutable objects are replaced, by compare and swap. All others are
	// created if absent; finding the same bytes there is success, other bytes
	// mean that somebody else signed the same version: a Conflict.
	Mutable bool
}

// Lifetimes is how long each role's metadata is valid. Zero fields take the
// default.
type Lifetimes struct {
	Root      time.Duration // 365 days
	Policy    time.Duration // 365 days
	Publisher time.Duration // 365 days
	Fleet     time.Duration // 7 days
	Snapshot  time.Duration // 7 days
	Timestamp time.Duration // 24 hours: after it members hold what they have
}

func (l Lifetimes) orDefault() Lifetimes {
	const day = 24 * time.Hour
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&l.Root, 365*day)
	set(&l.Policy, 365*day)
	set(&l.Publisher, 365*day)
	set(&l.Fleet, 7*day)
	set(&l.Snapshot, 7*day)
	set(&l.Timestamp, day)
	return l
}

// Options says how to open a repository.
type Options struct {
	Root        []byte           // a root.json that is trusted already; newer ones are found from it
	Coordinator signature.Signer // signs fleet and snapshot; nil to read only
	Timestamp   signature.Signer // signs timestamp; default Coordinator
	Lifetimes   Lifetimes
	// Known are the versions this caller signed or saw before: a bucket that
	// shows older ones is refused.
	Known map[string]int64
}

// Repository is the coordinator's, or a publisher's, view of a fleet's TUF
// repository. It is safe for concurrent use. Signing advances it at once: the
// caller persists the returned writes together with the decision and repeats
// them until they are done; after a restart it does so before [Open].
type Repository struct {
	get  Get
	opts Options

	mu      sync.Mutex // guards everything below
	roots   []json.RawMessage
	root    *metadata.Metadata[metadata.RootType]
	policy  policy
	teams   map[fleet.Team]team
	current signed
	dirty   bool // teams or policy changed since the snapshot was signed
}

// policy is the top targets role with the files it lists.
type policy struct {
	raw     json.RawMessage
	meta    *metadata.Metadata[metadata.TargetsType]
	targets map[string][]byte
}

// team is a publisher's admitted role.
type team struct {
	raw  json.RawMessage
	role trust.TeamRole
}

// signed is what the coordinator signs. Zero before its first signature.
type signed struct {
	fleet, snapshot, timestamp json.RawMessage
	fleetMeta                  *metadata.Metadata[metadata.TargetsType]
	snapshotMeta               *metadata.Metadata[metadata.SnapshotType]
	timestampMeta              *metadata.Metadata[metadata.TimestampType]
	directives                 map[fleet.Group]json.RawMessage
}

const op = "open trust repository"

// Open reads the repository out of a bucket and verifies it from the root on.
// Expired metadata is no error: the coordinator is there to renew it.
func Open(ctx context.Context, get Get, o Options) (*Repository, error) {
	if o.Timestamp == nil {
		o.Timestamp = o.Coordinator
	}
	o.Lifetimes = o.Lifetimes.orDefault()
	r := &Repository{get: get, opts: o, teams: map[fleet.Team]team{}}
	for _, step := range []func(context.Context) error{r.readRoots, r.readSigned, r.readPolicy, r.readFleet, r.readTeams} {
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
	pinned, err := metadata.Root().FromBytes(r.opts.Root)
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
		r.roots = slices.Insert(r.roots, 0, json.RawMessage(raw))
	}
	return r.followRoots(ctx)
}

// followRoots takes up the roots after the newest known one.
func (r *Repository) followRoots(ctx context.Context) error {
	for {
		next := r.root.Signed.Version + 1
		raw, err := r.fetch(ctx, trust.MetadataKey(metadata.ROOT, next))
		if fault.Is(err, fault.NotFound) {
			return nil
		} else if err != nil {
			return err
		}
		m, err := successor(r.root, raw)
		if err != nil {
			return trust.Violated(trust.RuleRoot, op, fmt.Sprintf("root %d", next), err)
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
	m, err := metadata.Root().FromBytes(raw)
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
	ts, err := metadata.Timestamp().FromBytes(raw)
	if err == nil {
		err = r.signedByAnyRoot(metadata.TIMESTAMP, ts)
	}
	if err != nil {
		return trust.Violated(trust.RuleTimestamp, op, "timestamp", err)
	}
	info := ts.Signed.Meta["snapshot.json"]
	if info == nil {
		return trust.Violated(trust.RuleTimestamp, op, "timestamp", fmt.Errorf("it names no snapshot"))
	}
	key := trust.MetadataKey(metadata.SNAPSHOT, info.Version)
	body, err := r.fetch(ctx, key)
	if err != nil {
		return err
	}
	sn, err := metadata.Snapshot().FromBytes(body)
	if err == nil {
		err = info.VerifyLengthHashes(body)
	}
	if err == nil {
		err = r.signedByAnyRoot(metadata.SNAPSHOT, sn)
	}
	if err != nil {
		return trust.Violated(trust.RuleSnapshot, op, key, err)
	}
	r.current.timestamp, r.current.timestampMeta = raw, ts
	r.current.snapshot, r.current.snapshotMeta = body, sn
	return nil
}

// signedByAnyRoot verifies by the newest root or, just after a rotation, by the
// last one before it whose keys fit: the coordinator then signs anew.
func (r *Repository) signedByAnyRoot(role string, m any) error {
	err := r.root.VerifyDelegate(role, m)
	for i := len(r.roots) - 2; err != nil && i >= 0; i-- {
		old, perr := metadata.Root().FromBytes(r.roots[i])
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
	if r.current.snapshotMeta != nil {
		if info := r.current.snapshotMeta.Signed.Meta["targets.json"]; info != nil {
			from = info.Version
		}
	}
	return r.readPolicyFrom(ctx, from)
}

func (r *Repository) readPolicyFrom(ctx context.Context, from int64) error {
	var last error
	for v := from; v < from+maxProbe; v++ {
		raw, err := r.fetch(ctx, trust.MetadataKey(metadata.TARGETS, v))
		if fault.Is(err, fault.NotFound) {
			break
		} else if err != nil {
			return err
		}
		m, err := metadata.Targets().FromBytes(raw)
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

// maxProbe is how many versions past the known one are looked at.
const maxProbe = 256

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
		if m == nil {
			continue // its keys were replaced or the team was taken out: it must publish anew
		}
		tr, err := trust.ReadTeamRole(m)
		if err != nil {
			return trust.Violated(trust.RulePublisher, op, role, err)
		}
		r.teams[fleet.Team(name)] = team{raw: raw, role: tr}
	}
	return nil
}

// readRole reads a delegated role at the snapshot's version; nil when the
// snapshot does not list it or the policy's keys did not sign it.
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
	m, err := metadata.Targets().FromBytes(raw)
	if err != nil {
		return nil, nil, trust.Violated(trust.RuleFormat, op, key, err)
	}
	if r.policy.meta.VerifyDelegate(role, m) != nil {
		return nil, nil, nil
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
	if next.root.Signed.Version == rootBefore && bytes.Equal(next.policy.raw, seen.raw) {
		return false, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.roots, r.root, r.policy, r.dirty = next.roots, next.root, next.policy, true
	maps.DeleteFunc(r.teams, func(name fleet.Team, t team) bool {
		_, err := r.policy.authentic(trust.RoleOf(name), t.role.Version, t.raw)
		return err != nil
	})
	return true, nil
}

// delegated is the policy's delegation to a role, or nil.
func (p policy) delegated(role string) *metadata.DelegatedRole {
	for i, d := range p.meta.Signed.Delegations.Roles {
		if d.Name == role {
			return &p.meta.Signed.Delegations.Roles[i]
		}
	}
	return nil
}

// Versions is the newest version of each role, for [Options.Known].
func (r *Repository) Versions() map[string]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.versions()
}

func (r *Repository) versions() map[string]int64 {
	v := map[string]int64{metadata.ROOT: r.root.Signed.Version, metadata.TARGETS: r.policy.meta.Signed.Version}
	if m := r.current.timestampMeta; m != nil {
		v[metadata.TIMESTAMP] = m.Signed.Version
	}
	if m := r.current.snapshotMeta; m != nil {
		v[metadata.SNAPSHOT] = m.Signed.Version
		if info := m.Signed.Meta["fleet.json"]; info != nil {
			v[trust.RoleFleet] = info.Version
		}
	}
	for name, t := range r.teams {
		v[trust.RoleOf(name)] = t.role.Version
	}
	return v
}

// Fleet is the fleet's name, as the policy says.
func (r *Repository) Fleet() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	name, _ := r.policy.meta.Signed.UnrecognizedFields[trust.FieldFleet].(string)
	return name
}

// Root is the newest root.json.
func (r *Repository) Root() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.roots[len(r.roots)-1])
}

// DeviceCA is the certificates, in PEM, that the policy lists; nil when it
// lists none.
func (r *Repository) DeviceCA() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.policy.targets[trust.PathDeviceCA])
}

// Teams is the publishers that the policy knows, sorted.
func (r *Repository) Teams() []fleet.Team {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []fleet.Team
	for _, d := range r.policy.meta.Signed.Delegations.Roles {
		if name, ok := strings.CutPrefix(d.Name, "pub-"); ok {
			out = append(out, fleet.Team(name))
		}
	}
	slices.Sort(out)
	return out
}

// Keys is the public keys that the policy delegates a team's role to: any of
// them may sign the team's OMS bundles. None when the policy knows no such team.
func (r *Repository) Keys(name fleet.Team) ([]*ecdsa.PublicKey, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys, err := trust.DelegatedKeys(r.policy.meta.Signed.Delegations, trust.RoleOf(name))
	if err != nil {
		return nil, trust.Violated(trust.RulePolicy, "read policy", trust.RoleOf(name), err)
	}
	return keys, nil
}

// Releases is what the admitted publishers list, sorted by model and counter;
// each entry holds all variants.
func (r *Repository) Releases() ([]trust.Entry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []trust.Entry
	for _, t := range r.teams {
		es, err := merge(t.role)
		if err != nil {
			return nil, err
		}
		out = append(out, es...)
	}
	sortEntries(out)
	return out, nil
}

// Directive is the newest directive signed for a group; ok is false when there
// is none.
func (r *Repository) Directive(g fleet.Group) (d fleet.Directive, ok bool, err error) {
	r.mu.Lock()
	raw, ok := r.current.directives[g]
	r.mu.Unlock()
	if !ok {
		return d, false, nil
	}
	d, err = trust.ParseDirective(raw)
	return d, true, err
}
