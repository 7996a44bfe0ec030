package repository

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// Draft is a publisher's role as it stands in the bucket, and the number of its
// next version.
type Draft struct {
	Team    fleet.Team
	Role    trust.TeamRole // the newest version the team's keys signed; zero before the first
	Version int64          // of the next one: above everything in the bucket, whoever put it there
	// Carried is what the role lists when it was signed by former keys, or fewer than
	// are needed now: no member runs it until the next version is signed.
	Carried []fleet.Release
	Lost    []Lost // what that version listed and the next cannot
	base    *metadata.Metadata[metadata.TargetsType]
	policy  *metadata.Metadata[metadata.TargetsType]
	life    Lifetimes
}

// Change is what a publisher changes in its role.
type Change struct {
	Add    []Addition
	Delist []string                   // "model@version": revokes it
	Floors map[fleet.ModelName]uint64 // lowest counter that may run
	Reason string                     // why, for whoever approves or audits it; signed too
}

// Addition is a release to list.
type Addition struct {
	// Entry's Release needs team, model, version and variants with name,
	// classes and size. A Counter of 0 takes the next free one; Root and
	// Bundle are filled in.
	Entry   trust.Entry
	Bundles map[string][]byte // variant name -> OMS bundle
}

// Signed is a publisher's role ready to be written, after the bundles: under its
// own name, or as a proposal as long as signatures are missing.
type Signed struct {
	Write   Write
	Added   []trust.Entry // as listed; without those that were there already
	Missing int           // signatures it still needs: see [Repository.Review]
}

// Draft finds where a publisher's role stands. It works before the coordinator
// ever signed.
func (r *Repository) Draft(ctx context.Context, name fleet.Team) (Draft, error) {
	const op = "read publisher role"
	r.mu.Lock()
	pol, admitted, life := r.policy, r.teams[name], r.opts.Lifetimes
	r.mu.Unlock()
	role := trust.RoleOf(name)
	if pol.delegated(role) == nil {
		return Draft{}, fault.Newf(fault.NotFound, op, role, "the policy knows no team %s", name).
			WithHint("have the keeper of the policy add the team, or use one of: %v", r.Teams())
	}
	d := Draft{Team: name, Version: r.nextVersion(name), policy: pol.meta, life: life}
	if admitted.raw != nil {
		m, err := trust.Decode[metadata.TargetsType](admitted.raw)
		if err != nil {
			return Draft{}, fault.New(fault.Internal, op, role, err)
		}
		d.Role, d.base = admitted.role, m
	}
	err := r.probe(ctx, role, d.Version, func(c candidate) {
		d.Version = c.version + 1
		if c.meta == nil {
			return
		}
		if tr, err := trust.ReadTeamRole(c.meta); err == nil { // else the coordinator refuses it too; the next version repairs it
			d.base, d.Role = c.meta, tr
		}
	})
	if err == nil && d.base == nil && d.Version > 1 {
		err = r.carryOver(ctx, &d)
	}
	return d, err
}

// candidate is a version of a role in the bucket that was not admitted yet.
type candidate struct {
	version int64
	raw     json.RawMessage
	meta    *metadata.Metadata[metadata.TargetsType] // nil when err is set
	err     error                                    // why its signatures are not good
}

// probe visits the versions of a role from one on, until one is absent. However
// many somebody put there, they are passed over one by one: a version is never
// written twice, so the next one comes after all of them.
func (r *Repository) probe(ctx context.Context, role string, from int64, visit func(candidate)) error {
	r.mu.Lock()
	pol := r.policy
	r.mu.Unlock()
	for v := from; ; v++ {
		raw, err := r.fetchVersion(ctx, trust.MetadataKey(role, v))
		if fault.Is(err, fault.NotFound) {
			return nil
		} else if err != nil {
			return err
		}
		c := candidate{version: v, raw: raw}
		if c.meta, c.err = pol.authentic(role, v, raw); c.err != nil {
			c.meta = nil
		}
		visit(c)
	}
}

