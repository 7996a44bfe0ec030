package desk

import (
	"strings"

	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// rank orders the roles.
func rank(r api.Role) int {
	switch r {
	case api.Viewer:
		return 1
	case api.Operator:
		return 2
	case api.Approver:
		return 3
	case api.Admin:
		return 4
	}
	return 0
}

// Allow says whether an operator has at least the role need. It says nothing of
// scopes: see [AllowWhole] and the functions beside it.
func Allow(by api.OperatorToken, need api.Role, op string) error {
	if rank(by.Role) >= rank(need) && rank(by.Role) > 0 {
		return nil
	}
	return fault.Newf(fault.Denied, op, by.Name, "it needs the role %s, %s has %s", need, by.Name, by.Role).
		WithHint("ask an admin for a token with the role %s", need)
}

// AllowWhole refuses operators with a scope what is of the whole fleet.
func AllowWhole(by api.OperatorToken, op string) error {
	if by.Scope.IsZero() {
		return nil
	}
	return beyond(by, op, "", "it is of the whole fleet")
}

// AllowMember says whether a member lies in an operator's scope.
func AllowMember(by api.OperatorToken, f fleet.Facts, op string) error {
	if by.Scope.HasMember(f) {
		return nil
	}
	return beyond(by, op, string(f.ID), "it has the labels "+f.Labels.String())
}

// AllowTeam says whether everything a team publishes lies in an operator's scope.
func AllowTeam(by api.OperatorToken, team fleet.Team, op string) error {
	if by.Scope.HasTeam(team) {
		return nil
	}
	return beyond(by, op, string(team), "a team's releases are admitted together")
}

// allowRelease says whether a release's model lies in an operator's scope.
func allowRelease(by api.OperatorToken, r fleet.Release, op string) error {
	if by.Scope.HasModel(r.Team, r.Model) {
		return nil
	}
	return beyond(by, op, r.Ref(), "it is "+string(r.Team)+"/"+string(r.Model))
}

// allowRollout says whether a rollout lies in an operator's scope.
func allowRollout(by api.OperatorToken, r fleet.Release, spec fleet.Spec, op string) error {
	if err := allowRelease(by, r, op); err != nil {
		return err
	}
	return allowPopulation(by, spec.Population.Selector, op, r.Ref())
}

// allowPopulation says whether a rollout's population is sure to lie in an
// operator's scope: not only today's members but any that could ever join it.
func allowPopulation(by api.OperatorToken, population fleet.Selector, op, subject string) error {
	if population.Within(by.Scope.Members) {
		return nil
	}
	return beyond(by, op, subject, `its population is "`+population.String()+`"`).
		WithHint(`every term of the scope must stand in the population: {selector: "%s"}`, joined(population, by.Scope.Members))
}

// allowLabels says whether members that join by a token are sure to lie in an
// operator's scope.
func allowLabels(by api.OperatorToken, t api.Token, op string) error {
	if by.Scope.Members.Fixes(t.Labels, t.Kind) {
		return nil
	}
	return beyond(by, op, t.ID, "members that join by it could lie outside").
		WithHint("give the token labels that satisfy %q: what a member says of itself does not count", by.Scope.Members.String())
}

// inScope reports whether a join token is of an operator's part of the fleet.
func inScope(by api.OperatorToken, t store.Token) bool {
	return by.Scope.Members.Fixes(t.Labels, t.Kind)
}

func beyond(by api.OperatorToken, op, subject, why string) *fault.Error {
	return fault.Newf(fault.Denied, op, subject, "it lies outside the scope of %s (%s): %s", by.Name, by.Scope, why).
		WithHint("ask an operator whose scope it is in; `modelfleet whoami` shows yours")
}

func joined(a, b fleet.Selector) string {
	if a.IsEmpty() {
		return b.String()
	}
	return strings.TrimSuffix(a.String()+", "+b.String(), ", ")
}
