package trust

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"golang.org/x/mod/semver"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// TeamRole is what a publisher's role says, once somebody verified it.
type TeamRole struct {
	Version int64
	Expires time.Time
	Entries map[string]Entry // by bundle path; each with its one variant
	Floors  map[fleet.ModelName]uint64
}

// ReadTeamRole reads a publisher's role that was already verified.
func ReadTeamRole(m *metadata.Metadata[metadata.TargetsType]) (TeamRole, error) {
	out := TeamRole{Version: m.Signed.Version, Expires: m.Signed.Expires, Entries: map[string]Entry{}, Floors: map[fleet.ModelName]uint64{}}
	for path, target := range m.Signed.Targets {
		sum := target.Hashes["sha256"]
		if len(sum) != len(fleet.Digest{}) || target.Custom == nil {
			return out, broken(RuleFormat, "%s is listed without a SHA-256 digest or without facts", path)
		}
		e, err := decodeEntry(path, fleet.Digest(sum), *target.Custom)
		if err != nil {
			return out, broken(RuleFormat, "%w", err)
		}
		out.Entries[path] = e
	}
	raw, ok := m.Signed.UnrecognizedFields[FieldFloor]
	if !ok {
		return out, nil
	}
	floors, ok := raw.(map[string]any)
	if !ok {
		return out, broken(RuleFormat, "%s is not an object", FieldFloor)
	}
	for model, v := range floors {
		text, _ := v.(string)
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return out, broken(RuleFormat, "%s of %s: %v", FieldFloor, model, v)
		}
		out.Floors[fleet.ModelName(model)] = n
	}
	return out, nil
}

// allOf checks that the role speaks of one team only. What a role is called is not in
// what is signed: a key of two teams' would let one team's pass for the other's.
func (t TeamRole) allOf(team fleet.Team) error {
	for path, e := range t.Entries {
		if e.Release.Team != team {
			return broken(RulePath, "role %s lists %s", RoleOf(team), path)
		}
	}
	return nil
}

// PathsOf checks that every path a publisher's role lists is delegated to it.
func (t TeamRole) PathsOf(d *metadata.Delegations, team fleet.Team) error {
	for path := range t.Entries {
		if err := onlyRole(d, path, RoleOf(team)); err != nil {
			return err
		}
	}
	return nil
}

// DelegatedKeys is the ECDSA keys that the policy gives a role.
func DelegatedKeys(d *metadata.Delegations, role string) ([]*ecdsa.PublicKey, error) {
	var out []*ecdsa.PublicKey
	for _, r := range d.Roles {
		if r.Name != role {
			continue
		}
		for _, id := range r.KeyIDs {
			key := d.Keys[id]
			if key == nil {
				return nil, fmt.Errorf("the policy names key %.12s but does not hold it", id)
			}
			pub, err := key.ToPublicKey()
			if err != nil {
				return nil, err
			}
			if ec, ok := pub.(*ecdsa.PublicKey); ok {
				out = append(out, ec)
			}
		}
	}
	return out, nil
}

// teamRole is a publisher's role as this session sees it.
type teamRole struct {
	TeamRole
	keys []*ecdsa.PublicKey
	err  error // why nothing of it may be run
}

