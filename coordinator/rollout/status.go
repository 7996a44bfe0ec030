package rollout

import (
	"slices"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// maxStages is how many stages a roster has bits for.
const maxStages = 64

// Status is everything that is remembered of a rollout. It is JSON; only
// Decide changes it.
type Status struct {
	ID      fleet.RolloutID `json:"id"`
	Release fleet.Release   `json:"release"`
	Author  Approval        `json:"author"` // who started it, and may not approve
	Created time.Time       `json:"created"`

	State  State     `json:"state"`
	Since  time.Time `json:"since"`  // when it entered State
	Reason Reason    `json:"reason"` // why it is in State
	AsOf   time.Time `json:"asOf,omitzero"`
	Ended  time.Time `json:"ended,omitzero"`

	Stage  int           `json:"stage"` // index of the stage it is in, or waits to begin
	Stages []StageStatus `json:"stages"`
	Bounds []fleet.Bound `json:"bounds"` // one a stage: its members with a position below are exposed

	// Keep narrows Bounds while a release is taken back; nil: it does not.
	Keep *Keep `json:"keep,omitempty"`

	Commands  uint64     `json:"commands"`            // highest command taken
	Hold      bool       `json:"hold,omitempty"`      // paused so that not even a failing gate rolls back
	Resume    State      `json:"resume,omitempty"`    // where resume leads
	Approvals []Approval `json:"approvals,omitempty"` // who approved the stage it waits for
	Skips     []Approval `json:"skips,omitempty"`     // who asked to skip to the last stage
	Returned  time.Time  `json:"returned,omitzero"`   // when members were last told to go back
	Silent    int        `json:"silent,omitempty"`    // members that ran the release when last heard, at the end of a rollback
}

// StageStatus is what is remembered of one stage.
type StageStatus struct {
	Name     string     `json:"name"`
	State    StageState `json:"state"`
	Since    time.Time  `json:"since,omitzero"`  // when it entered State
	Began    time.Time  `json:"began,omitzero"`  // when it began to expose
	Soaked   time.Time  `json:"soaked,omitzero"` // when its soak began
	Target   int        `json:"target"`          // members it wants exposed, of those it matches
	Told     int        `json:"told"`            // of them exposed
	Released bool       `json:"released,omitempty"`
	Held     bool       `json:"held,omitempty"`    // its deadline passed and the policy is to hold
	Skipped  bool       `json:"skipped,omitempty"` // by two approvals
	Reason   Reason     `json:"reason,omitzero"`
}

// Keep says which of the members below the bounds stay exposed: exactly the
// listed (Only), or all but the listed. Whichever list is shorter is used.
type Keep struct {
	Only bool             `json:"only"`
	IDs  []fleet.MemberID `json:"ids"` // sorted
}

func (k *Keep) has(id fleet.MemberID) bool {
	if k == nil {
		return true
	}
	_, listed := slices.BinarySearch(k.IDs, id)
	return listed == k.Only
}

// New is the status of a rollout that was just accepted.
func New(id fleet.RolloutID, release fleet.Release, spec fleet.Spec, author Approval, now time.Time) (Status, error) {
	if err := spec.Validate(); err != nil {
		return Status{}, err
	}
	if len(spec.Stages) > maxStages {
		return Status{}, fault.Newf(fault.Invalid, "start rollout", string(id), "%d stages; at most %d are possible", len(spec.Stages), maxStages)
	}
	st := Status{
		ID: id, Release: release, Author: author, Created: now, Since: now,
		Reason: because("accepted", "accepted from "+author.By),
		Stages: make([]StageStatus, len(spec.Stages)),
		Bounds: make([]fleet.Bound, len(spec.Stages)),
	}
	for i, s := range spec.Stages {
		st.Stages[i] = StageStatus{Name: s.Name, Since: now}
	}
	return st, nil
}

// clone copies what Decide may change.
func (st Status) clone() Status {
	st.Stages = slices.Clone(st.Stages)
	st.Bounds = slices.Clone(st.Bounds)
	st.Approvals = slices.Clone(st.Approvals)
	st.Skips = slices.Clone(st.Skips)
	return st
}

// exposing reports whether any bound is above nobody.
func (st *Status) exposing() bool {
	for _, b := range st.Bounds {
		if b != fleet.Nobody {
			return true
		}
	}
	return false
}

// Exposure is what the directive says of the rollout; nil: nothing. A rollout
// that was aborted still says which members keep the release, until a newer
// rollout of the model takes its place in the directive.
func Exposure(spec fleet.Spec, st Status) *fleet.Exposure {
	switch st.State {
	case Draft, Succeeded, RolledBack, Superseded:
		return nil
	case RollingBack, Aborted:
		if !st.exposing() {
			return nil
		}
	}
	if st.AsOf.IsZero() {
		return nil
	}
	return &fleet.Exposure{
		ID: st.ID, Release: st.Release, Population: spec.Population.Selector, Rules: rules(spec, st),
		AsOf: st.AsOf, Windows: spec.Windows, Soak: spec.MemberSoak, Health: spec.Health, Retry: spec.Retry,
	}
}

// rules are the bounds as members read them. A stage's rule that a later one
// with the same selector includes is left out.
func rules(spec fleet.Spec, st Status) []fleet.Rule {
	rules := []fleet.Rule{}
	for i, b := range st.Bounds {
		sel := spec.Stages[i].Selector
		included := false
		for j := range st.Bounds {
			wider := st.Bounds[j] > b || (st.Bounds[j] == b && j > i)
			included = included || (wider && spec.Stages[j].Selector.String() == sel.String())
		}
		if b == fleet.Nobody || included {
			continue
		}
		rules = append(rules, fleet.Rule{Selector: st.Keep.narrow(sel), Bound: b})
	}
	return rules
}

// narrow adds the kept members to a selector.
func (k *Keep) narrow(sel fleet.Selector) fleet.Selector {
	if k == nil || (len(k.IDs) == 0 && !k.Only) {
		return sel
	}
	ids := make([]string, len(k.IDs))
	for i, id := range k.IDs {
		ids[i] = string(id)
	}
	term := fleet.LabelID + " notin (" + strings.Join(ids, ", ") + ")"
	if k.Only {
		term = fleet.LabelID + " in (" + strings.Join(ids, ", ") + ")"
	}
	if !sel.IsEmpty() {
		term = sel.String() + ", " + term
	}
	narrowed, err := fleet.ParseSelector(term)
	if err != nil {
		panic("rollout: a member id is not a label value: " + err.Error())
	}
	return narrowed
}
