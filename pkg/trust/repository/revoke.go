package repository

import (
	"encoding/json"
	"slices"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// publishers are the roles that a group's members need: of whoever publishes what
// the directive names, and of whoever has a say in its models. Members may still
// run a release that the directive does not name any more, and must hear when its
// publisher takes it back.
func (r *Repository) publishers(d fleet.Directive) map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	for _, p := range d.Models {
		named := p.Releases()
		for name, t := range r.teams {
			if t.role.Has(p.Model) || slices.ContainsFunc(named, func(rel fleet.Release) bool { return rel.Team == name }) {
				out[trust.RoleOf(name)] = t.raw
			}
		}
	}
	return out
}

// Revokes says why the policy or a floor has no member run a release any more; nil
// when neither speaks against it. Whether its publisher took it back is what
// admissions tell.
func (r *Repository) Revokes(rel fleet.Release) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := trust.Trusted{Teams: map[fleet.Team]trust.Publisher{}}
	if raw, ok := r.policy.targets[trust.PathRevoked]; ok {
		if err := oms.DecodeStrict(raw, &t.Revoked); err != nil {
			return trust.Violated(trust.RuleFormat, "check release", trust.PathRevoked, err)
		}
	}
	for name, team := range r.teams {
		t.Teams[name] = trust.Publisher{TeamRole: team.role}
	}
	for _, v := range rel.Variants {
		had := trust.Had{Model: rel.Model, Path: rel.BundlePath(v.Name), Root: v.Root, Bundle: v.Bundle, Counter: rel.Counter}
		if err := t.Revokes(had); err != nil {
			return trust.Violated(trust.RuleRevoked, "check release", rel.Ref(), err)
		}
	}
	return nil
}