// maxRole caps a publisher's role: packs of limited size carry those of all teams.
const maxRole = trust.MaxPack / 2

func fits(raw []byte) error {
	if len(raw) > maxRole {
		return &trust.Violation{Rule: trust.RuleSize, Err: fmt.Errorf("a publisher's role of %d bytes, at most %d: trust packs carry it", len(raw), maxRole)}
	}
	return nil
}

// authentic checks size, form, version and signatures of a delegated role, and says
// by which key and which rule it fails.
func (p policy) authentic(role string, version int64, raw []byte) (*metadata.Metadata[metadata.TargetsType], error) {
	if err := fits(raw); err != nil {
		return nil, err
	}
	m, err := trust.Decode[metadata.TargetsType](raw)
	if err != nil {
		return nil, &trust.Violation{Rule: trust.RuleFormat, Err: err}
	}
	if m.Signed.Version != version {
		return nil, &trust.Violation{Rule: trust.RuleVersion, Err: fmt.Errorf("it has version %d under the name of version %d", m.Signed.Version, version)}
	}
	err = p.meta.VerifyDelegate(role, m)
	if err == nil {
		return m, nil
	}
	d := p.delegated(role)
	if d == nil {
		return nil, &trust.Violation{Rule: trust.RulePublisher, Err: fmt.Errorf("the policy delegates nothing to %s", role)}
	}
	var strangers, known []string
	for _, s := range m.Signatures {
		if slices.Contains(d.KeyIDs, s.KeyID) {
			known = append(known, short(s.KeyID))
		} else {
			strangers = append(strangers, short(s.KeyID))
		}
	}
	switch {
	case len(strangers) > 0 && len(known) < d.Threshold:
		err = fmt.Errorf("signed by key %s, which the policy does not delegate %s to (it does to %s)",
			strings.Join(strangers, ", "), role, strings.Join(shorts(d.KeyIDs), ", "))
	case len(known) < d.Threshold:
		err = fmt.Errorf("%d of the %d signatures that %s needs", len(known), d.Threshold, role)
	default:
		err = fmt.Errorf("the signature of key %s does not fit what it signs", strings.Join(known, ", "))
	}
	return nil, &trust.Violation{Rule: trust.RulePublisher, Err: err}
}

// Next makes the role's next version. Listing again what is listed already, with
// the same bundles, changes nothing. The role is to be put into the bucket after
// the bundles it names, created if absent: if somebody was quicker, make a new
// draft.
func (d Draft) Next(c Change, now time.Time, signers ...signature.Signer) (Signed, error) {
	const op = "sign publisher role"
	role := trust.RoleOf(d.Team)
	for _, s := range signers {
		if err := entitled(policy{meta: d.policy}, d.Team, s); err != nil {
			return Signed{}, trust.Violated(trust.RulePublisher, op, role, err)
		}
	}
	m, err := d.begin(now)
	if err != nil {
		return Signed{}, fault.New(fault.Internal, op, role, err)
	}
	out := Signed{}
	for _, a := range c.Add {
		e, err := d.add(m, a)
		if err != nil {
			return Signed{}, wrap(err, op, a.Entry.Release.Ref())
		}
		if e != nil {
			out.Added = append(out.Added, *e)
		}
	}
	for _, ref := range c.Delist {
		if err := d.delist(m, ref); err != nil {
			return Signed{}, wrap(err, op, ref)
		}
	}
	setFloors(m, c.Floors)
	setReason(m, c.Reason)
	raw, err := sign(m, signers...)
	if err != nil {
		return Signed{}, wrap(err, op, role)
	}
	if err := fits(raw); err != nil {
		return Signed{}, trust.Violated(trust.RuleSize, op, role, err).WithHint("delist releases that nobody runs any more")
	}
	dr := policy{meta: d.policy}.delegated(role)
	out.Missing = max(0, dr.Threshold-len(signers))
	if out.Missing == 0 {
		if _, err := (policy{meta: d.policy}).authentic(role, d.Version, raw); err != nil {
			return Signed{}, trust.Violated(trust.RulePublisher, op, role, err)
		}
	}
	out.Write = Write{Key: trust.MetadataKey(role, d.Version), Body: raw}
	if out.Missing > 0 {
		out.Write.Key = ProposalKey(d.Team, d.Version, raw)
	}
	return out, nil
}

