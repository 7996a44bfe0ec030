package analysis

import (
	"math"
	"slices"
	"testing"
	"time"
)

// TestWeightsAreFixedAndSumToOne: whatever happens, a stage's looks spend no
// more than its share, and the stages' shares no more than alpha.
func TestWeightsAreFixedAndSumToOne(t *testing.T) {
	t.Parallel()
	exposing, n := due(exposingPlan(), time.Hour, 1000*time.Hour)
	soaking, k := due(soakingPlan(), time.Hour, 1000*time.Hour)
	if math.Abs(exposing+soaking-1) > 1e-12 || n+k != looksPerStage {
		t.Errorf("%d looks with weights of %g and %g", n+k, exposing, soaking)
	}
	inOrder := func(a, b slot) int { return int(math.Copysign(1, a.at-b.at)) }
	if !slices.IsSortedFunc(exposingPlan(), inOrder) || !slices.IsSortedFunc(soakingPlan(), inOrder) {
		t.Error("not in order")
	}
	for _, stages := range []int{1, 2, 4, 64} {
		c, sum := Config{Soaks: make([]time.Duration, stages)}, 0.0
		for i := range stages {
			sum += c.share(i)
			if i > 0 && c.share(i) > c.share(i-1) {
				t.Errorf("stage %d of %d has more than the one before", i, stages)
			}
		}
		if math.Abs(sum-1) > 1e-12 {
			t.Errorf("%d stages share %g", stages, sum)
		}
	}
	if errors := alarmShare + errorShare + wrongShare; math.Abs(errors-1) > 1e-12 {
		t.Errorf("the errors gate's parts sum to %g", errors)
	}
}
