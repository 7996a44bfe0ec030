package repository

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// A publisher's role that needs two signatures cannot be put under its own name
// with one: an incomplete version there would be spent for good. It waits as a
// proposal until somebody else of the team has looked at it and signed too:
//
//	signed, _ := draft.Next(change, now, ana)              // signed.Write goes to proposals/
//	review, _ := repo.Review(ctx, "vision", key, raw, now) // what ben looks at
//	signed, _ = review.Approve(ben)                        // signed.Write goes to tuf/
//
// A proposal proves nothing: everything is verified by whoever approves it, and
// the complete role again by the coordinator and by every member.

// Proposals begins the keys of all proposals in the bucket.
const Proposals = "proposals/"

// ProposalPrefix begins the keys of a team's proposals in the bucket.
func ProposalPrefix(t fleet.Team) string { return Proposals + trust.RoleOf(t) + "/" }

// ProposalKey is where a proposal lies: it names the version it would become and
// its own digest.
func ProposalKey(t fleet.Team, version int64, raw []byte) string {
	return fmt.Sprintf("%s%d.%s.json", ProposalPrefix(t), version, fleet.DigestOf(raw))
}

// ParseProposalKey reads which role's version a proposal is for.
func ParseProposalKey(key string) (role string, version int64, ok bool) {
	rest, is := strings.CutPrefix(key, Proposals)
	role, name, in := strings.Cut(rest, "/")
	parts := strings.Split(name, ".")
	if !is || !in || len(parts) != 3 || parts[2] != "json" {
		return "", 0, false
	}
	version, err := strconv.ParseInt(parts[0], 10, 64)
	return role, version, err == nil && version > 0
}

// ProposalExpires is when what a proposal says expires, as it says itself.
func ProposalExpires(raw []byte) (at time.Time, ok bool) {
	m, err := trust.Decode[metadata.TargetsType](raw)
	if err != nil {
		return at, false
	}
	return m.Signed.Expires, true
}

// Review is a proposal that was verified, and what it would change.
type Review struct {
	Team     fleet.Team
	Version  int64
	Key      string   // in the bucket
	Reason   string   // why, as whoever proposed it signed
	Signers  []string // ids of the keys that signed it
	Missing  int      // signatures it still needs
	Added    []trust.Entry
	Delisted []fleet.Release
	Carried  []fleet.Release            // listed under former keys, or too few: this signs them anew
	Lost     []Lost                     // listed by former keys, and not by this version
	Floors   map[fleet.ModelName]uint64 // raised
	Entries  map[string]trust.Entry     // the variants it adds, by bundle path

	raw    json.RawMessage
	policy policy
}

const reviewOp = "review proposal"

// Review verifies a proposal as the coordinator and members will verify the role:
// name, signatures, paths, versions that never change, floors that never fall,
// and the OMS signature of each new bundle. One for a version that was taken
// meanwhile is a Conflict.
func (r *Repository) Review(ctx context.Context, name fleet.Team, key string, raw []byte, now time.Time) (Review, error) {
	d, err := r.Draft(ctx, name)
	if err != nil {
		return Review{}, err
	}
	v := Review{Team: name, Key: key, raw: raw, policy: policy{meta: d.policy}}
	m, err := v.authentic()
	if err != nil {
		return Review{}, trust.Violated(trust.RulePublisher, reviewOp, key, err).
			WithHint("do not approve it: look into who may write to the bucket")
	}
	v.Version = m.Signed.Version
	v.Reason, _ = m.Signed.UnrecognizedFields[fieldReason].(string)
	if v.Version != d.Version {
		return v, fault.Newf(fault.Conflict, reviewOp, key, "somebody was quicker: %s is at version %d, this would be version %d", trust.RoleOf(name), d.Version-1, v.Version).
			WithHint("have it proposed again, by repeating the command that proposed it")
	}
	a := Admission{Team: name}
	next, err := r.inspect(ctx, name, d.Role, candidate{version: v.Version, raw: raw, meta: m}, now, &a)
	if err != nil {
		return v, wrap(err, reviewOp, key)
	}
	v.Added, v.Delisted, v.Floors = a.Added, a.Delisted, a.Floors
	v.Entries, v.Lost = maps.Clone(next.role.Entries), d.Lost
	for _, c := range d.Carried {
		if !slices.ContainsFunc(v.Delisted, func(r fleet.Release) bool { return r.Ref() == c.Ref() }) {
			v.Carried = append(v.Carried, c)
		}
	}
	maps.DeleteFunc(v.Entries, func(path string, _ trust.Entry) bool { _, old := d.Role.Entries[path]; return old })
	return v, nil
}

