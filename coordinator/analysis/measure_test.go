package analysis

import (
	"math"
	"testing"
)

// TestExceedances are published figures for log-normal latency.
func TestExceedances(t *testing.T) {
	t.Parallel()
	near := func(what string, got, want, within float64) {
		if math.Abs(got-want) > within*want {
			t.Errorf("%s is %g, want %g", what, got, want)
		}
	}
	near("p95 +10%", exceedances(0.95, 0.10), 1.46, 0.02)
	near("p99 +10%", exceedances(0.99, 0.10), 1.64, 0.02)
	near("p95 +20%", exceedances(0.95, 0.20), 2.0, 0.03)
}
