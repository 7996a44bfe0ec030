package update

import (
	"fmt"
	"strings"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

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
