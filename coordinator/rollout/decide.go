package rollout

import (
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Decide derives the next status and what was done from what is known at now.
// Given the same arguments it decides the same; given its own result and the
// same view again it does nothing. It does not change its arguments.
func Decide(spec fleet.Spec, st Status, v View, now time.Time) (Status, []Action) {
	return st, nil
}

// Tally counts the members of a rollout by how far they are.
type Tally struct {
	Population  int `json:"population"`  // members that take part
	Told        int `json:"told"`        // exposed
	InProgress  int `json:"inProgress"`  // told, not settled, holding a place in the budget
	On          int `json:"on"`          // run the release
	Healthy     int `json:"healthy"`     // told, run it, and their soak went well
	Failed      int `json:"failed"`      // the release failed on them
	Unfit       int `json:"unfit"`       // they failed for reasons of their own
	Transport   int `json:"transport"`   // the network failed them; they try again
	Quarantined int `json:"quarantined"` // refuse the release
	Silent      int `json:"silent"`      // told, not heard lately
}

// Count tallies the members by what is observed of them.
func Count(st Status, v View) Tally { return Tally{} }

// Deadline is when Decide must be called again even if nothing is reported;
// ok is false when time alone changes nothing.
func Deadline(spec fleet.Spec, st Status) (at time.Time, ok bool) { return time.Time{}, false }
