package rollout

import (
	"math"
	"sort"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// settledShare is the share of the told members that answer which must have
// switched before the soak begins, and settled before a stage passes, in
// fifths: a stage closes on evidence, not on completeness.
const settledShare = 4

// standing is what one observation amounts to.
type standing struct {
	on          bool // runs the release
	healthy     bool
	failed      bool // the release failed on it
	unfit       bool // it failed for reasons of its own
	transport   bool // the network failed it; it tries again
	quarantined bool
	slot        bool // if told: holds a place in the budget
}

func (s standing) settled() bool { return s.healthy || s.failed || s.unfit || s.quarantined }

// stand reads an observation. Phase and Failure mean something only when they
// are about this rollout; Running always does.
func (st *Status) stand(o Observation) standing {
	var s standing
	s.on = runs(&st.Release, o.Running)
	ours := o.Rollout == st.ID
	s.quarantined = o.Quarantined || (ours && o.Phase == fleet.Quarantined)
	switch {
	case !ours:
	case o.Phase == fleet.Quarantined:
		s.failed = true
	case o.Phase == fleet.Failed && o.Failure == fleet.TransportFailure, !s.on && o.Phase.InProgress() && o.Failure == fleet.TransportFailure:
		s.transport = true
	case o.Phase == fleet.Failed, o.Phase == fleet.RolledBack:
		s.failed = o.Failure == fleet.ReleaseFailure
		s.unfit = !s.failed
	}
	s.healthy = s.on && !s.failed && !s.unfit && !s.quarantined && (o.Phase == fleet.Healthy || o.Phase == fleet.Idle)
	// A silent member holds no place, unless it was last heard in the middle of
	// the switch: that one may be down because of it.
	mid := ours && (o.Phase == fleet.Activating || o.Phase == fleet.Soaking)
	s.slot = !s.settled() && (o.Reachable || mid)
	return s
}

func runs(r *fleet.Release, root fleet.Digest) bool {
	if root.IsZero() {
		return false
	}
	for i := range r.Variants {
		if r.Variants[i].Root == root {
			return true
		}
	}
	return false
}

// observation of the i-th member of the roster.
func (v *View) observation(i int) Observation {
	if i < len(v.Observed) {
		return v.Observed[i]
	}
	return Observation{}
}

// takesPart reports whether the i-th member was enrolled in time.
func (st *Status) takesPart(r *Roster, i int) bool {
	return !st.AsOf.IsZero() && r.enrolled[i] <= st.AsOf.Unix()
}

// covers reports whether the bounds expose the i-th member.
func (st *Status) covers(r *Roster, i int) bool {
	p, match := r.position[i], r.stages[i]
	for s, b := range st.Bounds {
		if b.Covers(p) && match>>s&1 == 1 {
			return st.Keep.has(r.ids[i]) && st.takesPart(r, i)
		}
	}
	return false
}

// census counts the members of the current stage, and those in progress in the
// whole rollout.
type census struct {
	population, matching int
	inProgress           int     // anywhere, for the budget
	perLabel             [][]int // parallel to Roster.labels, by value; nil without such a budget

	// Of the told members that match the stage:
	told, answering, arrived, on, settled, healthy, silent, transport, quarantined int
}

// enough reports whether n of the members that answer are most of them. Those
// that are silent, cut off by the network, or refuse the release from before,
// hold nothing up; a stage that nobody faced has never enough.
func (c census) enough(n int) bool {
	if c.answering == 0 {
		return c.quarantined > 0
	}
	return n*5 >= c.answering*settledShare
}

func (m *machine) survey() census {
	var c census
	r, st := m.v.Roster, &m.st
	budget := m.want().Budget
	if len(budget.PerLabel) > 0 {
		c.perLabel = make([][]int, len(r.labels))
		for l := range r.labels {
			c.perLabel[l] = make([]int, len(r.labels[l].values))
		}
	}
	for i := range r.ids {
		if !st.takesPart(r, i) {
			continue
		}
		matches := r.stages[i]>>st.Stage&1 == 1
		c.population++
		if matches {
			c.matching++
		}
		if !st.covers(r, i) {
			continue
		}
		o := m.v.observation(i)
		s := st.stand(o)
		if s.slot {
			c.addSlot(r, i)
		}
		if !matches {
			continue
		}
		c.told++
		switch {
		case s.quarantined:
			c.quarantined++
		case !o.Reachable:
			c.silent++
		case s.transport:
			c.transport++
		default:
			c.answering++
			c.arrived += count(s.on || s.settled())
			c.on += count(s.on)
			c.settled += count(s.settled())
			c.healthy += count(s.healthy)
		}
	}
	return c
}

func (c *census) addSlot(r *Roster, i int) {
	c.inProgress++
	for l := range c.perLabel {
		if v := r.labels[l].value[i]; v >= 0 {
			c.perLabel[l][v]++
		}
	}
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// target is how many of the members that match the stage should be exposed.
func (m *machine) target(c census) int { return m.targetOf(c, m.stage().Released) }

func (m *machine) targetOf(c census, released bool) int {
	want := m.want()
	n := c.matching
	if n == 0 {
		return 0
	}
	t := n
	switch {
	case want.Count > 0:
		t = min(want.Count, n)
	case want.Percent > 0:
		t = share(want.Percent, n)
	}
	if want.Control > 0 && !released {
		held := share(want.Control, c.population)
		t = min(t, n-max(0, held-(c.population-n)))
	}
	return max(1, t)
}

// share is p percent of n, rounded up, at least one.
func share(p fleet.Percent, n int) int {
	return min(n, max(1, int(math.Ceil(float64(p)*float64(n)/100-1e-9))))
}

// raise lifts the stage's bound as far as target and budget allow, and reports
// whether it did. The order is that of positions: when the next member would
// exceed a budget, the bound waits until the members in its way settle.
func (m *machine) raise(c census) bool {
	r, st, s := m.v.Roster, &m.st, m.stage()
	old := st.Bounds[st.Stage]
	bound, added := old, 0
	whole := true // no member that matches is left above the bound
	for i := sort.Search(r.Len(), func(i int) bool { return !old.Covers(r.position[i]) }); i < r.Len(); i++ {
		if r.stages[i]>>st.Stage&1 == 0 || !st.takesPart(r, i) {
			continue
		}
		if !st.covers(r, i) {
			if c.told+added >= s.Target {
				whole = false
				break
			}
			if st.stand(m.v.observation(i)).slot {
				if !m.room(c, i) {
					whole = false
					break
				}
				c.addSlot(r, i)
			}
			added++
		}
		bound = fleet.Bound(r.position[i] + 1)
	}
	if whole && added > 0 {
		bound = fleet.Everyone
	}
	if bound == old || added == 0 {
		return false
	}
	st.Bounds[st.Stage], s.Told = bound, c.told+added
	m.act(Action{Kind: Expose, Members: added, Reason: because("exposed", "the bound of stage "+s.Name+" was raised",
		num("exposed", s.Told), num("target", s.Target), num("matching", c.matching), num("inProgress", c.inProgress))})
	return true
}

// room reports whether the budget has a place for the i-th member.
func (m *machine) room(c census, i int) bool {
	budget, r := m.want().Budget, m.v.Roster
	if budget.InProgress > 0 && c.inProgress >= budget.InProgress {
		return false
	}
	for l := range c.perLabel {
		limit := budget.PerLabel[r.labels[l].key]
		if v := r.labels[l].value[i]; limit > 0 && v >= 0 && c.perLabel[l][v] >= limit {
			return false
		}
	}
	return true
}

// Tally counts the members of a rollout by how far they are.
type Tally struct {
	Population  int `json:"population"`  // members that take part; before it began: that would
	Told        int `json:"told"`        // exposed
	InProgress  int `json:"inProgress"`  // told and holding a place in the budget
	On          int `json:"on"`          // run the release, told or not
	Healthy     int `json:"healthy"`     // told, run it, and their soak went well
	Failed      int `json:"failed"`      // the release failed on them
	Unfit       int `json:"unfit"`       // they failed for reasons of their own
	Transport   int `json:"transport"`   // the network failed them; they try again
	Quarantined int `json:"quarantined"` // refuse the release
	Silent      int `json:"silent"`      // told, not heard lately
}

// Count tallies the members by what is observed of them.
func Count(st Status, v View) Tally {
	var t Tally
	r := v.Roster
	if r == nil {
		return t
	}
	for i := range r.ids {
		if !st.AsOf.IsZero() && !st.takesPart(r, i) {
			continue
		}
		o := v.observation(i)
		s := st.stand(o)
		t.Population++
		t.On += count(s.on)
		t.Failed += count(s.failed)
		t.Unfit += count(s.unfit)
		t.Transport += count(s.transport)
		t.Quarantined += count(s.quarantined)
		if st.covers(r, i) {
			t.Told++
			t.InProgress += count(s.slot)
			t.Healthy += count(s.healthy)
			t.Silent += count(!o.Reachable)
		}
	}
	return t
}
