package analysis

import (
	"slices"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/analysis/evalue"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// State is what an evaluation remembers for the next: the e-processes. It is
// JSON and survives restarts; the zero value is a rollout's beginning. What
// counts against the release is never restarted; what passes a stage begins
// again with each, so that every stage is proven by its own evidence.
type State struct {
	Seen   time.Time `json:"seen,omitzero"`    // watermark of the newest evidence
	Last   *Verdict  `json:"last,omitempty"`   // and what was said of it
	Failed string    `json:"failed,omitempty"` // why the release failed; it stays failed

	Stage    int       `json:"stage"`
	Began    time.Time `json:"began,omitzero"` // when the stage's first exposed member was seen
	Exposing int       `json:"exposing"`       // slots of the plan spent while the stage exposed
	Soaking  int       `json:"soaking"`        // and while it soaked
	LookedAt time.Time `json:"lookedAt,omitzero"`
	Data     uint64    `json:"data"` // what there was to look at then
	Base     []Base    `json:"base,omitempty"`
	Events   int       `json:"events"` // exposed members' fatal events in this stage

	Fatal     evalue.Process   `json:"fatal"`
	FatalPass evalue.Process   `json:"fatalPass"`
	Alarm     evalue.Process   `json:"alarm"`
	AlarmPass evalue.Process   `json:"alarmPass"`
	Counted   []fleet.MemberID `json:"counted,omitempty"` // whose first fatal event is in Fatal, sorted
	Alarmed   []fleet.MemberID `json:"alarmed,omitempty"` // whose first alarm is in Alarm, sorted

	Measures []Measured     `json:"measures,omitempty"` // parallel to the gates' measures
	Bins     []evalue.Looks `json:"bins,omitempty"`     // of the drift gate
	Binned   float64        `json:"binned,omitempty"`   // part of the stage's weight spent on them
	PSI      float64        `json:"psi,omitempty"`
	Better   evalue.Looks   `json:"better"`             // labelled predictions: less wrong than the control
	NotWorse evalue.Looks   `json:"notWorse"`           // not more than 10% worse
	Compared float64        `json:"compared,omitempty"` // part of the stage's weight spent on labels
	Labelled *Comparison    `json:"labelled,omitempty"`
}

// Measured is what is remembered of one measure.
type Measured struct {
	Fail evalue.Looks `json:"fail"`
	Pass evalue.Looks `json:"pass"` // of this stage; what it spent is the part of the stage's weight
	P    float64      `json:"p"`    // of the exposed being as good as tolerated, at the last look alone
	N1   int          `json:"n1"`   // members with data at the last look
	N0   int          `json:"n0"`
	// Mean rates at the last look, for people.
	Exposed float64 `json:"exposed"`
	Control float64 `json:"control"`
}

// Base is what a member had counted when the stage began: the control is
// compared over the same hours as the exposed.
type Base struct {
	ID   fleet.MemberID `json:"id"`
	Arm  fleet.Arm      `json:"arm"`
	Post Counters       `json:"post"`
}

// Evaluate judges the evidence. Evidence that is not newer than what prev has
// seen changes nothing and gives the same verdict again; time without new
// counts moves no number. It does not change its arguments.
func Evaluate(cfg Config, prev State, ev Evidence) (State, Verdict) {
	if prev.Last != nil && !ev.At.After(prev.Seen) {
		return prev, *prev.Last
	}
	e := evaluation{cfg: &cfg, st: prev.clone(), ev: &ev, measures: cfg.measures()}
	e.st.Seen = ev.At
	e.enterStage()
	e.sum()
	e.fatal()
	e.alarms()
	e.look()
	v := e.verdict()
	e.st.Last = &v
	return e.st, v
}

// clone copies what Evaluate may change.
func (s State) clone() State {
	s.Counted, s.Alarmed = slices.Clone(s.Counted), slices.Clone(s.Alarmed)
	s.Measures, s.Bins = slices.Clone(s.Measures), slices.Clone(s.Bins)
	return s
}

type evaluation struct {
	cfg      *Config
	st       State
	ev       *Evidence
	measures []measure
	exposed  Arm
	control  Arm
	watched  time.Duration // summed over the exposed members, in this stage
	silent   []bool        // parallel to the members
}

// enterStage begins a stage's own accounts when the evidence is of a new one.
func (e *evaluation) enterStage() {
	s := &e.st
	if len(s.Measures) != len(e.measures) {
		s.Measures = make([]Measured, len(e.measures))
		for i := range s.Measures {
			s.Measures[i].P = 1
		}
	}
	if s.Stage != e.ev.Stage {
		s.Stage, s.Began, s.Base = e.ev.Stage, time.Time{}, nil
		s.Exposing, s.Soaking, s.Events = 0, 0, 0
		s.FatalPass, s.AlarmPass = evalue.Process{}, evalue.Process{}
		s.Binned, s.Compared = 0, 0
		for i := range s.Measures {
			s.Measures[i].Pass, s.Measures[i].P = evalue.Looks{}, 1
		}
	}
	if !s.Began.IsZero() || !slices.ContainsFunc(e.ev.Members, func(m Member) bool { return m.Arm == fleet.Exposed }) {
		return
	}
	s.Began = e.ev.At
	s.Base = make([]Base, 0, len(e.ev.Members))
	for _, m := range e.ev.Members {
		m.Post.Bins, m.Post.Metrics = slices.Clone(m.Post.Bins), slices.Clone(m.Post.Metrics)
		s.Base = append(s.Base, Base{ID: m.ID, Arm: m.Arm, Post: m.Post})
	}
}

// sum adds up the arms and finds who fell silent.
func (e *evaluation) sum() {
	e.silent = make([]bool, len(e.ev.Members))
	for i := range e.ev.Members {
		m := &e.ev.Members[i]
		arm := e.arm(m)
		arm.Members++
		e.silent[i] = e.ev.At.Sub(m.Seen) > e.cfg.SilentFor
		if e.silent[i] {
			arm.Silent++
		} else {
			arm.Seen++
		}
		arm.Failed += count(m.Failed)
		arm.Alarms += count(m.Alarm)
		arm.Windows += m.Post.Windows
		arm.Errored += m.Post.Errored
		arm.Requests += m.Post.Requests
		arm.Errors += m.Post.Errors
		arm.Right += m.Post.Right
		arm.Wrong += m.Post.Wrong
		if m.Arm == fleet.Exposed && !m.Failed {
			from, to := later(m.Since, e.st.Began), m.Seen
			if to.After(from) {
				e.watched += to.Sub(from)
			}
		}
	}
}

func (e *evaluation) arm(m *Member) *Arm {
	if m.Arm == fleet.Exposed {
		return &e.exposed
	}
	return &e.control
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// covered reports whether enough of an arm is heard to judge by it.
func (e *evaluation) covered(a Arm) bool {
	return a.Members > 0 && float64(a.Seen) >= e.cfg.Coverage*float64(a.Members)
}

// fatal counts each member's first fatal event. A member that fell silent
// between its activation and the end of its own soak is one: the sickest would
// otherwise vanish from the statistic. Later silence is the network's. A
// control member that falls silent is one whenever it does, and while the
// control as a whole is not heard nobody is.
func (e *evaluation) fatal() {
	x := e.firsts(&e.st.Counted, func(i int, m *Member) bool {
		if m.Failed {
			return true
		}
		lost := m.Arm == fleet.Control || m.Settled.IsZero()
		return e.silent[i] && lost && e.covered(e.control)
	})
	for _, s := range x {
		e.st.Events += s.x1
		e.st.Fatal.Add(evalue.Worse(1), 1, s.n1, s.n0, s.x1, s.x0)
		e.st.FatalPass.Add(evalue.Better(1), 1+e.cfg.Margin, s.n1, s.n0, s.x1, s.x0)
	}
}

// alarms counts each member's first alarm: its self-alarm, or that the release
// failed on it, which is one a fortiori. A control member's stable release may
// fail as well.
func (e *evaluation) alarms() {
	g, on := e.cfg.gate(fleet.GateErrors)
	if !on {
		return
	}
	tolerated := 1 + g.Tolerate.Of()
	for _, s := range e.firsts(&e.st.Alarmed, func(_ int, m *Member) bool { return m.Alarm || m.Failed }) {
		e.st.Alarm.Add(evalue.Worse(tolerated), tolerated, s.n1, s.n0, s.x1, s.x0)
		e.st.AlarmPass.Add(evalue.Better(tolerated), tolerated*(1+e.cfg.Margin), s.n1, s.n0, s.x1, s.x0)
	}
}

// batch is the members of one stratum at risk, and the events among them.
type batch struct {
	stratum        string
	n1, n0, x1, x0 int
}

// firsts finds the members with a first event, marks them counted, and returns
// the strata with both arms at risk; those with one arm are pooled.
func (e *evaluation) firsts(counted *[]fleet.MemberID, event func(int, *Member) bool) []batch {
	var strata []batch
	var fresh []fleet.MemberID
	for i := range e.ev.Members {
		m := &e.ev.Members[i]
		if _, is := slices.BinarySearch(*counted, m.ID); is {
			continue
		}
		at := slices.IndexFunc(strata, func(b batch) bool { return b.stratum == m.Stratum })
		if at < 0 {
			at = len(strata)
			strata = append(strata, batch{stratum: m.Stratum})
		}
		b, x := &strata[at], event(i, m)
		if m.Arm == fleet.Exposed {
			b.n1++
			b.x1 += count(x)
		} else {
			b.n0++
			b.x0 += count(x)
		}
		if x {
			fresh = append(fresh, m.ID)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	*counted = append(*counted, fresh...)
	slices.Sort(*counted)
	var rest batch
	kept := strata[:0]
	for _, b := range strata {
		if b.n1 > 0 && b.n0 > 0 {
			kept = append(kept, b)
			continue
		}
		rest.n1, rest.n0, rest.x1, rest.x0 = rest.n1+b.n1, rest.n0+b.n0, rest.x1+b.x1, rest.x0+b.x0
	}
	if rest.n1+rest.n0 > 0 {
		kept = append(kept, rest)
	}
	slices.SortFunc(kept, func(a, b batch) int { return strings.Compare(a.stratum, b.stratum) })
	return kept
}
