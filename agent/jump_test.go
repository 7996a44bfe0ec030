package agent_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent"
	"github.com/modelfleet/modelfleet/agent/agenttest"
	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// A clock that jumps years ahead makes what is believed stale, and one that jumps
// back to 1970 makes nothing young again: whatever it shows, what is here is served,
// across restarts too, and once it is right updates go on.
func TestClockJumpsAreOutlived(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	var off atomic.Int64 // seconds
	d.o = agent.WithClock(d.o, func() time.Time { return time.Now().Add(time.Duration(off.Load()) * time.Second) })
	v1, v2 := d.fleet.Publish("1.0.0", weights("one")), d.fleet.Publish("2.0.0", weights("two"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	loads := func(when string) {
		t.Helper()
		if l, err := d.cl.Load(t.Context(), agenttest.Model); err != nil || d.content() != "one" {
			t.Fatalf("%s: load gave %+v, %v; current holds %q", when, l, err, d.content())
		}
	}
	const year = 365 * 24 * 3600
	for _, jump := range []struct {
		when      string
		off       int64
		freshness string
	}{
		{"five years ahead", 5 * year, "stale"},
		{"in 1970", -time.Now().Unix() + 3600, "fresh"},
		{"right", 0, "fresh"},
	} {
		off.Store(jump.off)
		for range 2 { // the second time it comes up like this
			l := d.listing(jump.when, func(l local.Listing) bool { return l.Freshness == jump.freshness })
			if len(l.Models) != 1 || l.Models[0].Serving == nil || l.Models[0].Serving.Ref != v1.Ref() {
				t.Fatalf("%s: %+v", jump.when, l)
			}
			loads(jump.when)
			d.kill()
			d.run()
		}
	}
	d.fleet.Direct(&v1, &v2, 20*time.Millisecond)
	d.serves(v2, fleet.Healthy)
}
