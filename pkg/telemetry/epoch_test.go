package telemetry_test

import (
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

func TestNextEpochNeverComesAgain(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	for _, c := range []struct {
		last, want uint64
		now        time.Time
	}{
		{0, 1_700_000_000, now},                             // nothing is remembered, or no longer
		{1_700_000_000, 1_700_000_001, now},                 // twice in a second
		{1_800_000_000, 1_800_000_001, now},                 // the clock went back
		{7, 8, time.Date(1969, 1, 1, 0, 0, 0, 0, time.UTC)}, // no clock at all
	} {
		if got := telemetry.NextEpoch(c.last, c.now); got != c.want {
			t.Errorf("after %d at %s: %d, want %d", c.last, c.now, got, c.want)
		}
	}
}
