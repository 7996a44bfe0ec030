package update

import (
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// edge is one legal move between phases, with what causes it.
type edge struct {
	from, to fleet.Phase
	why      string
}

// edges is every move that Step may make; the picture in docs/states is drawn
// from it.
func edges() []edge {
	var all []edge
	add := func(to fleet.Phase, why string, from ...fleet.Phase) {
		for _, f := range from {
			all = append(all, edge{f, to, why})
		}
	}
	settled := []fleet.Phase{fleet.Idle, fleet.Healthy, fleet.RolledBack, fleet.Quarantined, fleet.Withdrawn}
	attempt := []fleet.Phase{fleet.Offered, fleet.Downloading, fleet.Verified, fleet.Staged}

	add(fleet.Offered, "a release to run", settled...)
	add(fleet.Offered, "another release to run", fleet.Downloading, fleet.Verified, fleet.Staged, fleet.Soaking)
	add(fleet.Offered, "retry", fleet.Failed)
	add(fleet.Downloading, "download allowed", fleet.Offered)
	add(fleet.Verified, "every byte verified", fleet.Downloading)
	add(fleet.Verified, "its files are on disk", fleet.Offered)
	add(fleet.Staged, "self-test passed", fleet.Verified)
	add(fleet.Activating, "window open", fleet.Staged)
	add(fleet.Activating, "return to a release kept on disk", append(settled, append(attempt, fleet.Soaking, fleet.Failed)...)...)
	add(fleet.Soaking, "switched", fleet.Activating)
	add(fleet.Healthy, "soak passed", fleet.Soaking)
	add(fleet.Healthy, "offered a release that was healthy here before", append(settled, append(attempt, fleet.Failed)...)...)
	add(fleet.Failed, "failed", fleet.Downloading, fleet.Verified, fleet.Activating)
	add(fleet.Failed, "the running release failed", append(settled, append(attempt, fleet.Soaking)...)...)
	add(fleet.RolledBack, "serves its previous release", fleet.Activating, fleet.Failed)
	add(fleet.Quarantined, "refused: it failed here", append(settled, append(attempt, fleet.Failed, fleet.Soaking)...)...)
	add(fleet.Withdrawn, "offer withdrawn", append(attempt, fleet.Failed, fleet.Quarantined)...)

	out := all[:0]
	for _, e := range all {
		if e.from != e.to {
			out = append(out, e)
		}
	}
	return out
}

func legal(from, to fleet.Phase) bool {
	for _, e := range edges() {
		if e.from == from && e.to == to {
			return true
		}
	}
	return false
}

// Deadline is how long a phase may take before the effect it waits for is asked
// for again; zero when the phase waits for an event from outside or has a time
// of its own (the soak, a retry).
func Deadline(p fleet.Phase) time.Duration {
	switch p {
	case fleet.Downloading:
		return 24 * time.Hour
	case fleet.Verified:
		return 15 * time.Minute
	case fleet.Activating, fleet.Failed:
		return time.Minute
	}
	return 0
}