// begin copies the newest version into the next.
func (d Draft) begin(now time.Time) (*metadata.Metadata[metadata.TargetsType], error) {
	m := metadata.Targets()
	if d.base != nil {
		raw, err := d.base.ToBytes(false)
		if err != nil {
			return nil, err
		}
		if m, err = trust.Decode[metadata.TargetsType](raw); err != nil {
			return nil, err
		}
		m.ClearSignatures()
	}
	m.Signed.Version, m.Signed.Expires = d.Version, expiry(now, d.life.orDefault().Publisher)
	return m, nil
}

// NextCounter is the counter the model's next release gets.
func (d Draft) NextCounter(model fleet.ModelName) uint64 {
	var top uint64
	for _, e := range d.Role.Entries {
		if e.Release.Model == model {
			top = max(top, e.Release.Counter)
		}
	}
	for _, l := range d.Lost {
		if l.Release.Model == model {
			top = max(top, l.Release.Counter)
		}
	}
	return max(top, d.Role.Floors[model]-min(1, d.Role.Floors[model])) + 1
}

// add lists a release; nil when it is listed already just so.
func (d Draft) add(m *metadata.Metadata[metadata.TargetsType], a Addition) (*trust.Entry, error) {
	e := a.Entry
	r := &e.Release
	if r.Team == "" {
		r.Team = d.Team
	}
	if r.Team != d.Team {
		return nil, &trust.Violation{Rule: trust.RulePath, Err: fmt.Errorf("team %s cannot list a release of team %s", d.Team, r.Team)}
	}
	if len(r.Variants) == 0 || len(a.Bundles) != len(r.Variants) {
		return nil, fmt.Errorf("%d variants and %d bundles", len(r.Variants), len(a.Bundles))
	}
	r.Variants = slices.Clone(r.Variants)
	slices.SortFunc(r.Variants, func(x, y fleet.Variant) int { return strings.Compare(x.Name, y.Name) })
	listed := 0
	for i := range r.Variants {
		v := &r.Variants[i]
		path := r.BundlePath(v.Name)
		if _, _, err := trust.ParseBundlePath(path); err != nil {
			return nil, err
		}
		if err := describe(v, a.Bundles[v.Name]); err != nil {
			return nil, err
		}
		if old, ok := d.Role.Entries[path]; ok {
			if old.Release.Variants[0].Root != v.Root {
				return nil, fault.Newf(fault.Conflict, "list", path, "the version is published with other content (%s, this is %s)",
					old.Release.Variants[0].Root.Short(), v.Root.Short()).WithHint("publish under a new version: a published one never changes")
			}
			listed++
		}
	}
	if listed == len(r.Variants) {
		return nil, nil
	}
	if listed > 0 {
		return nil, fault.Newf(fault.Conflict, "list", r.Ref(), "the version is published with fewer variants").
			WithHint("publish all variants under a new version")
	}
	next := d.NextCounter(r.Model)
	if r.Counter == 0 {
		r.Counter = next
	}
	if r.Counter < next {
		return nil, fmt.Errorf("counter %d, the next free one is %d", r.Counter, next)
	}
	for _, v := range r.Variants {
		raw, err := e.EncodeCustom(v)
		if err != nil {
			return nil, err
		}
		path := r.BundlePath(v.Name)
		m.Signed.Targets[path] = &metadata.TargetFiles{
			Length: int64(len(a.Bundles[v.Name])), Hashes: metadata.Hashes{"sha256": v.Bundle[:]}, Custom: &raw, Path: path,
		}
	}
	return &e, nil
}

