package rollout

import (
	"fmt"
	"strings"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// ActionKind says what an Action did.
type ActionKind string

// The kinds of action. Each is already part of the returned Status; carrying
// one out means publishing the directive and writing the audit row.
const (
	EnterState ActionKind = "state"    // the rollout went From one State To another
	EnterStage ActionKind = "stage"    // a stage went From one StageState To another
	Expose     ActionKind = "expose"   // the bound was raised
	Withdraw   ActionKind = "withdraw" // members that had not switched were taken back
	Return     ActionKind = "return"   // members that had switched were told to go back
	Accept     ActionKind = "accept"   // a command took effect
	Refuse     ActionKind = "refuse"   // a command was refused
	Hold       ActionKind = "hold"     // a deadline passed and the policy is to wait
)

// Action is one thing Decide did, with its reason.
type Action struct {
	Kind    ActionKind `json:"kind"`
	Stage   int        `json:"stage"`          // index of the stage it concerns
	From    string     `json:"from,omitempty"` // state names, for EnterState and EnterStage
	To      string     `json:"to,omitempty"`
	Members int        `json:"members,omitempty"` // how many members it concerns
	Command *Command   `json:"command,omitempty"` // for Accept and Refuse
	Reason  Reason     `json:"reason"`
}

// Reason says why, for machines (Code, Numbers) and for people (Text).
type Reason struct {
	Code    string   `json:"code"` // stable, lower case with dashes: "gate-failed"
	Text    string   `json:"text"` // one sentence
	Numbers []Number `json:"numbers,omitempty"`
}

// GateFailed is the code of the reason for which a failed gate stops a rollout.
const GateFailed = "gate-failed"

// Delisted is the code of the reason for which a rollout ends whose release was
// taken back.
const Delisted = "delisted"

// Stranded is the code of the reason for which a rollback ends with members still
// on the release: what they would go back to is not listed by its publisher.
const Stranded = "stranded"

// Number is one figure of a Reason.
type Number struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
}

// String is the text with its numbers: "all told members switched (told 5, healthy 4)".
func (r Reason) String() string {
	if len(r.Numbers) == 0 {
		return r.Text
	}
	parts := make([]string, len(r.Numbers))
	for i, n := range r.Numbers {
		parts[i] = fmt.Sprintf("%s %g", n.Name, n.Value)
	}
	return r.Text + " (" + strings.Join(parts, ", ") + ")"
}

func because(code, text string, numbers ...Number) Reason {
	return Reason{Code: code, Text: text, Numbers: numbers}
}

func num[T int | float64 | fleet.Percent](name string, v T) Number {
	return Number{Name: name, Value: float64(v)}
}
