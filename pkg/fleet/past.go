package fleet

import "slices"

// Past is what a member ran before what it runs now, by bundle, the oldest first.
// Only what is in it was good before: a member that is told to run one of these
// again is taken back from all that came after it.
type Past []Digest

// maxPast is how many releases are remembered; the oldest are forgotten.
const maxPast = 16

// Has reports whether the member ran the release before what it runs now.
func (p Past) Has(bundle Digest) bool { return slices.Contains(p, bundle) }

// Then is the past after a switch from one release to another; zero is nothing.
// It does not change p.
func (p Past) Then(from, to Digest) Past {
	if to.IsZero() {
		return nil
	}
	if i := slices.Index(p, to); i >= 0 {
		return slices.Clone(p[:i])
	}
	if from.IsZero() || from == to {
		return slices.Clone(p)
	}
	p = append(slices.Clone(p), from)
	return p[max(0, len(p)-maxPast):]
}
