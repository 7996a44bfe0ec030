package rollout

import (
	"fmt"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// State is where a rollout stands. Its text form is its name.
type State uint8

// The states.
const (
	Draft            State = iota // accepted; waits for its first whole second and for an older rollout that is being rolled back
	AwaitingApproval              // the next stage needs approvals it does not have; exposed members stay exposed
	Running                       // moving through its stages
	Paused                        // an operator or a failed gate holds it; no new exposure
	RollingBack                   // returning every exposed member, newest first
	Succeeded                     // the last stage passed; the release is the new stable one (terminal)
	RolledBack                    // the directive exposes nobody and every member that answers runs something else (terminal)
	Aborted                       // stopped; members in progress were withdrawn, those that had switched keep the release (terminal)
	Superseded                    // a newer rollout of the model took its place (terminal)
)

// StageState is where one stage stands. Its text form is its name.
type StageState uint8

// The stage states.
const (
	Waiting  StageState = iota // not begun
	Exposing                   // exposes more members as the budget allows, until enough have switched
	Soaking                    // nothing changes; evidence is gathered
	Deciding                   // the soak is over; waits for the gates' verdict
	Passed                     // gates passed, or skipped by two approvals (terminal)
	Failed                     // a gate failed (terminal)
)

type stateInfo struct {
	name, says, deadline string
	terminal             bool
}

var states = [...]stateInfo{
	Draft:            {"Draft", "accepted; waits for its first whole second, and for an older rollout that is being rolled back", "the next whole second", false},
	AwaitingApproval: {"AwaitingApproval", "the next stage needs approvals it does not have; exposed members stay exposed", "none", false},
	Running:          {"Running", "moving through its stages", "the stage's", false},
	Paused:           {"Paused", "an operator or a failed gate holds it; no new exposure", "none", false},
	RollingBack:      {"RollingBack", "returning every exposed member, newest first", "stageDeadline", false},
	Succeeded:        {"Succeeded", "the last stage passed; the release is the new stable one", "", true},
	RolledBack:       {"RolledBack", "the directive exposes nobody and every member that answers runs something else", "", true},
	Aborted:          {"Aborted", "stopped; members in progress were withdrawn, those that had switched keep the release", "", true},
	Superseded:       {"Superseded", "a newer rollout of the model took its place", "", true},
}

var stageStates = [...]stateInfo{
	Waiting:  {"Waiting", "not begun", "none", false},
	Exposing: {"Exposing", "exposes more members as the budget allows, until enough have switched", "stageDeadline", false},
	Soaking:  {"Soaking", "nothing changes; evidence is gathered", "the soak", false},
	Deciding: {"Deciding", "the soak is over; waits for the gates' verdict", "stageDeadline", false},
	Passed:   {"Passed", "gates passed, or skipped by two approvals", "", true},
	Failed:   {"Failed", "a gate failed", "", true},
}

// edge is one legal move and what makes it.
type edge[S any] struct {
	from, to S
	when     string
}

// edges are the only moves a rollout makes.
var edges = [...]edge[State]{
	{Draft, AwaitingApproval, "the first stage needs approvals"},
	{Draft, Running, "started"},
	{Draft, Paused, "pause"},
	{Draft, Aborted, "abort or rollback, or delisted"},
	{Draft, Superseded, "newer rollout"},
	{AwaitingApproval, Running, "approved"},
	{AwaitingApproval, Paused, "pause, or a gate failed with onFail pause"},
	{AwaitingApproval, RollingBack, "rollback, a gate failed, or delisted"},
	{AwaitingApproval, Aborted, "abort, or delisted"},
	{AwaitingApproval, Superseded, "newer rollout"},
	{Running, AwaitingApproval, "the next stage needs approvals"},
	{Running, Paused, "pause, or a gate failed with onFail pause"},
	{Running, RollingBack, "rollback, a gate failed, or delisted"},
	{Running, Succeeded, "the last stage passed"},
	{Running, Aborted, "abort, or inconclusive at the deadline with onInconclusive abort"},
	{Running, Superseded, "newer rollout"},
	{Paused, Draft, "resume"},
	{Paused, AwaitingApproval, "resume"},
	{Paused, Running, "resume"},
	{Paused, RollingBack, "rollback, a gate failed and the pause does not hold, or delisted"},
	{Paused, Aborted, "abort, or delisted"},
	{Paused, Superseded, "newer rollout"},
	{RollingBack, RolledBack, "no member is exposed and every reporting member runs another release or has no listed release to return to, or the deadline passed"},
}

// stageEdges are the only moves a stage makes.
var stageEdges = [...]edge[StageState]{
	{Waiting, Exposing, "the stage before it passed, and it is approved"},
	{Waiting, Passed, "skipped"},
	{Exposing, Soaking, "all its members are told and enough have switched"},
	{Exposing, Passed, "skipped"},
	{Exposing, Failed, "a gate failed"},
	{Soaking, Deciding, "the soak is over"},
	{Soaking, Passed, "skipped"},
	{Soaking, Failed, "a gate failed"},
	{Deciding, Soaking, "resumed: the soak begins again"},
	{Deciding, Exposing, "passed with a control share: the rest is exposed"},
	{Deciding, Passed, "the gates passed, or skipped"},
	{Deciding, Failed, "a gate failed"},
}

func legal[S comparable](table []edge[S], from, to S) bool {
	for _, e := range table {
		if e.from == from && e.to == to {
			return true
		}
	}
	return false
}

// Terminal reports whether nothing moves a rollout out of the state.
func (s State) Terminal() bool { return int(s) < len(states) && states[s].terminal }

// String is the state's name.
func (s State) String() string {
	if int(s) < len(states) {
		return states[s].name
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// MarshalText is the state's name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a state's name.
func (s *State) UnmarshalText(b []byte) error {
	for i, info := range states {
		if info.name == string(b) {
			*s = State(i)
			return nil
		}
	}
	return fault.Newf(fault.Invalid, "read rollout state", string(b), "there is no such state")
}

// Terminal reports whether nothing moves a stage out of the state.
func (s StageState) Terminal() bool { return int(s) < len(stageStates) && stageStates[s].terminal }

// String is the state's name.
func (s StageState) String() string {
	if int(s) < len(stageStates) {
		return stageStates[s].name
	}
	return fmt.Sprintf("StageState(%d)", uint8(s))
}

// MarshalText is the state's name.
func (s StageState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a state's name.
func (s *StageState) UnmarshalText(b []byte) error {
	for i, info := range stageStates {
		if info.name == string(b) {
			*s = StageState(i)
			return nil
		}
	}
	return fault.Newf(fault.Invalid, "read stage state", string(b), "there is no such state")
}
