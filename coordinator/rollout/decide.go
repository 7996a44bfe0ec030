package rollout

import (
	"fmt"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Decide derives the next status and what was done from what is known at now.
// Given the same arguments it decides the same; given its own result and the
// same view again it does nothing. It does not change its arguments.
//
// A terminal rollout is still: it takes no commands. A call costs at most a few
// passes over the roster, and none while a stage soaks.
func Decide(spec fleet.Spec, st Status, v View, now time.Time) (Status, []Action) {
	if st.State.Terminal() {
		return st, nil
	}
	if v.Roster == nil {
		v.Roster = &Roster{}
	}
	m := machine{spec: &spec, st: st.clone(), v: &v, now: now}
	m.obey()
	for m.step() {
	}
	return m.st, m.actions
}

// machine is one call of Decide.
type machine struct {
	spec    *fleet.Spec
	st      Status
	v       *View
	now     time.Time
	actions []Action
}

func (m *machine) act(a Action) {
	a.Stage = m.st.Stage
	m.actions = append(m.actions, a)
}

// enter moves the rollout along an edge.
func (m *machine) enter(to State, why Reason) bool {
	if !legal(edges[:], m.st.State, to) {
		panic("rollout: no edge from " + m.st.State.String() + " to " + to.String())
	}
	m.act(Action{Kind: EnterState, From: m.st.State.String(), To: to.String(), Reason: why})
	m.st.State, m.st.Since, m.st.Reason = to, m.now, why
	if to.Terminal() {
		m.st.Ended = m.now
	}
	return true
}

// enterStage moves the current stage along an edge.
func (m *machine) enterStage(to StageState, why Reason) bool {
	s := m.stage()
	if !legal(stageEdges[:], s.State, to) {
		panic("rollout: no edge from stage state " + s.State.String() + " to " + to.String())
	}
	m.act(Action{Kind: EnterStage, From: s.State.String(), To: to.String(), Reason: why})
	s.State, s.Since, s.Reason, s.Held = to, m.now, why, false
	return true
}

func (m *machine) stage() *StageStatus { return &m.st.Stages[m.st.Stage] }
func (m *machine) want() *fleet.Stage  { return &m.spec.Stages[m.st.Stage] }
func (m *machine) last() bool          { return m.st.Stage == len(m.st.Stages)-1 }

// failing reports whether a gate has failed the release.
func (m *machine) failing() bool {
	return m.v.Verdict != nil && m.v.Verdict.Outcome == Fail
}

// step makes one move, and reports whether it made one.
func (m *machine) step() bool {
	if m.superseded() {
		m.drop()
		return m.enter(Superseded, because("superseded", "rollout "+string(m.v.Newer.ID)+" of the same model is newer"))
	}
	if m.delisted() {
		return true
	}
	switch m.st.State {
	case Draft:
		return m.stepDraft()
	case AwaitingApproval:
		if m.failing() {
			return m.fail()
		}
		if n := int(m.want().Approval); len(m.st.Approvals) >= n {
			m.begin()
			return m.enter(Running, because("approved", "stage "+m.want().Name+" is approved", num("approvals", len(m.st.Approvals)), num("needed", n)))
		}
	case Running:
		if m.failing() {
			return m.fail()
		}
		return m.stepStage()
	case Paused:
		if m.failing() && !m.st.Hold && m.spec.OnFail != fleet.PauseOnFail {
			return m.fail()
		}
	case RollingBack:
		return m.stepBack()
	}
	return false
}

// superseded reports whether a newer rollout takes this one's place. One that
// is being rolled back ends that first; the newer one waits in Draft. Rollouts
// are ordered by (Created, ID), so of two only one can supersede the other.
func (m *machine) superseded() bool {
	n := m.v.Newer
	if n == nil || m.st.State.Terminal() || m.st.State == RollingBack {
		return false
	}
	return n.Created.After(m.st.Created) || (n.Created.Equal(m.st.Created) && n.ID > m.st.ID)
}

// starts is the first moment a Draft may begin: when the second it was made in
// is over, so that everyone enrolled in that second is known.
func (st *Status) starts() time.Time { return st.Created.Truncate(time.Second).Add(time.Second) }

func (m *machine) stepDraft() bool {
	if m.v.Older != nil || m.now.Before(m.st.starts()) {
		return false
	}
	n := int(m.want().Approval)
	if len(m.st.Approvals) < n {
		return m.enter(AwaitingApproval, m.needsApproval(n))
	}
	m.begin()
	return m.enter(Running, because("started", "started", num("stages", len(m.st.Stages)), num("population", m.v.Roster.Len())))
}

func (m *machine) needsApproval(n int) Reason {
	return because("needs-approval", "stage "+m.want().Name+" needs approvals", num("approvals", len(m.st.Approvals)), num("needed", n))
}

// begin fixes who takes part: the members enrolled before the second that now
// is in. Later ones get stable, or the exact exposure could be overshot by one
// that enrols just now below the bound.
func (m *machine) begin() {
	if m.st.AsOf.IsZero() {
		m.st.AsOf = m.now.UTC().Truncate(time.Second).Add(-time.Second)
	}
}

// fail does what the spec says about a failed gate.
func (m *machine) fail() bool {
	v := m.v.Verdict
	why := because(GateFailed, v.Reason, num("e", v.E))
	switch m.stage().State {
	case Exposing, Soaking, Deciding:
		m.enterStage(Failed, why)
	}
	if m.spec.OnFail == fleet.PauseOnFail {
		m.st.Resume, m.st.Hold = m.st.State, false
		return m.enter(Paused, why)
	}
	return m.rollBack(why)
}

// stepStage moves the current stage of a running rollout.
func (m *machine) stepStage() bool {
	s := m.stage()
	switch s.State {
	case Waiting:
		s.Began = m.now
		return m.enterStage(Exposing, because("began", "stage "+s.Name+" begins"))
	case Exposing:
		return m.stepExposing()
	case Soaking:
		soak := m.want().Soak.D()
		if s.Released {
			soak = m.spec.MemberSoak.D()
		}
		if m.now.Sub(s.Since) < soak {
			return false
		}
		return m.enterStage(Deciding, because("soaked", "the soak of "+soak.String()+" is over"))
	case Deciding:
		return m.stepDeciding()
	}
	return false
}

func (m *machine) stepExposing() bool {
	s := m.stage()
	c := m.survey()
	s.Target, s.Told = m.target(c), c.told
	if m.raise(c) {
		return true
	}
	if s.Target == 0 && s.Reason.Code != "nobody" {
		s.Reason = because("nobody", "no member matches stage "+s.Name+": it can prove nothing", num("population", c.population))
		m.act(Action{Kind: Hold, Reason: s.Reason})
	}
	if s.Told >= s.Target && c.enough(c.arrived) {
		s.Soaked = m.now
		return m.enterStage(Soaking, arrived(c))
	}
	if m.now.Sub(s.Began) < m.spec.StageDeadline.D() {
		return false
	}
	against := ""
	if c.arrived == 0 {
		against = "no member has switched"
	}
	return m.deadline(c, func(why Reason) bool {
		s.Soaked = m.now
		return m.enterStage(Soaking, why)
	}, against)
}

// arrived says that a stage may soak. A member that gave the release up, or could
// not bring it in, is not waited for, and did not switch.
func arrived(c census) Reason {
	text := "enough of the told members that answer have switched"
	numbers := []Number{num("told", c.told), num("switched", c.on), num("answering", c.answering), num("silent", c.silent)}
	if c.on < c.arrived {
		text += ", or cannot"
		numbers = append(numbers, num("gave up or cannot", c.arrived-c.on))
	}
	if c.transport > 0 {
		numbers = append(numbers, num("cannot fetch", c.transport))
	}
	return because("arrived", text, numbers...)
}

func (m *machine) stepDeciding() bool {
	s := m.stage()
	c := m.survey()
	s.Told = c.told
	v := m.v.Verdict
	proven := v != nil && v.Outcome == Pass && v.Stage == m.st.Stage && !v.At.Before(s.Soaked)
	if s.Released {
		// The stage was proven against its control; the rest only has to settle.
		proven = v != nil && v.Outcome != Fail && !v.Suspicious
	}
	if proven && c.healthy > 0 && c.enough(c.settled) {
		return m.pass(because("gates-passed", v.Reason, num("e", v.E), num("healthy", c.healthy), num("settled", c.settled), num("answering", c.answering), num("silent", c.silent)))
	}
	if m.now.Sub(s.Since) < m.spec.StageDeadline.D() {
		return false
	}
	against := ""
	switch {
	case c.healthy == 0:
		against = "no member is healthy"
	case v == nil || v.Stage != m.st.Stage:
		against = "the gates have not judged this stage"
	case v.Suspicious || v.E > 1:
		against = fmt.Sprintf("the evidence speaks against the release (%.3g)", v.E)
	}
	return m.deadline(c, m.pass, against)
}

// deadline applies the policy for a stage that is still inconclusive. It is
// only continued if a member faced the release and nothing is against that.
func (m *machine) deadline(c census, next func(Reason) bool, against string) bool {
	numbers := []Number{num("told", c.told), num("switched", c.on), num("healthy", c.healthy), num("silent", c.silent), num("transport", c.transport)}
	text := "inconclusive after " + m.spec.StageDeadline.String()
	if m.stage().Target == 0 {
		text += ": no member matches the stage"
	}
	switch {
	case m.spec.OnInconclusive == fleet.AbortInconclusive:
		return m.abort(because("inconclusive", text+"; aborted as the spec says", numbers...))
	case m.spec.OnInconclusive == fleet.ContinueInconclusive && against == "":
		return next(because("inconclusive", text+"; continued as the spec says", numbers...))
	case !m.stage().Held:
		m.stage().Held = true
		if m.spec.OnInconclusive == fleet.ContinueInconclusive {
			text += "; not continued: " + against
		}
		m.act(Action{Kind: Hold, Reason: because("inconclusive", text+"; held until there is a verdict or an operator decides", numbers...)})
	}
	return false
}

// pass ends a stage well: it releases its control, goes to the next one, or
// ends the rollout.
func (m *machine) pass(why Reason) bool {
	s := m.stage()
	if m.want().Control > 0 && !s.Released {
		if c := m.survey(); m.targetOf(c, true) > c.told {
			s.Released, s.Began = true, m.now
			return m.enterStage(Exposing, why)
		}
	}
	m.enterStage(Passed, why)
	if m.last() {
		return m.enter(Succeeded, why)
	}
	m.next()
	return true
}

// next makes the following stage the current one and asks for its approvals.
func (m *machine) next() {
	m.st.Stage++
	m.st.Approvals, m.st.Skips = nil, nil
	if n := int(m.want().Approval); n > 0 && m.st.State == Running {
		m.enter(AwaitingApproval, m.needsApproval(n))
	}
}
