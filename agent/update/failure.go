package update

import (
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// leave gives the running release up for the fallback, or for nothing.
func (m *machine) leave() {
	st := &m.st
	m.cancel()
	st.Attempt++
	st.Leaving, st.RetryAt = true, time.Time{}
	st.Target = Offer{}
	m.enter(fleet.Failed, "gives %s up: %s", st.Running.Ref, st.Failure.Text)
	m.again()
}

// blame quarantines a release for a failure of its own.
func (m *machine) blame(f Failure, o Offer) {
	f.Class, f.Root, f.At = fleet.ReleaseFailure, o.Root, m.ev.At
	m.st.Failure = f
	if !m.st.IsQuarantined(o.Root) {
		m.st.Quarantined = append(m.st.Quarantined, Quarantine{Root: o.Root, Ref: o.Ref, Code: f.Code, Text: f.Text, At: m.ev.At})
	}
	if m.st.Fallback.Root == o.Root {
		m.st.Fallback = Held{}
	}
}

// revoke refuses a release that no member may run, however well it ran here.
func (m *machine) revoke() {
	st, root := &m.st, m.ev.Root
	if root.IsZero() || (root != st.Running.Root && root != st.Fallback.Root && root != st.Target.Root) || st.IsQuarantined(root) {
		return
	}
	ref := st.Target.Ref
	switch root {
	case st.Running.Root:
		ref = st.Running.Ref
	case st.Fallback.Root:
		ref = st.Fallback.Ref
	}
	m.blame(Failure{Code: "revoked", Text: ref + " was revoked by its publisher"}, Offer{Root: root, Ref: ref})
	m.reconcile()
}

// missed handles a fetch that ended without the files. It never blames the
// release: whoever delivers wrong bytes, the signed ones are as good as before.
func (m *machine) missed(f Failure) {
	if f.Class != fleet.MemberFailure {
		f.Class = fleet.TransportFailure
	}
	m.retry(f)
	if f.Class == fleet.TransportFailure {
		m.st.Attempt++
		m.enter(fleet.Offered, "will try again: %s", f.Text)
		return
	}
	m.enter(fleet.Failed, "%s", f.Text)
}

// retry notes a failure and sets the time of the next try: 1 s doubling to the
// terms' longest pause, longer for the device's own trouble, with jitter
// over the upper half.
func (m *machine) retry(f Failure) {
	f.Root, f.At = m.st.Target.Root, m.ev.At
	m.st.Failure = f
	longest := m.st.Terms.Retry
	if longest <= 0 {
		longest = 10 * time.Minute
	}
	wait := min(longest, time.Second<<min(m.st.Tries, 10))
	if f.Class == fleet.MemberFailure {
		wait = min(6*longest, 10*wait) // a full disk does not empty by itself
	}
	m.st.Tries++
	m.st.RetryAt = m.ev.At.Add(wait/2 + time.Duration(m.ev.Jitter*float64(wait/2)))
}

// refused handles a self-test that did not pass.
func (m *machine) refused() {
	f := m.ev.Failure
	if f.Class != fleet.ReleaseFailure { // the test could not be run
		f.Class = fleet.MemberFailure
		m.retry(f)
		m.enter(fleet.Failed, "%s", f.Text)
		return
	}
	m.blame(f, m.st.Target)
	m.enter(fleet.Failed, "%s", f.Text)
	m.st.Target, m.st.Tries, m.st.RetryAt = Offer{}, 0, time.Time{}
	m.reconcile()
}

// stuck handles a switch that did not happen; what was served still is.
func (m *machine) stuck() {
	st := &m.st
	if !m.switching() || m.ev.Key != m.key(Switch.String()) {
		return
	}
	f := m.ev.Failure
	if f.Class != fleet.TransportFailure {
		f.Class = fleet.MemberFailure
	}
	if st.Leaving {
		// The release to blame stays named; only the time of the next try changes.
		if f.Code == CodeGone {
			st.Fallback = Held{}
		}
		named := st.Failure
		m.retry(f)
		st.Failure = named
		return
	}
	if f.Code == CodeGone && st.Fallback.Bundle == st.Target.Bundle {
		st.Fallback = Held{}
	}
	m.retry(f)
	m.enter(fleet.Failed, "%s", f.Text)
	m.reconcile()
}

// CodeGone is the code of a switch that failed because the release's files are
// not on the disk any more; they are fetched again.
const CodeGone = "gone"
