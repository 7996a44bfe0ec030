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
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

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
	Coordinator signature.Signer // signs fleet and snapshot; nil to read, or to stamp, only
	Timestamp   signature.Signer // signs timestamp; default Coordinator
	// StampedElsewhere says that others hold the timestamp's keys: what is signed
	// here ends with the snapshot, and members see it once it was stamped.
	StampedElsewhere bool
	// Keys finds a key by its ids when root names another than Coordinator or
	// Timestamp; nil, nil when there is none. So whoever signs goes on with the
	// next key once it is in force, without a restart. May be nil.
	Keys      func(ctx context.Context, ids []string) (signature.Signer, error)
	Lifetimes Lifetimes
	// Known are the versions this caller signed or saw before: a bucket that
	// shows older ones is refused.
	Known map[string]int64
	// Seen are those versions too, to go back to when the snapshot in the bucket is
	// of keys that root has taken out. Nothing is refused for them.
	Seen map[string]int64
}

// Repository is the coordinator's, or a publisher's, view of a fleet's TUF
// repository. It is safe for concurrent use. Signing advances it at once: the
// caller persists the returned writes together with the decision and repeats
// them until they are done; after a restart it does so before [Open].
type Repository struct {
	get  Get
	opts Options

	mu     sync.Mutex // guards everything below
	roots  []json.RawMessage
	root   *metadata.Metadata[metadata.RootType]
	stray  *Stray
	policy policy
	teams  map[fleet.Team]team
	// former is what teams listed under keys that were replaced, until they publish
	// anew: it does not run, and nobody else may take the models meanwhile.
	former  map[fleet.Team]trust.TeamRole
	current signed
	dirty   bool // teams or policy changed since the snapshot was signed
	// spent are versions of fleet and snapshot that lie in the bucket although no
	// timestamp leads to them: whoever began to publish them did not finish, and
	// nobody can. They are passed over.
	spent map[string]int64
	// proofs that directives are in the audit log, by [trust.AuditProofKey].
	proofs   map[string]json.RawMessage
	verifier trust.Verifier // of the packs that are made
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

// delegated is the policy's delegation to a role, or nil.
func (p policy) delegated(role string) *metadata.DelegatedRole {
	for i, d := range p.meta.Signed.Delegations.Roles {
		if d.Name == role {
			return &p.meta.Signed.Delegations.Roles[i]
		}
	}
	return nil
}

// TimestampVersion reads the version of a timestamp that the fleet's newest root
// vouches for; ok is false for anything else. What a key signed that root has
// taken out is as good as absent.
func (r *Repository) TimestampVersion(raw []byte) (version int64, ok bool) {
	if m := r.timestamp(raw); m != nil {
		return m.Signed.Version, true
	}
	return 0, false
}

// timestamp is a timestamp that the fleet's newest root vouches for, or nil.
func (r *Repository) timestamp(raw []byte) *metadata.Metadata[metadata.TimestampType] {
	m, err := trust.Decode[metadata.TimestampType](raw)
	if err != nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.root.VerifyDelegate(metadata.TIMESTAMP, m) != nil {
		return nil
	}
	return m
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

// Coordinator is the key that directives and snapshots are signed with here.
func (r *Repository) Coordinator() signature.Signer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.opts.Coordinator
}

// Policy is the newest targets.json that root's keys signed, and the files it
// lists, by path.
func (r *Repository) Policy() (raw []byte, targets map[string][]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.policy.raw), maps.Clone(r.policy.targets)
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
