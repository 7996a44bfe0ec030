package fleet

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// Kind tells devices from functions.
type Kind string

// The kinds of member.
const (
	Device   Kind = "device"   // runs the agent
	Function Kind = "function" // one Lambda execution environment
)

// Labels describe a member for selectors: "region": "eu". The label "class" is
// the hardware class that a release's variants are chosen by; "site" is the
// LAN; "id" and "kind" are given by the member itself and cannot be set.
type Labels map[string]string

// The labels that mean something to modelfleet itself.
const (
	LabelClass = "class"
	LabelSite  = "site"
	LabelID    = "id"
	LabelKind  = "kind"
)

// String lists the labels sorted, as "class=a,region=eu".
func (l Labels) String() string {
	parts := make([]string, 0, len(l))
	for _, k := range slices.Sorted(maps.Keys(l)) {
		parts = append(parts, k+"="+l[k])
	}
	return strings.Join(parts, ",")
}

// Facts is what a member is, as the coordinator enrolled it: enough to decide
// which directive, rule and variant are its own.
type Facts struct {
	ID       MemberID  `json:"id"`
	Kind     Kind      `json:"kind"`
	Group    Group     `json:"group"`
	Labels   Labels    `json:"labels,omitempty"`
	Enrolled time.Time `json:"enrolled"`           // UTC, whole seconds
	Agent    string    `json:"agent,omitempty"`    // the agent's version
	Platform string    `json:"platform,omitempty"` // "linux/arm64"
}

// Class is the member's hardware class, or "".
func (f Facts) Class() string { return f.Labels[LabelClass] }

// Label is what a selector sees under key.
func (f Facts) Label(key string) (string, bool) {
	switch key {
	case LabelID:
		return string(f.ID), true
	case LabelKind:
		return string(f.Kind), true
	}
	v, ok := f.Labels[key]
	return v, ok
}
