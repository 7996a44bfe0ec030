package agent_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent"
	"github.com/modelfleet/modelfleet/agent/agenttest"
	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// errCut is what a failpoint ends the agent with.
var errCut = errors.New("cut short")

// cutter counts the points that a run passes and cuts it at the n-th.
type cutter struct {
	mu   sync.Mutex
	n    int
	at   int // 0: never
	seen []string
	cut  bool
}

func (c *cutter) point(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	c.seen = append(c.seen, name)
	if c.cut || c.at > 0 && c.n == c.at {
		c.cut = true
		return errCut // and nothing is done any more
	}
	return nil
}

// runCut runs the agent until its failpoint cuts it, or until settled says that
// there is nothing left to cut.
func (d *device) runCut(c *cutter, settled func() bool) (cut bool) {
	d.t.Helper()
	ctx, stop := context.WithCancel(d.t.Context())
	defer stop()
	o := d.o
	o.Token, o.Failpoint = d.coord.Token(nil), c.point
	done := make(chan error, 1)
	go func() { done <- agent.Run(ctx, o) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(patience)
	for {
		select {
		case err := <-done:
			if !errors.Is(err, errCut) {
				d.t.Fatalf("agent ended with %v after %v", err, c.seen)
			}
			return true
		case <-limit:
			d.t.Fatalf("neither cut nor settled; passed %v", c.seen)
		case <-tick.C:
			if settled() {
				stop()
				<-done
				return false
			}
		}
	}
}

// checkDevice looks at the whole disk: what is linked is whole, and what is
// whole is one of the releases.
func (d *device) checkDevice(whole map[string]bool) {
	d.t.Helper()
	models := filepath.Join(d.o.State, "models", string(agenttest.Model))
	for _, link := range []string{"current", "previous"} {
		to, err := os.Readlink(filepath.Join(models, link))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			d.t.Fatal(err)
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(models, to)
		}
		w, err := os.ReadFile(filepath.Join(to, "weights.bin"))
		if err != nil && link == "previous" {
			continue // previous may have been collected once something proven runs
		}
		if err != nil {
			d.t.Fatalf("%s leads to no whole release: %v", link, err)
		}
		card, err := os.ReadFile(filepath.Join(to, "card.md"))
		if err != nil || string(card) != "# "+string(w) || !whole[string(w)] {
			d.t.Fatalf("%s holds %q and %q: %v", link, w, card, err)
		}
	}
	files, err := os.ReadDir(filepath.Join(d.o.State, "store", "releases"))
	if err != nil {
		d.t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasPrefix(f.Name(), ".") {
			continue
		}
		release := filepath.Join(d.o.State, "store", "releases", f.Name())
		if _, err := os.ReadFile(filepath.Join(release, "card.md")); err != nil {
			if _, gone := os.Lstat(release); errors.Is(gone, os.ErrNotExist) {
				continue // a running agent collected it meanwhile, in one step
			}
			d.t.Fatalf("a release is visible and not whole: %v", err)
		}
	}
}

// TestPowerMayFailAtAnyPoint cuts the agent at each point it passes while it
// brings in a release, and again while it takes a bad one back; then starts it
// again: what is served is whole at every moment, and it ends where an agent
// that was never cut ends.
func TestPowerMayFailAtAnyPoint(t *testing.T) {
	t.Parallel()
	for name, second := range map[string]struct {
		content string
		phase   fleet.Phase
		serves  string
	}{
		"good": {"two", fleet.Healthy, "two"},
		"bad":  {"bad", fleet.Quarantined, "one"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			served := map[string]bool{"one": true, second.serves: true}
			for at := 1; ; at++ {
				d := newDevice(t)
				d.o.Probe.Command = `! grep -q bad "$1"/weights.bin`
				v1, v2 := d.fleet.Publish("1.0.0", weights("one")), d.fleet.Publish("2.0.0", weights(second.content))
				d.fleet.Direct(&v1, nil, 0)
				d.run()
				d.serves(v1, fleet.Healthy)
				d.kill()
				d.fleet.Direct(&v1, &v2, 20*time.Millisecond)
				c := &cutter{at: at}
				settled := func() bool {
					m, err := d.cl.Describe(t.Context(), agenttest.Model)
					return err == nil && m.Phase == second.phase && m.Want == v2.Ref()
				}
				cut := d.runCut(c, settled)
				d.checkDevice(served)
				d.run()
				if second.phase == fleet.Healthy {
					d.serves(v2, fleet.Healthy)
				} else {
					d.serves(v1, fleet.Quarantined)
				}
				if got := d.content(); got != second.serves {
					t.Fatalf("cut at %d (%v): current holds %q", at, c.seen, got)
				}
				d.checkDevice(served)
				d.kill()
				if !cut {
					t.Logf("%d points: %v", len(c.seen), c.seen)
					return
				}
			}
		})
	}
}

// TestPowerMayFailWhileAReleaseIsGivenUp cuts the agent at each point of taking back
// what only a rollout had brought: applications are given it whole or not at all, and
// in the end not at all.
func TestPowerMayFailWhileAReleaseIsGivenUp(t *testing.T) {
	t.Parallel()
	for at := 1; ; at++ {
		d := newDevice(t)
		v1 := d.fleet.Publish("1.0.0", weights("one"))
		d.fleet.Direct(nil, &v1, 20*time.Millisecond)
		d.run()
		d.serves(v1, fleet.Healthy)
		d.kill()
		d.fleet.Direct(nil, nil, 0)
		given := func() bool {
			m, err := d.cl.Describe(t.Context(), agenttest.Model)
			return err == nil && m.Phase == fleet.RolledBack && m.Serving == nil
		}
		c := &cutter{at: at}
		cut := d.runCut(c, given)
		d.checkDevice(map[string]bool{"one": true})
		d.run()
		d.until("serving nothing", func(m local.Model) bool { return m.Phase == fleet.RolledBack && m.Serving == nil })
		if _, err := os.Lstat(filepath.Join(d.o.State, "models", string(agenttest.Model), "current")); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("cut at %d (%v): the link is still there: %v", at, c.seen, err)
		}
		d.kill()
		if !cut {
			t.Logf("%d points: %v", len(c.seen), c.seen)
			return
		}
	}
}
