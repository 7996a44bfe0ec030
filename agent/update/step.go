package update

import (
	"fmt"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Step moves a model's state by one event and says what to do about it. The
// caller persists the state before it carries any effect out.
func Step(st State, ev Event) (State, []Effect) {
	m := machine{st: st.clone(), ev: ev}
	switch ev.Kind {
	case Tick:
		m.tick()
	case Assigned:
		if st.Phase == fleet.Soaking { // for as long as is said now
			m.st.SoakEnd = st.SoakEnd.Add(ev.Terms.Soak - st.Terms.Soak)
		}
		m.st.Want, m.st.Stable, m.st.Terms = ev.Offer, ev.Stable, ev.Terms
		m.unsay()
		m.backed()
		m.lift()
		m.condemn()
		m.mend()
		m.reconcile()
	case Fetched:
		if m.answers(fleet.Downloading) {
			m.mended(m.st.Target.Bundle) // were they here, and damaged
			m.verified("every byte is on disk and verified")
		}
	case FetchFailed:
		if m.answers(fleet.Downloading) {
			m.missed(ev.Failure)
		}
	case ProbePassed:
		if m.answers(fleet.Verified) {
			m.st.Tries, m.st.RetryAt = 0, time.Time{}
			m.enter(fleet.Staged, "the self-test passed")
			m.activate()
		}
	case ProbeFailed:
		if m.answers(fleet.Verified) {
			m.refused()
		}
	case Switched:
		m.switched()
	case SwitchFailed:
		m.stuck()
	case Sick:
		if ev.Root == m.st.Running.Root && !ev.Root.IsZero() && !m.st.Running.Good {
			m.blame(ev.Failure, m.st.Running.Offer)
			m.reconcile()
		}
	case Revoked:
		m.revoke()
	case Lifted:
		m.st.Quarantined = slices.DeleteFunc(m.st.Quarantined, func(q Quarantine) bool { return q.Root == ev.Root && q.Code != CodeRevoked })
		m.reconcile()
	case Restarted:
		m.restart()
	case Damaged:
		m.damaged()
	case Mended:
		m.mended(ev.Bundle)
	}
	if keep := m.st.Keep(); ev.Kind == Restarted || dropped(st.Keep(), keep) {
		m.do(Effect{Kind: Keep, Key: m.key("keep"), Bundles: keep})
	}
	return m.st, m.effects
}

// dropped reports whether now lacks something that was kept before.
func dropped(before, now []fleet.Digest) bool {
	return slices.ContainsFunc(before, func(d fleet.Digest) bool { return !slices.Contains(now, d) })
}

// machine is one call of Step in progress.
type machine struct {
	st      State
	ev      Event
	effects []Effect
}

// enter moves to phase p, which must be a legal edge or no move at all.
func (m *machine) enter(p fleet.Phase, why string, args ...any) {
	if p != m.st.Phase && !legal(m.st.Phase, p) {
		panic(fmt.Sprintf("update: no edge from %s to %s", m.st.Phase, p)) // a bug; the laws look for it
	}
	m.st.Phase, m.st.Since, m.st.Why = p, m.ev.At, fmt.Sprintf(why, args...)
}

func (m *machine) do(e Effect) {
	e.Model = m.st.Model
	m.effects = append(m.effects, e)
}

// key names an effect of the present attempt.
func (m *machine) key(what string) string { return fmt.Sprintf("%s/%d", what, m.st.Attempt) }

// answers reports whether the event answers the effect that phase p waits for.
func (m *machine) answers(p fleet.Phase) bool {
	return m.st.Phase == p && m.ev.Key == m.key(awaits(p).String())
}

// awaits is the effect that a phase waits for the answer of.
func awaits(p fleet.Phase) EffectKind {
	switch p {
	case fleet.Downloading:
		return Fetch
	case fleet.Verified:
		return Probe
	}
	return Switch
}

// again asks once more for the effect that the present phase waits for.
func (m *machine) again() {
	kind := awaits(m.st.Phase)
	offer := m.st.Target
	if m.st.Leaving {
		offer = m.st.Fallback.Offer
	}
	m.do(Effect{Kind: kind, Key: m.key(kind.String()), Offer: offer})
}

// switching reports whether a switch is in flight; everything else waits for it.
func (m *machine) switching() bool { return m.st.Phase == fleet.Activating || m.st.Leaving }

// reconcile compares what should run with what does, and begins what follows.
// It looks at the state only, so a lost or repeated event costs nothing.
func (m *machine) reconcile() {
	st := &m.st
	switch aim := st.Aim(); {
	case m.switching():
	case m.unbearable(aim):
		m.leave()
	case aim.Bundle == st.Running.Bundle:
		m.hold(aim)
	case st.IsQuarantined(aim.Root):
		m.refuse()
	case aim.Bundle == st.Target.Bundle && (st.Attempting() || st.waits()):
		st.Target = aim
		m.advance()
	default:
		m.begin()
	}
}

// unbearable reports whether the running release is to be left before the next
// is there: it failed here or was revoked. One that the gates failed serves until
// then, as it would on any other way back, and so does one that is kept.
func (m *machine) unbearable(aim Offer) bool {
	run := m.st.Running
	q, bad := m.st.quarantine(run.Root)
	return bad && !run.IsZero() && !run.Kept && (q.Code != CodeGate || aim.Bundle == run.Bundle)
}

// hold settles a device that already runs what it should.
func (m *machine) hold(aim Offer) {
	st := &m.st
	if !st.Running.IsZero() {
		st.Running.Offer = aim // the same bundle, perhaps under another ref
	}
	switch {
	case st.Phase == fleet.Soaking && !st.Running.Kept:
	case aim.Bundle != st.Want.Bundle:
		m.refuse()
	case m.refusing():
		m.cancel()
		if st.Phase != fleet.Quarantined {
			m.enter(fleet.Quarantined, "%s", st.Failure.Text)
		}
	case st.Terms.Arm == fleet.Exposed && st.Running.Good && !st.Running.Kept:
		// A rollout of what came back to life here as the way back.
		m.cancel()
		st.Failure = Failure{}
		if st.Phase != fleet.Healthy {
			m.enter(fleet.Healthy, "served %s before and it was healthy", st.Running.Ref)
		}
	case st.Attempting() || st.waits():
		m.cancel()
		m.enter(fleet.Withdrawn, "the offer of %s was taken back before the switch", st.Target.Ref)
	case st.Phase == fleet.Quarantined:
		m.enter(fleet.Withdrawn, "the refused release is no longer offered")
	}
}

// refuse settles a device that is told to run what failed on it.
func (m *machine) refuse() {
	m.cancel()
	q, _ := m.st.quarantine(m.st.Want.Root)
	switch {
	case m.st.Phase == fleet.Quarantined:
	case q.Code == CodeRevoked:
		m.enter(fleet.Quarantined, "%s", q.Text)
	default:
		m.enter(fleet.Quarantined, "%s failed here before; it is not tried again until an operator lifts it", m.st.Want.Ref)
	}
}

// begin starts on a new offer.
func (m *machine) begin() {
	m.cancel()
	m.st.Target, m.st.Tries, m.st.RetryAt = m.st.Aim(), 0, time.Time{}
	if !m.returns() {
		m.st.Failure = Failure{}
	}
	m.launch(m.st.Terms.Reason)
}

// returns reports whether reaching the aim means going back: to nothing, or to
// the release kept on disk that was good here. An exposed member does not go
// back to the release it is exposed to but tries it as if it were new.
func (m *machine) returns() bool {
	aim := m.st.Aim()
	exposed := m.st.Terms.Arm == fleet.Exposed && aim.Bundle == m.st.Want.Bundle
	return aim.IsZero() || aim.Bundle == m.st.Fallback.Bundle && !exposed
}

// launch begins an attempt, the first or a later one, to reach the aim.
func (m *machine) launch(why string) {
	st := &m.st
	st.Attempt++
	st.Return = m.returns()
	switch {
	case st.Target.IsZero():
		m.toSwitch("nothing should run here any more")
	case st.Return:
		m.toSwitch("returning to %s, kept on disk", st.Target.Ref)
	default:
		m.enter(fleet.Offered, "%s", why)
		m.advance()
	}
}

// advance takes an attempt as far as it can go now.
func (m *machine) advance() {
	st := &m.st
	switch st.Phase {
	case fleet.Failed:
		if !m.ev.At.Before(st.RetryAt) {
			m.launch("trying again after: " + st.Failure.Text)
		}
	case fleet.Offered:
		switch {
		case m.ev.At.Before(st.RetryAt):
		case st.Target.Bundle == st.Fallback.Bundle && !st.Fallback.Damaged:
			m.verified("its files are still on disk")
		default:
			m.enter(fleet.Downloading, "fetching %s", SizeText(st.Target.Size))
			m.again()
		}
	case fleet.Staged:
		m.activate()
	}
}

func (m *machine) verified(why string) {
	m.st.Tries, m.st.RetryAt = 0, time.Time{}
	m.enter(fleet.Verified, "%s", why)
	m.again()
}

// activate switches when the terms allow it.
func (m *machine) activate() {
	switch t := m.st.Terms; {
	case m.ev.At.Before(t.NotBefore):
		m.st.Why = "waits until " + t.NotBefore.Format(time.RFC3339)
	case !fleet.InWindow(t.Windows, m.ev.At):
		m.st.Why = "waits for its window"
		m.st.Since = m.ev.At
	default:
		m.toSwitch("switching to %s", m.st.Target.Ref)
	}
}

func (m *machine) toSwitch(why string, args ...any) {
	m.st.RetryAt = time.Time{}
	m.enter(fleet.Activating, why, args...)
	m.again()
}

// cancel stops the effect of an attempt that is given up for another.
func (m *machine) cancel() {
	switch m.st.Phase {
	case fleet.Downloading, fleet.Verified:
		m.do(Effect{Kind: Cancel, Key: m.key(awaits(m.st.Phase).String())})
	}
}

// switched takes note of what applications are given now.
func (m *machine) switched() {
	st := &m.st
	if !m.switching() || m.ev.Key != m.key(Switch.String()) {
		return
	}
	old := st.Running
	switch {
	case st.Leaving:
		st.Running, st.Fallback = st.Fallback, Held{}
		st.Leaving = false
		m.settleBack()
	case st.Return:
		// Whoever takes a device back from a release does not expect it to return.
		st.Running, st.Fallback = m.held(st.Target, !st.Target.IsZero()), Held{}
		m.settleBack()
	default:
		st.Running = m.held(st.Target, false)
		st.Fallback = m.asFallback(old, st.Fallback)
		m.soak()
		if q, bad := st.quarantine(st.Running.Root); bad { // while the switch was in flight
			st.Failure = Failure{Class: fleet.ReleaseFailure, Code: q.Code, Text: q.Text, Root: q.Root, At: q.At, Since: q.At, Rollout: q.Rollout}
		}
	}
	st.Past = st.Past.Then(old.Bundle, st.Running.Bundle)
	m.unsay()
	m.reconcile()
}

// unsay drops the way back when it leads to what the device was taken back from:
// it came after what runs now, here or by its counter. While a rollout tries an
// older release the directive says to go back to the newer one, and that holds.
func (m *machine) unsay() {
	st := &m.st
	way := st.Fallback
	said := way.Bundle == st.Want.Bundle || way.Bundle == st.Stable.Bundle
	if way.IsZero() || said || m.switching() {
		return
	}
	if !st.Past.Has(way.Bundle) || way.Counter > st.Running.Counter {
		st.Fallback = Held{}
	}
}

// asFallback is old when it was good and may be returned to, else what there was.
func (m *machine) asFallback(old, kept Held) Held {
	if old.Good && !m.st.IsQuarantined(old.Root) && old.Bundle != m.st.Running.Bundle {
		return old
	}
	if kept.Bundle == m.st.Running.Bundle {
		return Held{}
	}
	return kept
}

func (m *machine) settleBack() {
	m.st.Return, m.st.Target = false, Offer{}
	m.st.Tries, m.st.RetryAt = 0, time.Time{}
	if m.st.Running.IsZero() {
		m.enter(fleet.RolledBack, "serves nothing")
		return
	}
	m.enter(fleet.RolledBack, "serves %s again", m.st.Running.Ref)
}

func (m *machine) soak() {
	m.st.SoakEnd = m.ev.At.Add(m.st.Terms.Soak)
	m.st.Boots, m.st.Tries, m.st.RetryAt, m.st.Failure = 0, 0, time.Time{}, Failure{}
	m.enter(fleet.Soaking, "serves %s and watches it for %s", m.st.Running.Ref, m.st.Terms.Soak)
}

// tick does what only waited for its time.
func (m *machine) tick() {
	st, now := &m.st, m.ev.At
	switch st.Phase {
	case fleet.Offered, fleet.Staged:
		m.reconcile()
	case fleet.Failed:
		switch {
		case st.Leaving && !now.Before(st.Next()):
			st.Since = now
			m.again()
		case st.waits():
			m.reconcile()
		}
	case fleet.Soaking:
		if !now.Before(st.SoakEnd) && m.serves() {
			st.Running.Good = true
			m.enter(fleet.Healthy, "served %s for %s and stayed healthy", st.Running.Ref, st.Terms.Soak)
			m.reconcile()
		}
	case fleet.Downloading, fleet.Verified, fleet.Activating:
		if !now.Before(st.Next()) {
			st.Since = now
			m.again()
		}
	}
	m.repair()
}

// serves reports whether the disk says that applications are given Running.
func (m *machine) serves() bool { return m.ev.Seen && m.ev.Current == m.st.Running.Bundle }

// repair gives applications what the state says when the disk says otherwise:
// someone removed the link.
func (m *machine) repair() {
	if m.ev.Seen && !m.switching() && !m.serves() {
		m.do(Effect{Kind: Switch, Key: "repair", Offer: m.st.Running.Offer})
	}
}

// restart takes up what a stopped agent had begun.
func (m *machine) restart() {
	st := &m.st
	rebooted := st.Boot != "" && st.Boot != m.ev.Boot
	st.Boot = m.ev.Boot
	st.RetryAt = time.Time{} // the clock may have been set meanwhile; one early try does no harm
	switch st.Phase {
	case fleet.Soaking:
		if rebooted {
			st.Boots++
		}
		if limit := st.Terms.Health.Restarts; limit > 0 && st.Boots >= limit {
			text := fmt.Sprintf("the device booted %d times while it soaked, limit %d", st.Boots, limit)
			m.blame(Failure{Code: "boot-loop", Text: text}, st.Running.Offer)
			break
		}
		// What happened while the agent was away was not watched.
		st.SoakEnd = m.ev.At.Add(st.Terms.Soak)
	case fleet.Downloading, fleet.Verified, fleet.Activating:
		st.Since = m.ev.At
		m.again()
	case fleet.Failed:
		if st.Leaving {
			st.Since = m.ev.At
			m.again()
		}
	}
	m.mend()
	m.reconcile()
	m.repair()
}
