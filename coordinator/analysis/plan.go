package analysis

import "time"

// slot is one look of a plan: when, in parts of the stage's soak, and how much
// of the stage's weight it has.
type slot struct{ at, weight float64 }

// exposingPlan are a stage's looks while it still exposes, from its first
// exposed member on; soakingPlan those from the beginning of its soak. They are
// fixed, and their weights sum to one, since weights that follow the data would
// spend alpha twice: a slot whose time does not come is lost. Slots that fall
// between two reports, or before there is anything to compare, are made up for
// by one look with their weights together. The plan goes on beyond the soak, for
// a stage that stays inconclusive.
func exposingPlan() []slot {
	return []slot{{1. / 16, 0.02}, {1. / 4, 0.02}, {1, 0.02}, {4, 0.02}, {16, 0.02}}
}

func soakingPlan() []slot {
	return []slot{
		{1. / 16, 0.06}, {1. / 8, 0.06}, {1. / 4, 0.10}, {1. / 2, 0.13}, {3. / 4, 0.13}, {1, 0.14},
		{3. / 2, 0.08}, {2, 0.08}, {3, 0.04}, {4, 0.04}, {8, 0.02}, {16, 0.02},
	}
}

// looksPerStage is how many looks a stage has at most.
const looksPerStage = 17

// due is the weight of the slots of a plan whose time has come, and their
// number.
func due(plan []slot, soak, elapsed time.Duration) (weight float64, n int) {
	for _, s := range plan {
		if elapsed >= time.Duration(s.at*float64(soak)) {
			weight += s.weight
			n++
		}
	}
	return weight, n
}