// authentic checks the proposal's name and each of its signatures, and fills in
// who signed.
func (v *Review) authentic() (*metadata.Metadata[metadata.TargetsType], error) {
	if err := fits(v.raw); err != nil {
		return nil, err
	}
	m, err := trust.Decode[metadata.TargetsType](v.raw)
	if err != nil {
		return nil, &trust.Violation{Rule: trust.RuleFormat, Err: err}
	}
	if want := ProposalKey(v.Team, m.Signed.Version, v.raw); v.Key != want {
		return nil, &trust.Violation{Rule: trust.RuleFormat, Err: fmt.Errorf("it was changed after it was proposed: its name should be %s", want)}
	}
	dr := v.policy.delegated(trust.RoleOf(v.Team))
	if len(m.Signatures) == 0 {
		return nil, fmt.Errorf("nobody signed it")
	}
	for _, s := range m.Signatures {
		if !slices.Contains(dr.KeyIDs, s.KeyID) {
			return nil, fmt.Errorf("signed by key %s, which the policy does not delegate %s to", short(s.KeyID), dr.Name)
		}
		if err := v.policy.signedBy(s.KeyID, m); err != nil {
			return nil, err
		}
		v.Signers = append(v.Signers, s.KeyID)
	}
	v.Missing = max(0, dr.Threshold-len(v.Signers))
	return m, nil
}

// signedBy checks the signature of one key, whatever the role's threshold.
func (p policy) signedBy(id string, m *metadata.Metadata[metadata.TargetsType]) error {
	alone := metadata.Targets()
	alone.Signed.Delegations = &metadata.Delegations{
		Keys:  p.meta.Signed.Delegations.Keys,
		Roles: []metadata.DelegatedRole{{Name: "one", KeyIDs: []string{id}, Threshold: 1}},
	}
	if err := alone.VerifyDelegate("one", m); err != nil {
		return fmt.Errorf("the signature of key %s does not fit what it signs", short(id))
	}
	return nil
}

// Approve adds the signature of another key of the team. Complete, the role is
// to be put into the bucket under its own name; else as a proposal again.
func (v Review) Approve(s signature.Signer) (Signed, error) {
	const op = "approve proposal"
	if err := entitled(v.policy, v.Team, s); err != nil {
		return Signed{}, trust.Violated(trust.RulePublisher, op, v.Key, err)
	}
	id, err := keyID(s)
	if err != nil {
		return Signed{}, fault.New(fault.Internal, op, v.Key, err)
	}
	if slices.Contains(v.Signers, id) {
		return Signed{}, fault.Newf(fault.Denied, op, v.Key, "key %s proposed or approved it already", short(id)).
			WithHint("somebody else of team %s must approve it, with a key of their own", v.Team)
	}
	raw, err := Countersign(v.raw, s)
	if err != nil {
		return Signed{}, err
	}
	out := Signed{Added: v.Added, Missing: v.Missing - 1}
	if out.Missing > 0 {
		out.Write = Write{Key: ProposalKey(v.Team, v.Version, raw), Body: raw}
		return out, nil
	}
	role := trust.RoleOf(v.Team)
	if _, err := v.policy.authentic(role, v.Version, raw); err != nil {
		return Signed{}, trust.Violated(trust.RulePublisher, op, v.Key, err)
	}
	out.Write = Write{Key: trust.MetadataKey(role, v.Version), Body: raw}
	return out, nil
}

// SameChange reports whether two versions of a publisher's role list the same and
// set the same floors, whenever and by whomever they were signed.
func SameChange(a, b []byte) bool {
	x, errX := trust.Decode[metadata.TargetsType](a)
	y, errY := trust.Decode[metadata.TargetsType](b)
	if errX != nil || errY != nil {
		return false
	}
	says := func(m *metadata.Metadata[metadata.TargetsType]) []byte {
		text, err := json.Marshal([]any{m.Signed.Version, m.Signed.Targets, m.Signed.UnrecognizedFields[trust.FieldFloor]})
		if err != nil {
			return nil
		}
		return text
	}
	return bytes.Equal(says(x), says(y))
}

// entitled checks that the policy delegates the team's role to the signer.
func entitled(p policy, t fleet.Team, s signature.Signer) error {
	id, err := keyID(s)
	if err != nil {
		return err
	}
	dr := p.delegated(trust.RoleOf(t))
	if !slices.Contains(dr.KeyIDs, id) {
		return fmt.Errorf("key %s is not one the policy delegates %s to (it does to %s)",
			short(id), dr.Name, strings.Join(shorts(dr.KeyIDs), ", "))
	}
	return nil
}