// placements keeps of the directive what publishers back.
func (s *session) placements() error {
	s.teams, s.out.Releases, s.out.Teams = map[fleet.Team]*teamRole{}, map[string]Backing{}, map[fleet.Team]Publisher{}
	kept := make([]fleet.Placement, 0, len(s.out.Directive.Models))
	for _, p := range s.out.Directive.Models {
		if p.WhenRevoked == fleet.KeepRevoked {
			s.out.Kept = append(s.out.Kept, p.Model)
		}
		held, err := s.placement(&p)
		if err != nil {
			return err
		}
		if !held || p.Rollout != nil {
			kept = append(kept, p)
		}
	}
	s.out.Directive.Models = kept
	// What is not named any more may still run somewhere: its publisher's word counts.
	for _, role := range slices.Sorted(maps.Keys(s.pack.Publishers)) {
		if name, ok := strings.CutPrefix(role, "pub-"); ok {
			if _, err := s.team(fleet.Team(name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// placement takes out of p what nobody backs. held says that the member's own
// base is among it: unless a rollout exposes the member, it keeps what it has.
func (s *session) placement(p *fleet.Placement) (held bool, err error) {
	base := p.Base(s.facts)
	for _, r := range (fleet.Placement{Stable: p.Stable, Overrides: p.Overrides}).Releases() {
		why, err := s.back(r)
		if err != nil {
			return false, err
		}
		if why != nil {
			mine := base != nil && base.Ref() == r.Ref()
			held = held || mine
			s.refuse(r, mine, why)
		}
	}
	if held {
		p.Stable, p.Overrides = nil, nil
	}
	if p.Rollout == nil {
		return held, nil
	}
	why, err := s.back(p.Rollout.Release)
	if err != nil || why == nil {
		return held, err
	}
	held = held || base == nil
	s.refuse(p.Rollout.Release, held, why)
	p.Rollout = nil
	return held, nil
}

func (s *session) refuse(r fleet.Release, held bool, why error) {
	revoked := slices.ContainsFunc(r.Variants, func(v fleet.Variant) bool {
		return s.out.Revokes(Had{Model: r.Model, Path: r.BundlePath(v.Name), Root: v.Root, Bundle: v.Bundle, Counter: r.Counter}) != nil
	})
	s.out.Refused = append(s.out.Refused, Refusal{
		Model: r.Model, Release: r.Ref(), Held: held, Revoked: revoked, Err: Violated(RuleListed, "accept release", r.Ref(), why),
	})
}

// back finds the publisher's word for every variant of a release. why says that
// the publisher does not back it; err that the pack as a whole is not to be
// believed.
func (s *session) back(r fleet.Release) (why, err error) {
	team, err := s.team(r.Team)
	if err != nil {
		return nil, err
	}
	if team.err != nil {
		return team.err, nil
	}
	for _, v := range r.Variants {
		path := r.BundlePath(v.Name)
		if err := s.onlyRole(path, RoleOf(r.Team)); err != nil {
			return err, nil
		}
		e, ok := team.Entries[path]
		if !ok {
			return broken(RuleListed, "role %s version %d does not list %s", RoleOf(r.Team), team.Version, path), nil
		}
		if err := e.agrees(r, v); err != nil {
			return err, nil
		}
		if err := s.allowed(e, v, team.Floors[r.Model]); err != nil {
			return err, nil
		}
		s.out.Releases[path] = Backing{Entry: e, Keys: team.keys}
	}
	return nil, nil
}

// allowed applies the rules that depend on the member and on the time.
func (s *session) allowed(e Entry, v fleet.Variant, floor uint64) error {
	ref := e.Release.Ref()
	if e.Release.Counter < floor {
		return broken(RuleFloor, "%s has counter %d, the publisher's floor is %d", ref, e.Release.Counter, floor)
	}
	if slices.Contains(s.out.Revoked.Releases, v.Root) {
		return broken(RuleRevoked, "%s (%s) is revoked", ref, v.Root.Short())
	}
	if e.NotBefore.After(s.out.At) {
		return broken(RuleNotBefore, "%s may run from %s on", ref, e.NotBefore.Format(time.RFC3339))
	}
	// A version that is not one (a development build) is taken for new enough.
	if min, have := "v"+e.MinAgent, "v"+s.facts.Agent; semver.IsValid(min) && semver.IsValid(have) && semver.Compare(have, min) < 0 {
		return broken(RuleAgent, "%s needs agent %s, this is %s", ref, e.MinAgent, s.facts.Agent)
	}
	return nil
}

// team loads a publisher's role once. A role that contradicts the snapshot or
// is not signed means that the pack was put together by someone else: an error.
// One that is absent, expired or another team's only stops that publisher's releases.
func (s *session) team(name fleet.Team) (*teamRole, error) {
	if t := s.teams[name]; t != nil {
		return t, nil
	}
	t := &teamRole{}
	s.teams[name] = t
	role := RoleOf(name)
	raw, ok := s.pack.Publishers[role]
	if _, listed := s.chain.snapshot.Signed.Meta[role+".json"]; !ok || !listed {
		t.err = broken(RuleListed, "there is no role %s in the pack", role)
		return t, nil
	}
	if s.delegatedKeys(role).IsZero() {
		t.err = broken(RulePublisher, "the policy delegates nothing to %s", role)
		return t, nil
	}
	p, err := s.chain.publisher(name, raw)
	if errors.Is(err, &metadata.ErrExpiredMetadata{}) {
		t.err = broken(RuleExpired, "role %s has expired", role)
		return t, nil
	}
	if err != nil {
		return nil, broken(RulePublisher, "role %s: %w", role, err)
	}
	if p.broken != nil {
		return nil, p.broken
	}
	if t.err = p.allOf(name); t.err != nil {
		return t, nil
	}
	t.TeamRole, t.keys = p.TeamRole, p.keys
	s.out.Versions[role] = t.Version
	// Floors only rise, as long as the keys stay: a stolen key that raised
	// them is undone by taking it out of the policy.
	keys := s.delegatedKeys(role)
	next := TeamState{Keys: keys, Floors: map[fleet.ModelName]uint64{}}
	if old := s.old.Teams[name]; old.Keys == keys {
		maps.Copy(next.Floors, old.Floors)
		next.Seen = slices.Clone(old.Seen)
	}
	for _, e := range t.Entries {
		next.Seen = append(next.Seen, e.Release.Variants[0].Bundle.Short())
	}
	slices.Sort(next.Seen)
	next.Seen = slices.Compact(next.Seen)
	for model, floor := range t.Floors {
		next.Floors[model] = max(next.Floors[model], floor)
	}
	if s.next.Teams == nil {
		s.next.Teams = map[fleet.Team]TeamState{}
	}
	s.next.Teams[name] = next
	t.Floors = next.Floors
	s.out.Teams[name] = Publisher{t.TeamRole, next.Seen}
	return t, nil
}

// maxPlacements caps a directive.
const maxPlacements = 4096

// ParseDirective reads a directive's bytes and checks everything the rest of
// the software relies on: names, order, digests.
func ParseDirective(raw []byte) (fleet.Directive, error) {
	var d fleet.Directive
	if err := oms.DecodeStrict(raw, &d); err != nil {
		return d, broken(RuleFormat, "directive: %w", err)
	}
	if d.Schema != fleet.DirectiveSchema {
		return d, broken(RuleFormat, "directive of schema %d, this software reads %d: update it", d.Schema, fleet.DirectiveSchema)
	}
	if _, err := fleet.ParseGroup(string(d.Group)); err != nil {
		return d, broken(RuleFormat, "%w", err)
	}
	if len(d.Models) > maxPlacements {
		return d, broken(RuleSize, "%d models, at most %d", len(d.Models), maxPlacements)
	}
	for i, p := range d.Models {
		if i > 0 && d.Models[i-1].Model >= p.Model {
			return d, broken(RuleFormat, "models are not sorted, or one is named twice: %s", p.Model)
		}
		if err := checkPlacement(p); err != nil {
			return d, broken(RuleFormat, "model %s: %w", p.Model, err)
		}
	}
	return d, checkRevoked(d.Revoked)
}

// checkRevoked checks the list of members that nobody speaks to.
func checkRevoked(list []fleet.RevokedMember) error {
	if len(list) > fleet.MaxRevoked {
		return broken(RuleSize, "%d revoked members, at most %d", len(list), fleet.MaxRevoked)
	}
	for i, r := range list {
		if _, err := fleet.ParseMemberID(string(r.ID)); err != nil {
			return broken(RuleFormat, "revoked member: %w", err)
		}
		if i > 0 && list[i-1].ID >= r.ID {
			return broken(RuleFormat, "revoked members are not sorted, or one is named twice: %s", r.ID)
		}
	}
	return nil
}

func checkPlacement(p fleet.Placement) error {
	if x := p.Rollout; x != nil {
		if _, err := fleet.ParseRolloutID(string(x.ID)); err != nil {
			return err
		}
	}
	if w := p.WhenRevoked; w != fleet.StopRevoked && w != fleet.KeepRevoked {
		return fmt.Errorf("whenRevoked is %q, want keep or nothing", w)
	}
	if n := len(p.Overrides); n > fleet.MaxOverrides {
		return fmt.Errorf("%d overrides, at most %d", n, fleet.MaxOverrides)
	}
	if err := checkFailed(p); err != nil {
		return err
	}
	releases := p.Releases()
	if len(releases) == 0 && len(p.Failed) == 0 {
		return errors.New("neither a stable release nor a rollout")
	}
	for _, r := range releases {
		if r.Model != p.Model {
			return fmt.Errorf("it names a release of %s", r.Model)
		}
		if len(r.Variants) == 0 {
			return fmt.Errorf("%s has no variants", r.Ref())
		}
		seen := map[string]bool{}
		for _, v := range r.Variants {
			if err := checkNames(r, v.Name); err != nil {
				return err
			}
			if seen[v.Name] || v.Root.IsZero() || v.Bundle.IsZero() || v.Size <= 0 {
				return fmt.Errorf("variant %s of %s is named twice, or lacks a digest or its size", v.Name, r.Ref())
			}
			seen[v.Name] = true
		}
	}
	return nil
}

// checkFailed checks what is said of releases that failed.
func checkFailed(p fleet.Placement) error {
	if n := len(p.Failed); n > fleet.MaxFailed {
		return fmt.Errorf("%d failed releases, at most %d", n, fleet.MaxFailed)
	}
	for _, f := range p.Failed {
		if m, _, err := fleet.ParseRef(f.Release); err != nil || m != p.Model {
			return fmt.Errorf("%q failed, which is no release of it", f.Release)
		}
		if _, err := fleet.ParseRolloutID(string(f.Rollout)); err != nil {
			return err
		}
		if n := len(f.Roots); n == 0 || n > fleet.MaxFailedRoots {
			return fmt.Errorf("%s failed with %d roots, from 1 to %d are possible", f.Release, n, fleet.MaxFailedRoots)
		}
		for _, root := range f.Roots {
			if root.IsZero() {
				return fmt.Errorf("%s failed with an empty root", f.Release)
			}
		}
		if n := len(f.Reason); n > fleet.MaxFailedReason {
			return fmt.Errorf("%s failed for a reason of %d bytes, at most %d", f.Release, n, fleet.MaxFailedReason)
		}
	}
	return nil
}
