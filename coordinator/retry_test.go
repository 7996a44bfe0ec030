package coordinator_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

const allAtOnce = `{"stages": [{"name": "all", "percent": 100, "soak": "1s"}], "stageDeadline": "1h", "burnIn": "100ms", "memberSoak": "100ms"}`

// end keeps everybody reporting until a rollout ends and they have heard so.
func (w *world) end(ds []*device, id fleet.RolloutID, act map[fleet.Digest]behaviour) api.RolloutInfo {
	w.t.Helper()
	var info api.RolloutInfo
	w.eventually("rollout "+string(id)+" ends", func() bool {
		beat(w.t, ds, act)
		info = must(w.admin.Rollout(w.t.Context(), id))(w.t)
		return !info.Ended.IsZero()
	})
	newest := must(w.admin.Fleet(w.t.Context()))(w.t).Directive
	w.eventually("everybody has heard of its end", func() bool {
		beat(w.t, ds, act)
		return !slices.ContainsFunc(ds, func(d *device) bool { return d.state.Sequence < newest })
	})
	return info
}

// A release that gates failed is refused by the members that had it and by the
// desk, across a restart, until an operator says that it is to be tried again.
func TestWhatGatesFailedIsNotTriedAgainUntilAnOperatorSaysSo(t *testing.T) {
	w := newWorld(t)
	w.start()
	ds := w.join(4)
	v1, v2 := w.admit("1.0.0"), w.admit("2.0.0")
	bad, spared := v2.Variants[0].Root, ds[0]
	act := map[fleet.Digest]behaviour{v1.Variants[0].Root: {requests: 3}, bad: {requests: 3, fails: true, spares: spared.facts.ID}}
	w.roll(ds, "1.0.0", act)
	if len(spared.failed) != 0 {
		t.Fatalf("before anything failed the directive says %+v", spared.failed)
	}

	again := api.RolloutRequest{Model: model, Version: "2.0.0", Spec: []byte(allAtOnce)}
	first := must(w.admin.StartRollout(t.Context(), again))(t)
	w.eventually("the device it does well on runs it, before it fails on the others", func() bool {
		beat(t, ds[:1], act)
		return spared.running == bad
	})
	if info := w.end(ds, first.ID, act); info.State != "RolledBack" {
		t.Fatalf("bad release: %s (%s)", info.State, info.Reason)
	}
	if f := spared.failed; len(f) != 1 || f[0].Release != v2.Ref() || f[0].Rollout != first.ID || len(f[0].Roots) != 1 || f[0].Roots[0] != bad || f[0].Reason == "" {
		t.Fatalf("the directive says that these failed: %+v", f)
	}
	if spared.running != v1.Variants[0].Root || spared.refused[bad] != first.ID {
		t.Errorf("where it did well it is not refused: %+v", spared.refused)
	}
	w.saysWhenIssued(v2.Ref() + " failed the gates of rollout " + string(first.ID))

	ok(t, w.stop())
	w.start()
	for _, d := range ds {
		d.client = d.dial()
	}
	for name, r := range map[string]api.RolloutRequest{"a spec": again, "a preset": {Model: model, Version: "2.0.0", Preset: "AllAtOnce"}} {
		_, err := w.admin.StartRollout(t.Context(), r)
		if !fault.Is(err, fault.Conflict) || !strings.Contains(fault.Hint(err), "--retry") || !strings.Contains(err.Error(), string(first.ID)) {
			t.Errorf("started again by %s: %v (hint %q)", name, err, fault.Hint(err))
		}
	}

	act[bad] = behaviour{requests: 3}
	again.Spec, again.Retry = []byte(quick), true
	second := must(w.admin.StartRollout(t.Context(), again))(t)
	if info := w.end(ds, second.ID, act); info.State != "Succeeded" || info.StillOn != 4 {
		t.Fatalf("tried again: %s (%s), on %d of 4", info.State, info.Reason, info.StillOn)
	}
	for _, d := range ds {
		if d.running != bad || len(d.refused) != 0 || len(d.failed) != 0 {
			t.Errorf("%s runs %s, refuses %v, and the directive says %+v", d.facts.ID, d.running.Short(), d.refused, d.failed)
		}
	}
	w.saysWhenIssued(v2.Ref() + ", which failed in rollout " + string(first.ID) + ", is no longer held back")
}

// What an operator takes back did not fail.
func TestAnOperatorsRollbackCondemnsNothing(t *testing.T) {
	w := newWorld(t)
	w.start()
	ds := w.join(2)
	v1 := w.admit("1.0.0")
	act := map[fleet.Digest]behaviour{v1.Variants[0].Root: {requests: 3}}
	slow := api.RolloutRequest{Model: model, Version: "1.0.0", Spec: []byte(`{"stages": [{"name": "all", "percent": 100, "soak": "1h"}]}`)}
	first := must(w.admin.StartRollout(t.Context(), slow))(t)
	w.eventually("everybody runs it", func() bool {
		beat(t, ds, act)
		return must(w.admin.Rollout(t.Context(), first.ID))(t).StillOn == 2
	})
	must(w.admin.Command(t.Context(), first.ID, api.Rollback, api.CommandRequest{Reason: "ghosts"}))(t)
	if info := w.end(ds, first.ID, act); info.State != "RolledBack" || len(ds[0].failed) != 0 || len(ds[0].refused) != 0 {
		t.Errorf("%s (%s): the directive says %+v, refused %v", info.State, info.Reason, ds[0].failed, ds[0].refused)
	}
	must(w.admin.StartRollout(t.Context(), slow))(t)
}

// The first release of all is remembered too, though nothing else is left of it.
func TestAFirstReleaseThatFailsIsRemembered(t *testing.T) {
	w := newWorld(t)
	w.start()
	ds := w.join(3)
	v1 := w.admit("1.0.0")
	act := map[fleet.Digest]behaviour{v1.Variants[0].Root: {fails: true}}
	r := api.RolloutRequest{Model: model, Version: "1.0.0", Spec: []byte(allAtOnce)}
	first := must(w.admin.StartRollout(t.Context(), r))(t)
	if info := w.end(ds, first.ID, act); info.State != "RolledBack" || len(ds[0].failed) != 1 {
		t.Fatalf("%s (%s): the directive says %+v", info.State, info.Reason, ds[0].failed)
	}
	if _, err := w.admin.StartRollout(t.Context(), r); !fault.Is(err, fault.Conflict) {
		t.Errorf("started again: %v", err)
	}
}

// saysWhenIssued looks for a text in what the audit log says of directives.
func (w *world) saysWhenIssued(want string) {
	w.t.Helper()
	var said []string
	for _, e := range must(w.admin.Audit(w.t.Context(), 0, 0))(w.t) {
		if e.Action == "directive.issued" {
			said = append(said, e.Reason)
		}
	}
	if !strings.Contains(strings.Join(said, "\n"), want) {
		w.t.Errorf("no directive was issued because %q:\n%s", want, strings.Join(said, "\n"))
	}
}
