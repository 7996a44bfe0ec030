package agent

import (
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/trust"
)

func TestAWrongClockDoesNotKeepAPackFresh(t *testing.T) {
	t.Parallel()
	issued := time.Date(2026, 3, 4, 5, 0, 0, 0, time.UTC)
	expires := issued.Add(24 * time.Hour)
	dead := time.Unix(3600, 0) // an hour after a boot without a battery
	behind := &trust.Trusted{At: issued, Behind: issued.Sub(dead), Expires: expires}
	right := &trust.Trusted{At: issued.Add(time.Hour), Expires: expires}
	stale := &trust.Trusted{At: issued, Expires: expires, Freshness: trust.Stale}
	for _, c := range []struct {
		what string
		t    *trust.Trusted
		now  time.Time
		want bool
	}{
		{"nothing was believed", nil, issued, false},
		{"stale when it was judged", stale, issued, false},
		{"in time", right, expires.Add(-time.Second), true},
		{"expired", right, expires, false},
		{"a dead clock, at once", behind, dead, true},
		{"a dead clock, 23 h on", behind, dead.Add(23 * time.Hour), true},
		{"a dead clock, 25 h on", behind, dead.Add(25 * time.Hour), false},
		{"a dead clock put right in time", behind, issued.Add(2 * time.Hour), true},
		{"a dead clock put right too late", behind, expires.Add(time.Hour), false},
		{"a clock set back a little", right, issued.Add(30 * time.Minute), true},
	} {
		if got := fresh(c.t, c.now); got != c.want {
			t.Errorf("%s: fresh is %v", c.what, got)
		}
	}
}
