package rollout

import (
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// patience is how long a step of a rate-limited rollback waits for members
// that do not report having returned, before the next step goes anyway.
func patience(spec fleet.Spec) time.Duration { return max(spec.MemberSoak.D(), time.Minute) }

// delisted ends a rollout whose release no member may run any more, also one that
// is paused and holds: members leave it by themselves, and who looks at the fleet
// is to see why.
func (m *machine) delisted() bool {
	if m.v.Delisted == "" || m.st.State == RollingBack || m.st.State.Terminal() {
		return false
	}
	why := because(Delisted, m.v.Delisted)
	if m.st.AsOf.IsZero() { // nobody was told of it yet
		return m.enter(Aborted, why)
	}
	return m.rollBack(why)
}

// stepBack returns exposed members, newest first, and ends the rollback.
func (m *machine) stepBack() bool {
	late := m.now.Sub(m.st.Since) >= m.spec.StageDeadline.D()
	if m.st.exposing() {
		return m.lower(late)
	}
	still, silent, stranded := 0, 0, 0
	r := m.v.Roster
	for i := range r.ids {
		o := m.v.observation(i)
		if m.st.stand(o).on {
			still += count(o.Reachable)
			silent += count(!o.Reachable)
			stranded += count(o.Reachable && o.Stranded)
		}
	}
	// Why it was rolled back stays the first thing that is said of it.
	why, numbers := m.st.Reason.Text, []Number{num("still", still), num("silent", silent)}
	switch {
	case still == 0:
		m.st.Silent = silent
		return m.enter(RolledBack, because("returned", why+"; every member that answers runs something else", numbers...))
	case still == stranded:
		m.st.Silent = silent
		then := "members keep this one until that one is listed again, or another is rolled out"
		if m.v.Delisted != "" {
			then = "members leave this one as any that was taken back"
		}
		return m.enter(RolledBack, because(Stranded, why+"; there is no release to go back to that its publisher lists: "+then, numbers...))
	case late:
		m.st.Silent = silent
		return m.enter(RolledBack, because("deadline", why+"; the deadline of "+m.spec.StageDeadline.String()+" passed with members still on the release", numbers...))
	}
	return false
}

// lower takes the bounds down as far as the spec's rate allows: as many members
// as are not already on their way back. From the last stage to the first and
// from the highest position to the lowest, so that the newest exposed go first.
func (m *machine) lower(late bool) bool {
	r, st := m.v.Roster, &m.st
	quota := max(1, r.Len())
	if rate := m.spec.ReturnRate; rate > 0 && !late {
		quota = rate
		if m.now.Sub(st.Returned) < patience(*m.spec) {
			quota -= m.returning()
		}
	}
	if quota <= 0 {
		return false
	}
	returned := 0
	for s := len(st.Bounds) - 1; s >= 0 && returned < quota; s-- {
		for i := r.Len() - 1; i >= 0 && returned < quota; i-- {
			p := r.position[i]
			if !st.Bounds[s].Covers(p) || r.stages[i]>>s&1 == 0 || !st.covers(r, i) {
				continue
			}
			st.Bounds[s] = fleet.Bound(p)
			// Silent members cannot be counted back; they go along for free.
			if !st.covers(r, i) && m.v.observation(i).Reachable {
				returned++
			}
		}
		if returned < quota {
			st.Bounds[s] = fleet.Nobody
		}
	}
	if !st.exposing() {
		m.drop()
	}
	st.Returned = m.now
	m.act(Action{Kind: Return, Members: returned, Reason: because("returned", "members were told to return to what they ran before",
		num("returned", returned), num("rate", m.spec.ReturnRate))})
	return true
}

// returning counts the members that were told to go back and have not yet, but can.
func (m *machine) returning() int {
	r, n := m.v.Roster, 0
	for i := range r.ids {
		o := m.v.observation(i)
		if o.Reachable && !o.Stranded && m.st.stand(o).on && !m.st.covers(r, i) {
			n++
		}
	}
	return n
}
