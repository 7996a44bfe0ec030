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

// Two years in a drawer: root, policy, everything has expired. The agent starts,
// serves what it has, and says since when and what to do.
func TestAnAgentStartsWithEverythingExpired(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	v1 := d.fleet.Publish("1.0.0", weights("one"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	d.kill()
	d.coord.Down(true)
	d.o = agent.WithClock(d.o, func() time.Time { return time.Now().Add(2 * 365 * 24 * time.Hour) })
	d.run()
	l := d.listing("a stale agent", func(l local.Listing) bool { return l.Freshness == "stale" })
	if got := d.content(); got != "one" || l.Remedy == "" || l.FreshnessSince.IsZero() || l.Models[0].Phase != fleet.Healthy {
		t.Errorf("applications read %q; %+v", got, l)
	}
}
