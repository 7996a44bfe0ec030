package rollout

import (
	"cmp"
	"slices"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// skipApprovals is how many people other than the author must ask for a skip.
const skipApprovals = 2

// obey takes the commands that were not taken yet, in order.
func (m *machine) obey() {
	for i := range m.v.Commands {
		c := m.v.Commands[i]
		if c.Seq <= m.st.Commands || m.st.State.Terminal() {
			continue
		}
		m.st.Commands = c.Seq
		if refusal := m.take(c); refusal != nil {
			m.act(Action{Kind: Refuse, Command: &c, Reason: *refusal})
		}
	}
}

func refuse(code, text string, numbers ...Number) *Reason {
	r := because(code, text, numbers...)
	return &r
}

func (m *machine) accept(c Command, why Reason) {
	m.act(Action{Kind: Accept, Command: &c, Reason: why})
}

// said is a command as the reason of what follows from it.
func said(c Command) Reason {
	text := string(c.Kind) + " by " + c.By
	if c.Reason != "" {
		text += ": " + c.Reason
	}
	return because("command", text)
}

// take carries a command out, or says why not.
func (m *machine) take(c Command) *Reason {
	switch c.Kind {
	case CommandPause:
		return m.takePause(c)
	case CommandResume:
		return m.takeResume(c)
	case CommandApprove:
		return m.takeApprove(c)
	case CommandSkip:
		return m.takeSkip(c)
	case CommandDisown:
		return m.takeDisown(c)
	case CommandAbort, CommandRollback:
		if m.st.State == RollingBack {
			return refuse("rolling-back", "the rollout is being rolled back already")
		}
		m.accept(c, said(c))
		if c.Kind == CommandRollback && m.st.State != Draft {
			m.rollBack(said(c))
		} else {
			m.abort(said(c))
		}
		return nil
	}
	return refuse("unknown-command", "there is no command "+string(c.Kind))
}

func (m *machine) takePause(c Command) *Reason {
	switch {
	case m.st.State == RollingBack:
		return refuse("rolling-back", "a rollback is not paused: members on their way back go on")
	case m.st.State == Paused && m.st.Hold == c.Hold:
		return refuse("paused", "the rollout is paused already")
	}
	m.accept(c, said(c))
	m.st.Hold = c.Hold
	if m.st.State != Paused {
		m.st.Resume = m.st.State
		m.enter(Paused, said(c))
	}
	return nil
}

func (m *machine) takeResume(c Command) *Reason {
	s := m.stage()
	switch {
	case m.st.State != Paused:
		return refuse("not-paused", "the rollout is not paused")
	case m.failing() || s.State == Failed:
		return refuse("gate-failed", "a gate failed: roll back or abort, and begin a new rollout")
	}
	m.accept(c, said(c))
	s.Held = false
	switch s.State {
	case Exposing:
		s.Began = m.now
	case Soaking:
		s.Since, s.Soaked = m.now, m.now
	case Deciding:
		s.Soaked = m.now
		m.enterStage(Soaking, because("resumed", "the soak begins again"))
	}
	to := m.st.Resume
	m.st.Hold, m.st.Resume = false, Draft
	m.enter(to, said(c))
	return nil
}

// mayApprove says why a person may not approve; nil: they may. People are told
// apart by who stands behind them, not by the names of their tokens.
func (m *machine) mayApprove(c Command, already []Approval) *Reason {
	a := Approval{c.By, c.As}
	switch {
	case c.By == "":
		return refuse("anonymous", "an approval needs a name")
	case a.speaksFor(m.st.Author):
		if c.By == m.st.Author.By {
			return refuse("author", c.By+" started the rollout and cannot approve it")
		}
		return refuse("author", c.By+" is, or was made by, "+m.st.Author.By+", who started the rollout and cannot approve it")
	}
	for _, x := range already {
		if a.speaksFor(x) || x.speaksFor(a) {
			return refuse("approved-already", c.By+" has approved already, as "+x.By, num("approvals", len(already)))
		}
	}
	return nil
}

// takeDisown forgets what a person approved who is no operator any more, unless
// the stage has begun on it.
func (m *machine) takeDisown(c Command) *Reason {
	gone := Approval{As: c.As}
	by := func(a Approval) bool { return a.person() == gone.person() }
	n := len(m.st.Approvals) + len(m.st.Skips)
	m.st.Approvals = slices.DeleteFunc(m.st.Approvals, by)
	m.st.Skips = slices.DeleteFunc(m.st.Skips, by)
	if n -= len(m.st.Approvals) + len(m.st.Skips); n > 0 {
		m.accept(c, because("disowned", cmp.Or(c.Reason, gone.person()+" is no operator any more"), num("approvals", len(m.st.Approvals))))
	}
	return nil
}

func (m *machine) takeApprove(c Command) *Reason {
	waits := m.st.State == AwaitingApproval || m.st.State == Draft ||
		(m.st.State == Paused && m.st.Resume != Running)
	if !waits || m.want().Approval == 0 {
		return refuse("no-approval-needed", "no stage waits for an approval")
	}
	if no := m.mayApprove(c, m.st.Approvals); no != nil {
		return no
	}
	m.st.Approvals = append(m.st.Approvals, Approval{c.By, c.As})
	m.accept(c, because("approved", "stage "+m.want().Name+" approved by "+c.By,
		num("approvals", len(m.st.Approvals)), num("needed", int(m.want().Approval))))
	return nil
}

// takeSkip is the emergency path: two people who did not start the rollout take
// it to its last stage at once. The two count as that stage's approvals; its
// budget, soak and gates stay.
func (m *machine) takeSkip(c Command) *Reason {
	switch {
	case m.st.State != Running && m.st.State != AwaitingApproval:
		return refuse("not-running", "only a running rollout can skip stages")
	case m.last():
		return refuse("last-stage", "the rollout is in its last stage")
	case m.failing():
		return refuse("gate-failed", "a gate failed: there is no skipping past it")
	}
	if no := m.mayApprove(c, m.st.Skips); no != nil {
		return no
	}
	m.st.Skips = append(m.st.Skips, Approval{c.By, c.As})
	m.accept(c, because("skip", "skip asked for by "+c.By, num("approvals", len(m.st.Skips)), num("needed", skipApprovals)))
	if len(m.st.Skips) < skipApprovals {
		return nil
	}
	by := m.st.Skips
	why := because("skipped", "skipped by "+by[0].By+" and "+by[1].By)
	if m.st.State == AwaitingApproval {
		m.begin()
		m.enter(Running, why)
	}
	for !m.last() {
		m.stage().Skipped = true
		m.enterStage(Passed, why)
		m.st.Stage++
	}
	m.st.Approvals, m.st.Skips = by, nil
	if n := int(m.want().Approval); len(by) < n {
		m.enter(AwaitingApproval, m.needsApproval(n))
	}
	return nil
}

// abort takes back the members that have not switched; those that have keep
// the release until a newer rollout of the model.
func (m *machine) abort(why Reason) bool {
	m.keepSwitched(why)
	return m.enter(Aborted, why)
}

// rollBack takes back everyone; stepBack does it at the spec's pace.
func (m *machine) rollBack(why Reason) bool {
	m.enter(RollingBack, why)
	m.keepSwitched(why)
	return true
}

// drop ends all exposure.
func (m *machine) drop() {
	for i := range m.st.Bounds {
		m.st.Bounds[i] = fleet.Nobody
	}
	m.st.Keep = nil
}

// keepSwitched narrows the exposure to exactly the members that run the
// release. Bounds cannot say that, so the shorter of two lists of ids does.
func (m *machine) keepSwitched(why Reason) {
	r, st := m.v.Roster, &m.st
	var on, off []fleet.MemberID
	for i := range r.ids {
		if !st.covers(r, i) {
			continue
		}
		if st.stand(m.v.observation(i)).on {
			on = append(on, r.ids[i])
		} else {
			off = append(off, r.ids[i])
		}
	}
	if len(off) > 0 {
		m.act(Action{Kind: Withdraw, Members: len(off), Reason: why})
	}
	if len(on) == 0 {
		m.drop()
		return
	}
	keep := &Keep{Only: len(on) < len(off), IDs: off}
	if keep.Only {
		keep.IDs = on
	}
	slices.Sort(keep.IDs)
	st.Keep = keep
}
