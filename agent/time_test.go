package agent_test

import (
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent"
	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// A device without a clock learns from the coordinator's answers that what it
// believes has expired, holds and goes on serving; the next pack ends that.
func TestTheCoordinatorTellsADeadClockTheTime(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.o = agent.WithClock(d.o, func() time.Time { return time.Unix(3600, 0) })
	v1 := d.fleet.Publish("1.0.0", weights("one"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	d.coord.Ahead(25 * time.Hour)
	d.listing("what expired", func(l local.Listing) bool { return l.Freshness == "stale" })
	if got := d.content(); got != "one" {
		t.Fatalf("applications read %q", got)
	}
	d.coord.Ahead(0)
	<-time.After(1100 * time.Millisecond) // expiry counts in seconds
	d.fleet.Direct(&v1, nil, 0)
	d.listing("the next pack", func(l local.Listing) bool { return l.Freshness == "fresh" && l.Directive == 2 })
}
