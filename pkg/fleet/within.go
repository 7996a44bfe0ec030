package fleet

import "slices"

// Within reports whether every member that s chooses is chosen by outer too. It
// errs on one side only: what it affirms is so for any labels whatever; where a
// proof would need more than comparing terms of the same label, it says no.
func (s Selector) Within(outer Selector) bool {
	for _, need := range outer.terms {
		if !slices.ContainsFunc(s.terms, func(have term) bool { return have.implies(need) }) {
			return false
		}
	}
	return true
}

// implies reports whether t holding means that o holds.
func (t term) implies(o term) bool {
	if t.key != o.key {
		return false
	}
	listed := func(v string) bool { _, ok := slices.BinarySearch(o.values, v); return ok }
	switch o.op {
	case in:
		return t.op == in && !slices.ContainsFunc(t.values, func(v string) bool { return !listed(v) })
	case notIn:
		return t.op == absent ||
			t.op == in && !slices.ContainsFunc(t.values, listed) ||
			t.op == notIn && !slices.ContainsFunc(o.values, func(v string) bool { _, ok := slices.BinarySearch(t.values, v); return !ok })
	case exists:
		return t.op == exists || t.op == in
	default:
		return t.op == absent
	}
}

// Fixes reports whether labels that nobody can change decide every term of the
// selector in its favour: any member with at least these labels is chosen.
func (s Selector) Fixes(l Labels, kind Kind) bool {
	for _, t := range s.terms {
		v, ok := l[t.key]
		if t.key == LabelKind {
			v, ok = string(kind), true
		}
		if !ok || t.op == absent {
			return false // a member's own label could be there
		}
		if !(Selector{terms: []term{t}}).Matches(Facts{Labels: Labels{t.key: v}, Kind: kind}) {
			return false
		}
	}
	return true
}
