package rollout

import "github.com/modelfleet/modelfleet/pkg/fleet"

// Plan is how many members each stage would expose if the rollout began with this
// roster: the targets that its stages will have while they soak.
func Plan(spec fleet.Spec, r *Roster) []int {
	targets := make([]int, len(spec.Stages))
	for s := range spec.Stages {
		m := machine{spec: &spec, st: Status{Stage: s}}
		c := census{population: r.Len()}
		for i := range r.ids {
			c.matching += int(r.stages[i] >> s & 1)
		}
		targets[s] = m.targetOf(c, false)
	}
	return targets
}
