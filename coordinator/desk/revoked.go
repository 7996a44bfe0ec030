package desk

import (
	"errors"
	"fmt"
	"slices"

	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// What is said of a release that no member may run, in place of a failure's code.
const (
	delisted = "delisted" // its publisher lists it no longer
	revoked  = "revoked"  // the policy, or a floor, rules it out
)

// revokedFor says why no member may run a release any more; "" when they may. gone
// says that it was delisted.
func (d *Desk) revokedFor(rel fleet.Release, gone bool) string {
	if gone {
		return delisted + " by its publisher"
	}
	err := d.o.Publisher.Revokes(rel)
	if err == nil {
		return ""
	}
	if v, ok := errors.AsType[*trust.Violation](err); ok {
		return v.Err.Error() // without what was being done
	}
	return err.Error()
}

// mayRun refuses, by the rule that members refuse it by, a release that was
// admitted and that no member may run now.
func (d *Desk) mayRun(op string, rel store.Release) error {
	if rel.Revoked {
		return trust.Violated(trust.RuleListed, op, rel.Ref(), errors.New("delisted by its publisher"))
	}
	return d.Refused(op, rel.Release)
}

// Refused says by which rule members refuse a release: its publisher lists it no
// more, or the policy revokes it.
func (d *Desk) Refused(op string, rel fleet.Release) error {
	ref := rel.Ref()
	if err := d.o.Publisher.Revokes(rel); err != nil {
		return trust.Violated(trust.RuleRevoked, op, ref, err)
	}
	entries, err := d.o.Publisher.Listed()
	if err != nil {
		return err
	}
	if !lists(entries, rel) { // by the role of the keys that the policy names now
		return trust.Violated(trust.RuleListed, op, ref, fmt.Errorf("team %s does not list it", rel.Team))
	}
	return nil
}

// lists reports whether the teams list a release, each variant as it was admitted.
func lists(entries []trust.Entry, rel fleet.Release) bool {
	i := slices.IndexFunc(entries, func(e trust.Entry) bool { return e.Release.Team == rel.Team && e.Release.Ref() == rel.Ref() })
	return i >= 0 && !slices.ContainsFunc(rel.Variants, func(v fleet.Variant) bool {
		return !slices.ContainsFunc(entries[i].Release.Variants, func(w fleet.Variant) bool { return w.Bundle == v.Bundle })
	})
}
