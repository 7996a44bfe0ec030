package agent_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent"
	"github.com/modelfleet/modelfleet/agent/agenttest"
	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

func audited(t *testing.T) (*agenttest.Fleet, *device) {
	f := agenttest.NewAudited(t)
	f.Audit.Add(5, "t1")
	return f, addDevice(t, f, f.Serve(), "cam-1")
}

// A coordinator, or whoever has its keys, shows a device one history and then
// another. The device goes on serving, holds, keeps both checkpoints, and hands
// them over; a restart changes nothing.
func TestAnotherHistoryIsHeldAndKeptAsEvidence(t *testing.T) {
	t.Parallel()
	f, d := audited(t)
	r := f.Publish("1.0.0", weights("one"))
	f.Direct(&r, nil, 0)
	d.run()
	d.serves(r, fleet.Healthy)
	seen := d.listing("it knows the log", func(l local.Listing) bool { return l.Audit != nil && l.Audit.Entries == 6 })
	d.row("rows say which log it was shown", func(row telemetry.Row, _ telemetry.Model) bool { return row.Log.Size == 6 })

	fork := f.Audit.Fork()
	f.Audit.Add(1, "t2")
	f.Direct(&r, nil, 0)
	d.listing("it took the next directive", func(l local.Listing) bool { return l.Directive == 2 && l.Audit.Unproven == 0 })
	f.Audit = fork
	f.Audit.Add(1, "t3")
	f.Direct(&r, nil, 0)
	held := func(l local.Listing) bool {
		return l.Freshness == "untrusted" && l.Audit != nil && l.Audit.Split != "" && l.Audit.Mine != l.Audit.Theirs
	}
	l := d.listing("it holds", held)
	if l.Directive != 2 || l.Audit.Checkpoint == seen.Audit.Checkpoint || !strings.Contains(l.Remedy, "key rotate audit") {
		t.Errorf("held as %+v %+v", l, l.Audit)
	}
	for end := time.Now().Add(patience); !slices.Contains(d.coord.Witnessed(), l.Audit.Theirs); <-time.After(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the evidence was not handed over")
		}
	}
	d.kill()
	d.run()
	d.listing("it holds after a restart", held)
	if got := d.content(); got != "one" {
		t.Errorf("it serves %q", got)
	}
}

// A neighbour was shown another log of the same size: gossip brings its signed
// checkpoint, and the device holds.
func TestNeighboursFindASplitView(t *testing.T) {
	t.Parallel()
	f, d := audited(t)
	other := f.Audit.Fork()
	f.Direct(nil, nil, 0)
	other.Add(1, "t9")
	ahead := f.Audit.Fork()
	ahead.Add(3, "t4")
	stranger := f.Audit.Fork()

	infos := make(chan agent.Info, 1)
	d.o.Gossip = "127.0.0.1:0"
	d.info = infos
	d.run()
	d.listing("it knows the log", func(l local.Listing) bool { return l.Audit != nil && l.Audit.Entries == 6 })
	seed := (<-infos).Gossip
	d.coord.Neighbour("same", seed, stranger.Checkpoint())
	d.coord.Neighbour("noise", seed, "not a checkpoint")
	d.coord.Neighbour("ahead", seed, ahead.Checkpoint())
	l := d.listing("a neighbour is ahead", func(l local.Listing) bool { return l.Audit.Unproven == 1 })
	if l.Freshness != "fresh" || l.Audit.Split != "" {
		t.Errorf("before anything contradicts: %+v", l.Audit)
	}
	d.coord.Neighbour("fooled", seed, other.Checkpoint())
	l = d.listing("it holds", func(l local.Listing) bool { return l.Audit.Split != "" })
	if l.Freshness != "untrusted" || l.Audit.Theirs != other.Checkpoint() {
		t.Errorf("held as %+v", l.Audit)
	}
}
