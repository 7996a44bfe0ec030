package rollout

import (
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Input is everything one decision was made from, as JSON. [View].Observed is
// parallel to the roster that Members make, so it may be stored as it was.
type Input struct {
	Spec    fleet.Spec    `json:"spec"`
	Status  Status        `json:"status"`
	Members []fleet.Facts `json:"members"`
	View    View          `json:"view"`
	Now     time.Time     `json:"now"`
}

// Replay makes the decision again.
func (in Input) Replay() (Status, []Action) {
	in.View.Roster = NewRoster(in.Status.ID, in.Status.Release, in.Spec, in.Members)
	return Decide(in.Spec, in.Status, in.View, in.Now)
}
