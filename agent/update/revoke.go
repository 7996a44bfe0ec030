package update

import (
	"slices"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// CodeRevoked is the code of a release that was taken back: its publisher lists it
// no longer or raised the floor above it, or the policy names it.
const CodeRevoked = "revoked"

// revoke refuses a release that no member may run, however well it ran here. What
// is running is left for the fallback, and without one for nothing, unless the
// directive says that a revoked release of this model is kept until something
// else may run. A revoked fallback or attempt is only dropped.
func (m *machine) revoke() {
	st, bundle := &m.st, m.ev.Bundle
	var o Offer
	switch {
	case bundle.IsZero():
		return
	case bundle == st.Running.Bundle:
		o = m.named(st.Running.Offer)
	case bundle == st.Target.Bundle:
		o = st.Target
	case bundle == st.Fallback.Bundle:
		o = st.Fallback.Offer
	default:
		return
	}
	if q, bad := st.quarantine(o.Root); !bad || q.Code == CodeGate {
		f := Failure{Code: CodeRevoked, Text: o.Ref + " was revoked: " + m.ev.Failure.Text}
		if bundle == st.Fallback.Bundle && bundle != st.Target.Bundle {
			m.quarantine(f, o) // nothing that is under way is about it
		} else {
			m.blame(f, o)
		}
	}
	if bundle == st.Running.Bundle {
		q, _ := st.quarantine(o.Root)
		st.Running.Kept = m.ev.Keep && q.Code == CodeRevoked && st.Fallback.IsZero()
	}
	m.reconcile()
}

// named is what runs, under a root. One whose root was lost with the memory is
// known by its bundle from now on.
func (m *machine) named(o Offer) Offer {
	if o.Root.IsZero() {
		o.Root = o.Bundle
		if m.st.Want.Bundle == o.Bundle {
			m.st.Want.Root = o.Root
		}
		m.st.Running.Root = o.Root
	}
	return o
}

// backed forgets that what the directive offers was revoked: an offer is only
// made when its publisher lists the release, so it was listed again.
func (m *machine) backed() {
	st := &m.st
	st.Quarantined = slices.DeleteFunc(st.Quarantined, func(q Quarantine) bool {
		again := q.Code == CodeRevoked && (q.Root == st.Want.Root || q.Root == st.Stable.Root)
		if again && q.Root == st.Running.Root {
			st.Running.Kept = false
			if st.Phase == fleet.Quarantined {
				m.enter(fleet.Withdrawn, "%s is listed by its publisher again", q.Ref)
			}
		}
		return again
	})
}
