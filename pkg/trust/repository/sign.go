package repository

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// Publication is what the coordinator signed and must now write, in order.
type Publication struct {
	Writes  []Write // the packs last
	Packs   map[fleet.Group][]byte
	Issued  time.Time
	Expires time.Time // of the timestamp: sign again before
	// Lapsed is the role whose own expiry makes the packs stale, "" mostly: root or
	// the policy, or a timestamp that only a heartbeat can renew. Members hold what
	// they have until its keepers sign it.
	Lapsed string
	// Refused is what members will not run although the directive names it,
	// for instance because its publisher delisted it meanwhile.
	Refused []trust.Refusal
}

const signOp = "sign directive"

// Sign signs a directive: the fleet role, snapshot, timestamp and the group's
// pack. Models are sorted and Schema is set; Sequence must be above the group's
// last. Signing the very same directive again renews it. On an error nothing
// changed.
func (r *Repository) Sign(d fleet.Directive, now time.Time) (Publication, error) {
	raw, err := DirectiveBytes(d)
	if err != nil {
		return Publication{}, fault.New(fault.Invalid, signOp, string(d.Group), err)
	}
	if _, err := trust.ParseDirective(raw); err != nil { // never sign what members would not read
		return Publication{}, fault.New(fault.Invalid, signOp, string(d.Group), err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.current.directives[d.Group]; ok && !bytes.Equal(old, raw) {
		last, err := trust.ParseDirective(old)
		if err != nil {
			return Publication{}, fault.New(fault.Internal, signOp, string(d.Group), err)
		}
		if d.Sequence <= last.Sequence {
			return Publication{}, fault.Newf(fault.Conflict, signOp, string(d.Group), "sequence %d, the newest signed is %d", d.Sequence, last.Sequence).
				WithHint("read the repository again and decide anew")
		}
	}
	next := r.current
	next.directives = maps.Clone(r.current.directives)
	if next.directives == nil {
		next.directives = map[fleet.Group]json.RawMessage{}
	}
	next.directives[d.Group] = raw
	return r.publish(next, true, now, d.Group)
}

// DirectiveBytes is a directive as it is signed, and as the audit log names it by
// its digest: models sorted, Schema set.
func DirectiveBytes(d fleet.Directive) ([]byte, error) {
	d.Schema = fleet.DirectiveSchema
	d.Models = slices.Clone(d.Models)
	slices.SortFunc(d.Models, func(a, b fleet.Placement) int { return strings.Compare(string(a.Model), string(b.Model)) })
	d.Issued = d.Issued.UTC()
	return json.Marshal(d)
}

// Refresh renews what has lived two fifths of its life, and publishes teams and
// policies taken up since the last signature. ok is false when nothing was due
// (or nothing was ever signed). All groups' packs are renewed.
func (r *Repository) Refresh(now time.Time) (pub Publication, ok bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.current
	if c.snapshotMeta == nil || c.fleetMeta == nil {
		return Publication{}, false, nil
	}
	due := func(expires time.Time, life time.Duration) bool { return expires.Sub(now) < life*3/5 }
	l := r.opts.Lifetimes
	renewFleet := due(c.fleetMeta.Signed.Expires, l.Fleet) || r.policy.meta.VerifyDelegate(trust.RoleFleet, c.fleetMeta) != nil
	renewTimestamp := !r.opts.StampedElsewhere && (!c.stamped() || due(c.timestampMeta.Signed.Expires, l.Timestamp))
	if !r.dirty && !renewFleet && !due(c.snapshotMeta.Signed.Expires, l.Snapshot) && !renewTimestamp {
		return Publication{}, false, nil
	}
	pub, err = r.publish(c, renewFleet, now, slices.Sorted(maps.Keys(c.directives))...)
	return pub, err == nil, err
}

// publish signs what next says and makes the packs of groups. It changes r only
// when everything, including the verification of the packs, went well.
func (r *Repository) publish(next signed, signFleet bool, now time.Time, groups ...fleet.Group) (Publication, error) {
	if r.opts.Coordinator == nil {
		return Publication{}, fault.New(fault.Invalid, signOp, "", errReadOnly)
	}
	pub := Publication{Packs: map[fleet.Group][]byte{}, Issued: now.UTC().Truncate(time.Second)}
	if signFleet {
		writes, err := r.signFleet(&next, now)
		if err != nil {
			return Publication{}, err
		}
		pub.Writes = append(pub.Writes, writes...)
	}
	writes, err := r.signSnapshot(&next, now)
	if err != nil {
		return Publication{}, err
	}
	pub.Writes = append(pub.Writes, writes...)
	if r.opts.StampedElsewhere {
		r.current, r.dirty = next, false
		return pub, nil
	}
	write, err := r.signTimestamp(&next, now, time.Time{})
	if err != nil {
		return Publication{}, err
	}
	pub.Writes = append(pub.Writes, write)
	pub.Expires = next.timestampMeta.Signed.Expires
	for _, g := range groups {
		if err := r.addPack(&pub, next, g, now); err != nil {
			return Publication{}, err
		}
	}
	r.current, r.dirty = next, false
	return pub, nil
}

// addPack makes a group's pack, verifies it as a member would and adds it.
func (r *Repository) addPack(pub *Publication, next signed, g fleet.Group, now time.Time) error {
	pack, err := r.pack(next, g)
	if err != nil {
		return fault.New(fault.Internal, signOp, string(g), err)
	}
	t, err := r.rehearse(pack, g, now)
	if err != nil {
		return err
	}
	pub.Refused, pub.Lapsed = append(pub.Refused, t.Refused...), t.Expired
	pub.Packs[g] = pack
	pub.Writes = append(pub.Writes, Write{Key: g.PackKey(), Body: pack, Mutable: true})
	return nil
}

// signFleet makes the fleet role's next version, which lists all groups' directives.
func (r *Repository) signFleet(next *signed, now time.Time) ([]Write, error) {
	m := metadata.Targets(expiry(now, r.opts.Lifetimes.Fleet))
	m.Signed.Version = 1
	if s := next.snapshotMeta; s != nil {
		if info := s.Signed.Meta["fleet.json"]; info != nil {
			m.Signed.Version = info.Version + 1
		}
	}
	m.Signed.Version = max(m.Signed.Version, r.spent[trust.RoleFleet]+1)
	var writes []Write
	for _, g := range slices.Sorted(maps.Keys(next.directives)) {
		body, path := next.directives[g], g.TargetPath()
		sum := fleet.DigestOf(body)
		m.Signed.Targets[path] = &metadata.TargetFiles{Length: int64(len(body)), Hashes: metadata.Hashes{"sha256": sum[:]}, Path: path}
		writes = append(writes, Write{Key: trust.TargetKey(path, sum), Body: body})
	}
	raw, err := sign(m, r.opts.Coordinator)
	if err != nil {
		return nil, fault.New(fault.KindOf(err), signOp, trust.RoleFleet, err)
	}
	if err := r.policy.meta.VerifyDelegate(trust.RoleFleet, m); err != nil {
		return nil, r.wrongKey(trust.RulePolicy, trust.RoleFleet, m.Signatures, err)
	}
	next.fleet, next.fleetMeta = raw, m
	return append(writes, Write{Key: trust.MetadataKey(trust.RoleFleet, m.Signed.Version), Body: raw}), nil
}

// signSnapshot pins the versions and hashes of all roles. A role once listed
// stays: members refuse a snapshot that lost one.
func (r *Repository) signSnapshot(next *signed, now time.Time) ([]Write, error) {
	m := metadata.Snapshot(expiry(now, r.opts.Lifetimes.Snapshot))
	if old := next.snapshotMeta; old != nil {
		m.Signed.Version = old.Signed.Version + 1
		maps.Copy(m.Signed.Meta, old.Signed.Meta)
	}
	m.Signed.Version = max(m.Signed.Version, r.spent[metadata.SNAPSHOT]+1)
	m.Signed.Meta["targets.json"] = metaFile(r.policy.meta.Signed.Version, r.policy.raw)
	m.Signed.Meta["fleet.json"] = metaFile(next.fleetMeta.Signed.Version, next.fleet)
	for name, t := range r.teams {
		m.Signed.Meta[trust.RoleOf(name)+".json"] = metaFile(t.role.Version, t.raw)
	}
	raw, err := sign(m, r.opts.Coordinator)
	if err != nil {
		return nil, fault.New(fault.KindOf(err), signOp, metadata.SNAPSHOT, err)
	}
	if err := r.root.VerifyDelegate(metadata.SNAPSHOT, m); err != nil {
		return nil, r.wrongKey(trust.RuleSnapshot, metadata.SNAPSHOT, m.Signatures, err)
	}
	next.snapshot, next.snapshotMeta = raw, m
	return []Write{{Key: trust.MetadataKey(metadata.SNAPSHOT, m.Signed.Version), Body: raw}}, nil
}

// signTimestamp says that the snapshot is the newest, and when that was said.
// Unless it is zero, until is the latest it may be valid.
func (r *Repository) signTimestamp(next *signed, now, until time.Time) (Write, error) {
	if err := r.clockWentBack(next.timestampMeta, now); err != nil {
		return Write{}, err
	}
	m := metadata.Timestamp(expiry(now, r.opts.Lifetimes.Timestamp))
	if !until.IsZero() && m.Signed.Expires.After(until) {
		m.Signed.Expires = until
	}
	if old := next.timestampMeta; old != nil && !r.ranAhead(old) {
		m.Signed.Version = old.Signed.Version + 1
	}
	m.Signed.Meta["snapshot.json"] = metaFile(next.snapshotMeta.Signed.Version, next.snapshot)
	m.Signed.UnrecognizedFields = map[string]any{trust.FieldIssued: now.UTC().Format(time.RFC3339)}
	raw, err := sign(m, r.opts.Timestamp)
	if err != nil {
		return Write{}, fault.New(fault.KindOf(err), signOp, metadata.TIMESTAMP, err)
	}
	if err := r.root.VerifyDelegate(metadata.TIMESTAMP, m); err != nil {
		return Write{}, r.wrongKey(trust.RuleTimestamp, metadata.TIMESTAMP, m.Signatures, err)
	}
	next.timestamp, next.timestampMeta = raw, m
	return Write{Key: trust.MetadataKey(metadata.TIMESTAMP, m.Signed.Version), Body: raw, Mutable: true}, nil
}

// ranAhead reports whether a timestamp has no successor, and need have none: its key
// was taken out, and with other keys versions begin anew.
func (r *Repository) ranAhead(m *metadata.Metadata[metadata.TimestampType]) bool {
	return m.Signed.Version >= maxVersion && r.root.VerifyDelegate(metadata.TIMESTAMP, m) != nil
}

// ClockSlack is how far the clocks of those who sign timestamps may be apart.
const ClockSlack = 5 * time.Minute

// clockWentBack refuses a time before that of the last timestamp: members never let
// their time fall behind one they verified, and would take what is signed for stale.
// With another key of the role time begins anew, for them as well.
func (r *Repository) clockWentBack(last *metadata.Metadata[metadata.TimestampType], now time.Time) error {
	if last == nil || r.root.VerifyDelegate(metadata.TIMESTAMP, last) != nil {
		return nil
	}
	issued := issuedOf(last)
	if issued.Sub(now) <= ClockSlack {
		return nil
	}
	return fault.Newf(fault.Transient, stampOp, "", "the clock says %s, and version %d was signed at %s, which is later",
		now.UTC().Format(time.RFC3339), last.Signed.Version, issued.UTC().Format(time.RFC3339)).
		WithHint("mend this machine's clock; if it is right, the clock was ahead when that was signed: `modelfleet key rotate timestamp` begins anew")
}

// maxVersion is where JSON's readers begin to lose whole numbers.
const maxVersion = 1 << 53

// wrongKey says that a signer of ours is not the one the fleet trusts.
func (r *Repository) wrongKey(rule trust.Rule, role string, sigs []metadata.Signature, err error) error {
	id := ""
	for _, s := range sigs {
		id = short(s.KeyID)
	}
	return trust.Violated(rule, signOp, role, fmt.Errorf("key %s is not the one that %s is delegated to: %w", id, role, err)).
		WithHint("start the coordinator with the key it was initialised with, or have root and policy name the new one")
}

// pack collects all a member of the group needs.
func (r *Repository) pack(c signed, g fleet.Group) ([]byte, error) {
	directive, ok := c.directives[g]
	if !ok {
		return nil, fmt.Errorf("no directive was signed for group %s", g)
	}
	d, err := trust.ParseDirective(directive)
	if err != nil {
		return nil, err
	}
	targets := maps.Clone(r.policy.targets)
	maps.DeleteFunc(targets, func(path string, _ []byte) bool { return !trust.ForMembers(path) })
	p := trust.Pack{
		Roots: r.roots, Timestamp: c.timestamp, Snapshot: c.snapshot, Policy: r.policy.raw, Fleet: c.fleet,
		Publishers: r.publishers(d), Directive: directive, Targets: targets,
	}
	p.Audit = r.proofs[trust.AuditProofKey(string(r.policy.targets[trust.PathAuditKey]), fleet.DigestOf(directive))]
	return p.Encode()
}

// rehearse verifies a pack as a member that just enrolled would. What its keepers
// let expire, root or the policy for instance, is told and not refused: members
// hold what they have, and the coordinator goes on.
func (r *Repository) rehearse(pack []byte, g fleet.Group, now time.Time) (trust.Trusted, error) {
	t, _, err := r.verifier.Verify(pack, trust.State{Root: r.roots[len(r.roots)-1]}, fleet.Facts{Group: g}, now)
	if err != nil {
		return t, fault.New(fault.Untrusted, signOp, string(g), err)
	}
	return t, nil
}

// Pack is the newest pack of a group, made from what was signed last.
func (r *Repository) Pack(g fleet.Group) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.current.directives[g]; !ok {
		return nil, fault.Newf(fault.NotFound, "make pack", string(g), "no directive was signed for the group")
	}
	pack, err := r.pack(r.current, g)
	if err != nil {
		return nil, fault.New(fault.Internal, "make pack", string(g), err)
	}
	return pack, nil
}

func metaFile(version int64, raw []byte) *metadata.MetaFiles {
	sum := fleet.DigestOf(raw)
	return &metadata.MetaFiles{Version: version, Length: int64(len(raw)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}
