package lambdamodel_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/functions/lambdasim"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// An environment in which a release does well refuses it once the gates failed
// it, until an operator says that it is to be tried again.
func TestWhatGatesFailedIsRefusedUntilARetry(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	fns := []*lambdasim.Function{f.function(), f.function(), f.function()}
	for _, fn := range fns {
		f.invoke(fn, "a")
	}
	all := func(event string) answer { // the third sees nothing risky
		f.invoke(fns[0], event)
		f.invoke(fns[1], event)
		a, _ := f.invoke(fns[2], "a")
		return a
	}
	state := func(id fleet.RolloutID) string {
		r, err := f.client.Rollout(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return r.State
	}
	until := func(event, what string, want func(answer) bool) {
		t.Helper()
		for deadline := time.Now().Add(patience); !want(all(event)); {
			if time.Now().After(deadline) {
				t.Fatalf("not in time: %s", what)
			}
		}
	}
	f.publish("1.0.0", "one")
	first := f.rollout("1.0.0", 50*time.Millisecond, fleet.Health{})
	until("a", "1.0.0 is stable", func(answer) bool { return state(first) == "Succeeded" })

	f.publish("2.0.0", "fails")
	spec, err := json.Marshal(fleet.Spec{
		Stages:     []fleet.Stage{{Name: "all", Percent: 100, Soak: fleet.Duration(time.Hour)}},
		MemberSoak: fleet.Duration(time.Hour), Health: fleet.Health{FailStreak: 2}, BurnIn: fleet.Duration(time.Millisecond),
	})
	if err != nil {
		t.Fatal(err)
	}
	start := api.RolloutRequest{Model: "detector", Version: "2.0.0", Spec: spec}
	second, err := f.client.StartRollout(t.Context(), start)
	if err != nil {
		t.Fatal(err)
	}
	until("a", "2.0.0 is served", func(a answer) bool { return a.Release == "detector@2.0.0" })
	until("risky", "the gates fail it", func(a answer) bool {
		return state(second.ID) == "RolledBack" && a.Release == "detector@1.0.0" && a.Gated
	})

	if _, err := f.client.StartRollout(t.Context(), start); !fault.Is(err, fault.Conflict) {
		t.Fatalf("started again: %v", err)
	}
	start.Retry = true
	if _, err := f.client.StartRollout(t.Context(), start); err != nil {
		t.Fatal(err)
	}
	until("a", "2.0.0 is served again", func(a answer) bool { return a.Release == "detector@2.0.0" && !a.Gated })
}
