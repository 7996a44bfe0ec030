package agent_test

import (
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/agenttest"
	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// A release that does well on a device and is failed by the gates of its rollout
// is refused by the device from then on, until a rollout says that it may be
// tried again.
func TestWhatGatesFailedIsRefusedUntilARetry(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	v1, v2 := d.fleet.Publish("1.0.0", weights("one")), d.fleet.Publish("2.0.0", weights("two"))
	stable := fleet.Placement{Model: agenttest.Model, Stable: &v1}
	exposed := func(id fleet.RolloutID, retry bool) fleet.Placement {
		p := stable
		p.Rollout = agenttest.Everybody(id, v2, 100*time.Millisecond)
		p.Rollout.Retry = retry
		return p
	}
	failed := stable.WithFailed(fleet.Failing(v2, "r2", "errors: 12 of 20 members"))
	d.fleet.Place(stable)
	d.run()
	d.serves(v1, fleet.Healthy)
	d.fleet.Place(exposed("r2", false))
	d.serves(v2, fleet.Healthy)

	d.fleet.Place(failed)
	m := d.serves(v1, fleet.Quarantined)
	if len(m.Quarantined) != 1 || m.Quarantined[0].Root != v2.Variants[0].Root || m.Quarantined[0].Code != "gate" ||
		!strings.Contains(m.Quarantined[0].Text, "r2") || !strings.Contains(m.Quarantined[0].Text, "12 of 20") {
		t.Fatalf("quarantine says %+v", m.Quarantined)
	}
	if m.Previous != nil {
		t.Errorf("%s is still kept as a way back", m.Previous.Ref)
	}
	d.row("the gates' quarantine", func(_ telemetry.Row, m telemetry.Model) bool {
		for _, s := range m.Series {
			if s.Fatal > 0 {
				t.Errorf("a fatal event was counted: %+v", s)
			}
		}
		return m.Phase == fleet.Quarantined && m.Code == telemetry.CodeGate && m.Target == telemetry.ReleasePrefix(v2.Variants[0].Root) &&
			m.Running == telemetry.ReleasePrefix(v1.Variants[0].Root)
	})
	d.kill() // it is remembered
	d.run()
	d.serves(v1, fleet.Quarantined)

	// Offered again without a word: refused.
	d.fleet.Place(exposed("r3", false))
	d.until("r3 is refused", func(m local.Model) bool { return m.Rollout == "r3" && m.Phase == fleet.Quarantined })
	if got := d.content(); got != "one" {
		t.Fatalf("current holds %q", got)
	}
	d.fleet.Place(exposed("r4", true))
	if m := d.serves(v2, fleet.Healthy); len(m.Quarantined) != 0 {
		t.Fatalf("healthy, and quarantined as %+v", m.Quarantined)
	}
}

// What the gates failed is nothing to a device that never had it, or for which
// it is stable.
func TestWhatGatesFailedElsewhereIsNothingHere(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	v1, v2 := d.fleet.Publish("1.0.0", weights("one")), d.fleet.Publish("2.0.0", weights("two"))
	p := fleet.Placement{Model: agenttest.Model, Stable: &v1}.WithFailed(fleet.Failing(v1, "r1", "errors")).WithFailed(fleet.Failing(v2, "r2", "errors"))
	d.fleet.Place(p)
	d.run()
	if m := d.serves(v1, fleet.Healthy); len(m.Quarantined) != 0 {
		t.Fatalf("quarantined: %+v", m.Quarantined)
	}
}
