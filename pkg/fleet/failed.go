package fleet

import (
	"slices"
	"strings"
)

// FailedRelease is a release that the gates of a rollout found failing. Members
// that had it quarantine it, and it is not rolled out again unless an operator
// says so ([Spec.Retry]).
type FailedRelease struct {
	Release string    `json:"release"` // "detector@1.5.0"
	Roots   []Digest  `json:"roots"`   // of its variants
	Rollout RolloutID `json:"rollout"` // whose gates found it failing
	Reason  string    `json:"reason"`  // the gates', short
}

// What a directive holds of failed releases at most, by model. An older one
// that is forgotten stays in quarantine on the members that had it.
const (
	MaxFailed       = 8
	MaxFailedRoots  = 64
	MaxFailedReason = 256 // bytes
)

// Failing is what is remembered of a release that the gates of a rollout failed.
func Failing(r Release, id RolloutID, reason string) FailedRelease {
	f := FailedRelease{Release: r.Ref(), Rollout: id, Reason: shorten(reason, MaxFailedReason)}
	for _, v := range r.Variants {
		if len(f.Roots) < MaxFailedRoots && !slices.Contains(f.Roots, v.Root) {
			f.Roots = append(f.Roots, v.Root)
		}
	}
	return f
}

// shorten cuts a text to at most n bytes of whole, printable characters.
func shorten(s string, n int) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	if len(s) <= n {
		return s
	}
	const dots = "..."
	cut := n - len(dots)
	for s[cut]&0xc0 == 0x80 { // in the middle of a character
		cut--
	}
	return s[:cut] + dots
}

// FailedAs finds the newest failed release that shares bytes with r: r itself,
// the same files under another version, or one with a variant in common.
func (p Placement) FailedAs(r Release) (FailedRelease, bool) {
	i := slices.IndexFunc(p.Failed, func(f FailedRelease) bool { return slices.ContainsFunc(f.Roots, r.Has) })
	if i < 0 {
		return FailedRelease{}, false
	}
	return p.Failed[i], true
}

// WithFailed is the placement with one more failed release, the newest. It does
// not change p.
func (p Placement) WithFailed(f FailedRelease) Placement {
	kept := []FailedRelease{f}
	for _, old := range p.Failed {
		if old.Release != f.Release && len(kept) < MaxFailed {
			kept = append(kept, old)
		}
	}
	p.Failed = kept
	return p
}

// WithoutFailed is the placement without the failed releases that share bytes
// with r. It does not change p.
func (p Placement) WithoutFailed(r Release) Placement {
	var kept []FailedRelease
	for _, f := range p.Failed {
		if !slices.ContainsFunc(f.Roots, r.Has) {
			kept = append(kept, f)
		}
	}
	p.Failed = kept
	return p
}
