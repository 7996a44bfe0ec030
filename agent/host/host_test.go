package host_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/agent/host"
	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/agent/probe"
	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

const model = fleet.ModelName("detector")

// world is a host of one model whose release v2 was just switched to.
type world struct {
	*host.Host
	rec  *telemetry.Recorder
	told []update.Event
	v2   update.State
}

func newWorld(t *testing.T) *world {
	t.Helper()
	rec, err := telemetry.NewRecorder(telemetry.RecorderOptions{Epoch: 1, Agent: "1.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Host: host.New(rec, slog.New(slog.DiscardHandler)), rec: rec}
	w.Tell(func(m fleet.ModelName, ev update.Event) {
		if m != model {
			t.Errorf("told of %s", m)
		}
		w.told = append(w.told, ev)
	})
	w.v2 = update.State{Model: model, Running: update.Held{Offer: update.Offer{Root: fleet.DigestOf([]byte("v2")), Bundle: fleet.DigestOf([]byte("bundle"))}}}
	if err := rec.SetModel(model, time.Now(), telemetry.ModelState{Running: w.v2.Running.Root}); err != nil {
		t.Fatal(err)
	}
	w.Moved(update.State{Model: model}, w.v2, probe.Limits{Health: fleet.Health{FailStreak: 3, Restarts: 2}})
	return w
}

func failures(n int) []local.Observation {
	out := make([]local.Observation, n)
	for i := range out {
		out[i].Error = true
	}
	return out
}

func (w *world) fatal() uint64 {
	n := uint64(0)
	for _, m := range w.rec.Row(time.Now()).Models {
		for _, s := range m.Series {
			n += s.Fatal
		}
	}
	return n
}

func TestAReleaseIsFoundSickOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.v2.Running.Root
	w.Observe(model, root, failures(2))
	w.Observe(model, fleet.DigestOf([]byte("v1")), failures(9)) // of one that is not watched
	if len(w.told) > 0 {
		t.Fatalf("told too early: %+v", w.told)
	}
	w.Observe(model, root, failures(1))
	w.Observe(model, root, failures(5))
	if len(w.told) != 1 || w.told[0].Kind != update.Sick || w.told[0].Root != root || w.told[0].Failure.Class != fleet.ReleaseFailure {
		t.Errorf("told %+v", w.told)
	}
}

func TestAProvenReleaseIsNotWatched(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := w.v2
	good.Running.Good = true
	w.Moved(w.v2, good, probe.Limits{})
	w.Observe(model, good.Running.Root, failures(99))
	if len(w.told) > 0 {
		t.Errorf("told %+v", w.told)
	}
}

func TestApplicationsThatAreLostCount(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	loss := local.Loss{Model: model, Root: w.v2.Running.Root, App: "camera", Why: "its lease ran out"}
	w.Lost(loss)
	w.Lost(loss)
	if len(w.told) != 1 || w.told[0].Failure.Code != "crash-loop" {
		t.Errorf("told %+v", w.told)
	}
	if n := w.fatal(); n != 2 {
		t.Errorf("%d fatal events, want 2", n)
	}
}

// What a crash loop comes to was counted crash by crash; what a publisher or a
// gate refused did not fail here.
func TestAQuarantineIsFatalWhenTheReleaseFailedHere(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]uint64{"self-test": 1, "load": 1, "crash-loop": 0, "revoked": 0, update.CodeGate: 0} {
		w := newWorld(t)
		next := w.v2
		next.Quarantined = []update.Quarantine{{Root: w.v2.Running.Root, Code: code}}
		w.Moved(w.v2, next, probe.Limits{})
		w.Moved(next, next, probe.Limits{})
		if n := w.fatal(); n != want {
			t.Errorf("%s: %d fatal events, want %d", code, n, want)
		}
	}
}

func TestAListingHasTheNewestCounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.v2.Running.Root
	w.Publish(local.Listing{Models: []local.Model{{Name: model, Serving: &local.Release{Root: root}}}})
	w.Observe(model, root, []local.Observation{{Right: new(true)}, {Right: new(false)}, {Error: true}})
	got := w.Listing()
	if d := cmp.Diff(local.Counts{Requests: 3, Errors: 1, Right: 1, Wrong: 1}, got.Models[0].Counts); d != "" {
		t.Error(d)
	}
	w.Observe(model, root, make([]local.Observation, 1))
	if got.Models[0].Counts.Requests != 3 || w.Listing().Models[0].Counts.Requests != 4 {
		t.Error("a listing changed after it was given, or does not follow")
	}
}

func TestAQuarantineIsLiftedByAnEvent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Lift(model, w.v2.Running.Root)
	if d := cmp.Diff([]update.Event{{Kind: update.Lifted, Root: w.v2.Running.Root}}, w.told); d != "" {
		t.Error(d)
	}
}