// describe fills a variant from its bundle. The bundle's signature is checked by
// who made it, and again at admission.
func describe(v *fleet.Variant, bundle []byte) error {
	b, err := oms.Parse(bundle)
	if err != nil {
		return fmt.Errorf("bundle of variant %s: %w", v.Name, err)
	}
	m, err := b.Unverified()
	if err != nil {
		return fmt.Errorf("bundle of variant %s: %w", v.Name, err)
	}
	root := fleet.Digest(m.Root)
	if !v.Root.IsZero() && v.Root != root {
		return fmt.Errorf("variant %s has root digest %s, its bundle says %s", v.Name, v.Root.Short(), root.Short())
	}
	v.Root, v.Bundle = root, fleet.DigestOf(bundle)
	if size := m.Size(); size >= 0 {
		if v.Size != 0 && v.Size != size {
			return fmt.Errorf("variant %s has %d bytes, its bundle says %d", v.Name, v.Size, size)
		}
		v.Size = size
	}
	if v.Size <= 0 {
		return fmt.Errorf("variant %s: its size in bytes is needed", v.Name)
	}
	return nil
}

func (d Draft) delist(m *metadata.Metadata[metadata.TargetsType], ref string) error {
	model, version, err := fleet.ParseRef(ref)
	if err != nil {
		return err
	}
	n := len(m.Signed.Targets)
	maps.DeleteFunc(m.Signed.Targets, func(path string, _ *metadata.TargetFiles) bool {
		r, _, err := trust.ParseBundlePath(path)
		return err == nil && r.Model == model && r.Version == version
	})
	if len(m.Signed.Targets) == n {
		return fault.Newf(fault.NotFound, "delist", ref, "team %s does not list it", d.Team)
	}
	return nil
}

// setFloors raises floors; they never fall. Numbers are text, as TUF's canonical
// JSON and its readers lose large ones.
func setFloors(m *metadata.Metadata[metadata.TargetsType], floors map[fleet.ModelName]uint64) {
	if len(floors) == 0 {
		return
	}
	all, _ := m.Signed.UnrecognizedFields[trust.FieldFloor].(map[string]any)
	next := map[string]any{}
	maps.Copy(next, all)
	for model, floor := range floors {
		var old uint64
		if text, ok := next[string(model)].(string); ok {
			_, _ = fmt.Sscan(text, &old) // verified before: ReadTeamRole parsed it
		}
		next[string(model)] = fmt.Sprint(max(old, floor))
	}
	if m.Signed.UnrecognizedFields == nil {
		m.Signed.UnrecognizedFields = map[string]any{}
	}
	m.Signed.UnrecognizedFields[trust.FieldFloor] = next
}

// fieldReason is a publisher role's extra field that says why this version was made.
const fieldReason = "x-reason"

// setReason says why this version is made; what was said of another is dropped.
func setReason(m *metadata.Metadata[metadata.TargetsType], reason string) {
	delete(m.Signed.UnrecognizedFields, fieldReason)
	if reason == "" {
		return
	}
	if m.Signed.UnrecognizedFields == nil {
		m.Signed.UnrecognizedFields = map[string]any{}
	}
	m.Signed.UnrecognizedFields[fieldReason] = reason
}

// wrap gives err the operation; a kind or rule that it has already stays.
func wrap(err error, op, subject string) error {
	if trust.RuleOf(err) != "" {
		return trust.Violated("", op, subject, err)
	}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return fault.New(f.Kind, op, subject, err)
	}
	return fault.New(fault.Invalid, op, subject, err)
}

// short is a key id for people.
func short(id string) string { return id[:min(12, len(id))] }

func shorts(ids []string) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = short(id)
	}
	return out
}
