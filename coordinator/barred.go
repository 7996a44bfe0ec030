package coordinator

import (
	"slices"
	"strings"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// sameRevoked compares two directives' revoked members.
func sameRevoked(a, b []fleet.RevokedMember) bool {
	return slices.EqualFunc(a, b, func(x, y fleet.RevokedMember) bool {
		return x.ID == y.ID && x.Until.Equal(y.Until) && x.Cell == y.Cell && x.Key == y.Key
	})
}

// describeRevoked adds to the changes of a directive, in words, whom nobody speaks
// to any more.
func describeRevoked(changes string, old, next []fleet.RevokedMember) string {
	var all []string
	if changes != "" {
		all = append(all, changes)
	}
	for _, r := range next {
		if !slices.ContainsFunc(old, func(o fleet.RevokedMember) bool { return o.ID == r.ID }) {
			all = append(all, "member "+string(r.ID)+" is revoked")
		}
	}
	if len(all) == 0 {
		return "revoked members change: the key of a cell, or certificates that ran out"
	}
	return strings.Join(all, "; ")
}
