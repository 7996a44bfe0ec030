package api

import (
	"fmt"
	"path"
	"strings"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Scope narrows a role to a part of the fleet. The zero value is all of it.
type Scope struct {
	// Members are whom it is for: "region=eu". Rollouts have to say so in their
	// population, and join tokens in their labels.
	Members fleet.Selector `json:"members,omitzero"`
	// Models are patterns TEAM/MODEL, each part a name or with "*": "vision/*".
	Models []string `json:"models,omitempty"`
}

// IsZero reports whether the scope is the whole fleet.
func (s Scope) IsZero() bool { return s.Members.IsEmpty() && len(s.Models) == 0 }

// String is the scope for people: "region=eu; models vision/*".
func (s Scope) String() string {
	var parts []string
	if !s.Members.IsEmpty() {
		parts = append(parts, s.Members.String())
	}
	if len(s.Models) > 0 {
		parts = append(parts, "models "+strings.Join(s.Models, ", "))
	}
	return strings.Join(parts, "; ")
}

// Check refuses patterns that are none.
func (s Scope) Check() error {
	for _, p := range s.Models {
		team, model, ok := strings.Cut(p, "/")
		_, err := path.Match(p, "")
		if !ok || team == "" || model == "" || strings.Contains(model, "/") || err != nil {
			return fault.Newf(fault.Invalid, "read scope", p, "not a pattern TEAM/MODEL").WithHint("write for example vision/* or vision/detector")
		}
	}
	return nil
}

// HasMember reports whether a member lies in the scope.
func (s Scope) HasMember(f fleet.Facts) bool { return s.Members.Matches(f) }

// HasModel reports whether a team's model lies in the scope.
func (s Scope) HasModel(team fleet.Team, model fleet.ModelName) bool {
	for _, p := range s.Models {
		if ok, err := path.Match(p, fmt.Sprintf("%s/%s", team, model)); err == nil && ok {
			return true
		}
	}
	return len(s.Models) == 0
}

// HasTeam reports whether everything that a team publishes, now or later, lies
// in the scope.
func (s Scope) HasTeam(team fleet.Team) bool {
	for _, p := range s.Models {
		t, model, _ := strings.Cut(p, "/")
		if ok, err := path.Match(t, string(team)); err == nil && ok && model == "*" {
			return true
		}
	}
	return len(s.Models) == 0
}
