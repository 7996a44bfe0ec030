package agenttest

import (
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Everybody is a rollout of r to which everybody is exposed, soaking for soak.
func Everybody(id fleet.RolloutID, r fleet.Release, soak time.Duration) *fleet.Exposure {
	return &fleet.Exposure{
		ID: id, Release: r, Rules: []fleet.Rule{{Bound: fleet.Everyone}},
		AsOf: time.Now().Add(time.Hour), Soak: fleet.Duration(soak), Health: fleet.Health{FailStreak: 5, Restarts: 2},
	}
}

// Place signs the next directive: it names these placements.
func (f *Fleet) Place(ps ...fleet.Placement) {
	f.t.Helper()
	f.sequence++
	now := time.Now()
	pub, err := f.repo.Sign(fleet.Directive{Group: group, Sequence: f.sequence, Issued: now, Models: ps}, now)
	if err != nil {
		f.t.Fatal(err)
	}
	f.write(pub.Writes)
	f.Offer(pub.Packs[group])
}
