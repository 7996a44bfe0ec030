package agent_test

import (
	"io/fs"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent"
	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// A disk that takes nothing more, met in service or at a start, stops no release
// that is there; and once there is room the device goes on by itself.
func TestAFullDiskStopsNothing(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	var full atomic.Bool
	var refused atomic.Int64
	d.o = agent.WithDisk(d.o, func(path string, data []byte, perm fs.FileMode) error {
		if full.Load() {
			refused.Add(1)
			return fault.Newf(fault.Exhausted, "write file", path, "no space left on device")
		}
		return cas.WriteFile(path, data, perm)
	})
	v1, v2 := d.fleet.Publish("1.0.0", weights("one")), d.fleet.Publish("2.0.0", weights("two"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	d.fleet.Direct(&v1, &v2, 5*time.Second)
	d.serves(v2, fleet.Soaking)
	full.Store(true) // with a step due that cannot be written
	d.kill()
	refused.Store(0)
	d.run()
	l := d.serves(v2, fleet.Soaking)
	if got := d.content(); got != "two" || l.Serving == nil {
		t.Fatalf("after a start on a full disk: %q, %+v", got, l)
	}
	if _, err := d.cl.Load(t.Context(), l.Name); err != nil {
		t.Fatalf("an application is not served: %v", err)
	}
	begun := time.Now()
	<-time.After(6 * time.Second) // the soak is over
	if n, secs := refused.Load(), time.Since(begun).Seconds(); float64(n) > 20+5*secs {
		t.Errorf("a full disk was written to %d times in %.0f s", n, secs)
	}
	full.Store(false)
	d.serves(v2, fleet.Healthy)
}

// A pack that there was no room for is believed once there is, though nobody
// brings it again: the coordinator has nothing newer.
func TestAPackThatAFullDiskRefusedIsTriedAgain(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	var full atomic.Bool
	d.o = agent.WithDisk(d.o, func(path string, data []byte, perm fs.FileMode) error {
		if full.Load() {
			return fault.Newf(fault.Exhausted, "write file", path, "no space left on device")
		}
		return cas.WriteFile(path, data, perm)
	})
	v1, v2 := d.fleet.Publish("1.0.0", weights("one")), d.fleet.Publish("2.0.0", weights("two"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	full.Store(true)
	d.fleet.Direct(&v2, nil, 0)
	l := d.listing("no room", func(l local.Listing) bool { return strings.Contains(l.Refused, "no space left") })
	if l.Directive != 1 || l.Freshness != "fresh" || l.Models[0].Phase != fleet.Healthy {
		t.Errorf("on a full disk: %+v", l)
	}
	full.Store(false)
	d.serves(v2, fleet.Healthy)
	d.listing("the second directive", func(l local.Listing) bool { return l.Directive == 2 && l.Refused == "" })
}
