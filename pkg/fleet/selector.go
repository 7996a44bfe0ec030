package fleet

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Selector chooses members by their labels. Its text is a comma-separated list
// of terms that must all hold:
//
//	ring=lab            the label is exactly this
//	class!=lab          it is absent or something else
//	region in (eu, us)  it is one of these
//	zone notin (a, b)   it is absent or none of these
//	camera              it is there
//	!camera             it is not there
//
// "=" may be written "==". The empty selector chooses every member. The zero
// value is the empty selector; make others with [ParseSelector].
type Selector struct {
	terms []term
}

type op uint8

const (
	in op = iota
	notIn
	exists
	absent
)

type term struct {
	key    string
	op     op
	values []string // sorted, unique
}

var (
	labelKey   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._/-]{0,62}$`)
	labelValue = regexp.MustCompile(`^[A-Za-z0-9._+-]{1,63}$`)
	setTerm    = regexp.MustCompile(`^(\S+)\s+(in|notin)\s*\((.*)\)$`)
)

// ParseSelector reads a selector; see [Selector] for the grammar.
func ParseSelector(s string) (Selector, error) {
	var sel Selector
	for _, part := range splitTerms(s) {
		t, err := parseTerm(strings.TrimSpace(part))
		if err != nil {
			return Selector{}, fault.New(fault.Invalid, "read selector", fmt.Sprintf("%q", s), err).
				WithHint("write for example: region in (eu, us), class!=lab")
		}
		sel.terms = append(sel.terms, t)
	}
	return sel, nil
}

// splitTerms cuts at the commas that are not inside parentheses.
func splitTerms(s string) []string {
	if strings.TrimSpace(s) == "" {
		return nil
	}
	var parts []string
	depth, from := 0, 0
	for i, c := range s {
		switch {
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == ',' && depth == 0:
			parts = append(parts, s[from:i])
			from = i + 1
		}
	}
	return append(parts, s[from:])
}

func parseTerm(s string) (term, error) {
	var t term
	if m := setTerm.FindStringSubmatch(s); m != nil {
		t = term{key: m[1], op: in}
		if m[2] == "notin" {
			t.op = notIn
		}
		for v := range strings.SplitSeq(m[3], ",") {
			t.values = append(t.values, strings.TrimSpace(v))
		}
	} else if k, v, ok := strings.Cut(s, "!="); ok {
		t = term{key: strings.TrimSpace(k), op: notIn, values: []string{strings.TrimSpace(v)}}
	} else if k, v, ok := strings.Cut(s, "="); ok {
		t = term{key: strings.TrimSpace(k), op: in, values: []string{strings.TrimSpace(strings.TrimPrefix(v, "="))}}
	} else if k, ok := strings.CutPrefix(s, "!"); ok {
		t = term{key: strings.TrimSpace(k), op: absent}
	} else {
		t = term{key: s, op: exists}
	}
	if !labelKey.MatchString(t.key) {
		return t, fmt.Errorf("%q is not a label name", t.key)
	}
	for _, v := range t.values {
		if !labelValue.MatchString(v) {
			return t, fmt.Errorf("%q is not a label value", v)
		}
	}
	slices.Sort(t.values)
	t.values = slices.Compact(t.values)
	return t, nil
}

// Matches reports whether the selector chooses the member.
func (s Selector) Matches(f Facts) bool {
	for _, t := range s.terms {
		v, ok := f.Label(t.key)
		_, listed := slices.BinarySearch(t.values, v)
		holds := false
		switch t.op {
		case in:
			holds = ok && listed
		case notIn:
			holds = !ok || !listed
		case exists:
			holds = ok
		case absent:
			holds = !ok
		}
		if !holds {
			return false
		}
	}
	return true
}

// IsEmpty reports whether the selector chooses every member.
func (s Selector) IsEmpty() bool { return len(s.terms) == 0 }

// String is the selector in its canonical text; it parses to the same selector.
func (s Selector) String() string {
	parts := make([]string, len(s.terms))
	for i, t := range s.terms {
		switch {
		case t.op == exists:
			parts[i] = t.key
		case t.op == absent:
			parts[i] = "!" + t.key
		case t.op == in && len(t.values) == 1:
			parts[i] = t.key + "=" + t.values[0]
		case t.op == notIn && len(t.values) == 1:
			parts[i] = t.key + "!=" + t.values[0]
		case t.op == in:
			parts[i] = t.key + " in (" + strings.Join(t.values, ", ") + ")"
		default:
			parts[i] = t.key + " notin (" + strings.Join(t.values, ", ") + ")"
		}
	}
	return strings.Join(parts, ", ")
}

// MarshalText is the canonical text.
func (s Selector) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a selector's text.
func (s *Selector) UnmarshalText(b []byte) error {
	v, err := ParseSelector(string(b))
	if err == nil {
		*s = v
	}
	return err
}
