package agent_test

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent"
	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// diary is a log that can be read while it is written.
type diary struct {
	mu   sync.Mutex
	text strings.Builder
}

func (d *diary) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.text.Write(p)
}

func (d *diary) count(what string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Count(d.text.String(), what)
}

// A pack that finds a bug in what judges it, from the coordinator or on the disk
// at a start, is refused like others.
func TestAPackThatMakesTheVerifierPanicIsRefused(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	log := &diary{}
	d.o.Logger = slog.New(slog.NewTextHandler(io.MultiWriter(log, testWriter{t}), nil))
	poison := []byte("poison")
	var all bool
	d.o = agent.WithTrap(d.o, func(pack []byte) {
		if all || bytes.Equal(pack, poison) {
			panic("index out of range")
		}
	})
	v1 := d.fleet.Publish("1.0.0", weights("one"))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	d.fleet.Offer(poison)
	l := d.listing("a refusal", func(l local.Listing) bool { return strings.Contains(l.Refused, "panic: index out of range") })
	if l.Directive != 1 || l.Freshness != "fresh" || l.Models[0].Phase != fleet.Healthy {
		t.Errorf("after a panic: %+v", l)
	}
	<-time.After(300 * time.Millisecond)
	if n := log.count("panic survived"); n != 1 || log.count("judge.go") == 0 {
		t.Errorf("the panic was logged %d times", n)
	}
	v2 := d.fleet.Publish("2.0.0", weights("two"))
	d.fleet.Direct(&v2, nil, 0)
	d.serves(v2, fleet.Healthy)
	d.kill()
	all = true
	d.run()
	if l, err := d.cl.Load(t.Context(), v2.Model); err != nil || l.Ref != v2.Ref() {
		t.Errorf("after a start: %+v, %v", l, err)
	}
}
