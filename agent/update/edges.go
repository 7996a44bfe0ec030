package update

import (
	"fmt"
	"strings"
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
	add(fleet.Offered, "time to try again", fleet.Failed)
	add(fleet.Downloading, "may begin", fleet.Offered)
	add(fleet.Verified, "every byte verified", fleet.Downloading)
	add(fleet.Verified, "its files are on disk", fleet.Offered)
	add(fleet.Staged, "self-test passed", fleet.Verified)
	add(fleet.Activating, "window open", fleet.Staged)
	add(fleet.Activating, "return to a release kept on disk", append(settled, append(attempt, fleet.Soaking, fleet.Failed)...)...)
	add(fleet.Soaking, "switched", fleet.Activating)
	add(fleet.Healthy, "soak went well", fleet.Soaking)
	add(fleet.Healthy, "exposed to what was healthy here before", append(settled, append(attempt, fleet.Failed)...)...)
	add(fleet.Failed, "failed", fleet.Downloading, fleet.Verified, fleet.Activating)
	add(fleet.Failed, "gives the running release up", append(settled, append(attempt, fleet.Soaking)...)...)
	add(fleet.RolledBack, "serves what it had before", fleet.Activating, fleet.Failed)
	add(fleet.Quarantined, "refused: it failed here", append(settled, append(attempt, fleet.Failed, fleet.Soaking)...)...)
	add(fleet.Withdrawn, "offer taken back", append(attempt, fleet.Failed, fleet.Quarantined)...)

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

// Settled reports whether nothing moves the machine out of the phase but a new
// directive, a revocation or an operator.
func Settled(p fleet.Phase) bool {
	switch p {
	case fleet.Idle, fleet.Healthy, fleet.RolledBack, fleet.Quarantined, fleet.Withdrawn:
		return true
	}
	return false
}

// Picture draws the machine as a Mermaid state diagram. Moves that many phases
// share are drawn once, from a note.
func Picture() string {
	var b strings.Builder
	b.WriteString("stateDiagram-v2\n    [*] --> idle\n")
	why := map[[2]fleet.Phase][]string{}
	var order [][2]fleet.Phase
	for _, e := range edges() {
		k := [2]fleet.Phase{e.from, e.to}
		if why[k] == nil {
			order = append(order, k)
		}
		why[k] = append(why[k], e.why)
	}
	id := func(p fleet.Phase) string { return strings.ReplaceAll(p.String(), "-", "_") }
	for p := fleet.Idle; p <= fleet.Withdrawn; p++ {
		if id(p) != p.String() {
			fmt.Fprintf(&b, "    state %q as %s\n", p, id(p))
		}
	}
	for _, k := range order {
		fmt.Fprintf(&b, "    %s --> %s: %s\n", id(k[0]), id(k[1]), strings.Join(why[k], " / "))
	}
	return b.String()
}

// Deadlines lists every phase with what bounds it, as a Markdown table.
func Deadlines() string {
	var b strings.Builder
	b.WriteString("| phase | left by itself after | settled |\n|---|---|---|\n")
	for p := fleet.Idle; p <= fleet.Withdrawn; p++ {
		after := "-"
		switch d := Deadline(p); {
		case p == fleet.Soaking:
			after = "the soak"
		case p == fleet.Offered:
			after = "the retry's pause, 1 s to 10 min"
		case p == fleet.Staged:
			after = "its window or not-before"
		case p == fleet.Failed:
			after = "the retry's pause, up to 1 h; " + d.String() + " while it goes back"
		case d > 0:
			after = d.String() + ", then its effect is asked for again"
		}
		settled := ""
		if Settled(p) {
			settled = "yes"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", p, after, settled)
	}
	return b.String()
}
