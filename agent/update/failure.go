package update

import (
	"slices"
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
	f.Class, f.Root, f.At, f.Since, f.Rollout = fleet.ReleaseFailure, o.Root, m.ev.At, m.ev.At, m.st.Terms.Rollout
	m.st.Failure = f
	m.quarantine(f, o)
}

// quarantine refuses a release from now on. The first reason stays, but what
// happened here weighs more than what the gates said.
func (m *machine) quarantine(f Failure, o Offer) {
	st := &m.st
	q := Quarantine{Root: o.Root, Ref: o.Ref, Code: f.Code, Text: f.Text, At: m.ev.At, Rollout: f.Rollout}
	switch i := slices.IndexFunc(st.Quarantined, func(q Quarantine) bool { return q.Root == o.Root }); {
	case i < 0:
		st.Quarantined = append(st.Quarantined, q)
	case st.Quarantined[i].Code == CodeGate:
		st.Quarantined[i] = q
	}
	if st.Fallback.Root == o.Root {
		st.Fallback = Held{}
	}
}

// condemn quarantines what the gates of a rollout found failing and this device
// has or was about to have. What it is still told to run is left: a rollout that
// is paused, or takes members back at a pace, has not come to it yet, and what
// failed in one part of the fleet may be stable in another.
func (m *machine) condemn() {
	st := &m.st
	for _, g := range m.ev.Failed {
		if g.Root.IsZero() || g.Root == st.Want.Root || g.Root == st.Stable.Root || st.IsQuarantined(g.Root) {
			continue
		}
		var had Offer
		switch g.Root {
		case st.Running.Root:
			had = st.Running.Offer
		case st.Target.Root:
			had = st.Target
		case st.Fallback.Root:
			had = st.Fallback.Offer
		default:
			continue
		}
		f := Failure{
			Class: fleet.ReleaseFailure, Code: CodeGate, Root: g.Root, At: m.ev.At, Since: m.ev.At, Rollout: g.Rollout,
			Text: "the gates of rollout " + string(g.Rollout) + " failed " + had.Ref + ": " + g.Text,
		}
		m.quarantine(f, had)
		if g.Root == st.Running.Root || g.Root == st.Target.Root {
			st.Failure = f // an attempt at another release keeps its own
		}
	}
}

// lift takes what is offered out of quarantine when the terms say so, but for
// what failed in this very rollout and what its publisher took back.
func (m *machine) lift() {
	st := &m.st
	q, bad := st.quarantine(st.Want.Root)
	if bad && st.Terms.Lifts && q.Rollout != st.Terms.Rollout && q.Code != CodeRevoked {
		st.Quarantined = slices.DeleteFunc(st.Quarantined, func(q Quarantine) bool { return q.Root == st.Want.Root })
	}
}

// refusing reports whether the newest attempt ended in a quarantine that still
// holds, and there is no rollout of another release to speak of instead. Who
// looks at the fleet is to see it also when the release is no longer offered.
func (m *machine) refusing() bool {
	f, t := m.st.Failure, m.st.Terms
	return m.st.IsQuarantined(f.Root) && (t.Rollout == "" || t.Rollout == f.Rollout)
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
	f.Root, f.At, f.Since = m.st.Target.Root, m.ev.At, m.ev.At
	if old := m.st.Failure; m.st.Tries > 0 && old.Root == f.Root && !old.Since.IsZero() {
		f.Since = old.Since
	}
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

// CodeGate is the code of a release that did not fail here but in the eyes of a
// rollout's gates, which look at the whole fleet.
const CodeGate = "gate"
