package update_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// device is a disk and the effects in flight: the world around Step.
type device struct {
	st      update.State
	now     time.Time
	boot    int
	files   map[fleet.Digest]bool // bundles whose files are on disk, verified
	tested  map[fleet.Digest]bool // bundles whose self-test passed here
	current fleet.Digest          // what applications are given
	flight  []update.Effect       // not yet answered
}

func newDevice() *device {
	return &device{
		st:    update.State{Model: "m"},
		now:   time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		files: map[fleet.Digest]bool{}, tested: map[fleet.Digest]bool{},
	}
}

func offer(n int) update.Offer {
	if n == 0 {
		return update.Offer{}
	}
	return update.Offer{
		Ref: fmt.Sprintf("m@%d", n), Root: fleet.DigestOf([]byte{byte(n)}), Bundle: fleet.DigestOf([]byte{byte(n), 'b'}), Size: 1, Counter: uint64(n),
	}
}

// step is what the agent's loop does: state first, then effects.
func (d *device) step(ev update.Event) []update.Effect {
	ev.At = d.now
	st, effects := update.Step(d.st, ev)
	d.st = st
	for _, e := range effects {
		switch e.Kind {
		case update.Keep:
			for b := range d.files {
				// What applications are given stays, whatever the state says.
				if !slices.Contains(e.Bundles, b) && b != d.current {
					delete(d.files, b)
				}
			}
		case update.Cancel:
			d.flight = slices.DeleteFunc(d.flight, func(f update.Effect) bool { return f.Key == e.Key })
		default:
			if !slices.ContainsFunc(d.flight, func(f update.Effect) bool { return f.Key == e.Key }) {
				d.flight = append(d.flight, e)
			}
		}
	}
	return effects
}

// carry does the effect as it would go well, and returns the answer.
func (d *device) carry(e update.Effect) update.Event {
	switch e.Kind {
	case update.Fetch:
		d.files[e.Offer.Bundle] = true
		return update.Event{Kind: update.Fetched, Key: e.Key}
	case update.Probe:
		d.tested[e.Offer.Bundle] = true
		return update.Event{Kind: update.ProbePassed, Key: e.Key}
	case update.Mend:
		return update.Event{Kind: update.Mended, Key: e.Key, Bundle: e.Offer.Bundle}
	}
	if !e.Offer.IsZero() && !d.files[e.Offer.Bundle] {
		return update.Event{Kind: update.SwitchFailed, Key: e.Key, Failure: update.Failure{Class: fleet.MemberFailure, Code: update.CodeGone, Text: "gone"}}
	}
	d.current = e.Offer.Bundle
	return update.Event{Kind: update.Switched, Key: e.Key}
}

// fail is the answer to the effect when it goes wrong.
func fail(e update.Effect, class fleet.FailureClass) update.Event {
	kind := map[update.EffectKind]update.EventKind{
		update.Fetch: update.FetchFailed, update.Probe: update.ProbeFailed, update.Switch: update.SwitchFailed,
	}[e.Kind]
	return update.Event{Kind: kind, Key: e.Key, Jitter: .5, Failure: update.Failure{Class: class, Code: "test", Text: "it failed"}}
}

func (d *device) restart(newBoot bool) {
	if newBoot {
		d.boot++
	}
	d.flight = nil
	d.step(update.Event{Kind: update.Restarted, Current: d.current, Seen: true, Boot: fmt.Sprint(d.boot)})
}

func (d *device) tick(by time.Duration) {
	d.now = d.now.Add(by)
	d.step(update.Event{Kind: update.Tick, Current: d.current, Seen: true})
}

// settle lets everything go well until nothing moves any more.
func (d *device) settle() {
	for range 200 {
		if len(d.flight) > 0 {
			e := d.flight[0]
			d.flight = d.flight[1:]
			d.step(d.carry(e))
			continue
		}
		next := d.st.Next()
		if next.IsZero() {
			return
		}
		d.tick(max(next.Sub(d.now), 0))
	}
}

var classes = []fleet.FailureClass{fleet.TransportFailure, fleet.MemberFailure, fleet.ReleaseFailure}

var rollouts = []fleet.RolloutID{"", "r1", "r2"}

// gateFailed is what the gates failed, mostly nothing.
func gateFailed(t *rapid.T) []update.GateFailed {
	var out []update.GateFailed
	for range max(0, rapid.IntRange(-3, 2).Draw(t, "failed")) {
		out = append(out, update.GateFailed{
			Root: offer(rapid.IntRange(1, 5).Draw(t, "root")).Root, Rollout: rapid.SampledFrom(rollouts[1:]).Draw(t, "by"), Text: "errors",
		})
	}
	return out
}

// act is one random thing that happens to a device.
func act(t *rapid.T, d *device) {
	arms := []fleet.Arm{fleet.NoArm, fleet.Exposed, fleet.Control}
	switch rapid.SampledFrom([]string{"assign", "answer", "answer", "answer", "fail", "stale", "tick", "tick", "restart", "sick", "revoke", "damage"}).Draw(t, "act") {
	case "assign":
		stable := offer(rapid.IntRange(0, 2).Draw(t, "stable"))
		d.step(update.Event{Kind: update.Assigned, Offer: offer(rapid.IntRange(0, 4).Draw(t, "offer")), Stable: stable, Failed: gateFailed(t), Terms: update.Terms{
			Arm: rapid.SampledFrom(arms).Draw(t, "arm"), Soak: time.Minute, Health: fleet.Health{Restarts: 2}, Reason: "told",
			Rollout: rapid.SampledFrom(rollouts).Draw(t, "rollout"), Lifts: rapid.IntRange(0, 3).Draw(t, "lifts") == 0,
		}})
	case "answer", "fail":
		if len(d.flight) == 0 {
			return
		}
		i := rapid.IntRange(0, len(d.flight)-1).Draw(t, "effect")
		e := d.flight[i]
		d.flight = slices.Delete(d.flight, i, i+1)
		if rapid.IntRange(0, 3).Draw(t, "fails") == 0 {
			d.step(fail(e, rapid.SampledFrom(classes).Draw(t, "class")))
			return
		}
		d.step(d.carry(e))
	case "stale":
		kind := rapid.SampledFrom([]update.EventKind{update.Fetched, update.ProbePassed, update.ProbeFailed, update.Switched, update.SwitchFailed}).Draw(t, "kind")
		d.step(update.Event{Kind: kind, Key: "of an attempt long gone"})
	case "tick":
		d.tick(rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute, time.Hour}).Draw(t, "by"))
	case "restart":
		d.restart(rapid.Bool().Draw(t, "reboot"))
	case "sick":
		d.step(update.Event{Kind: update.Sick, Root: d.st.Running.Root, Failure: update.Failure{Code: "crash-loop", Text: "crashed"}})
	case "damage":
		d.step(update.Event{Kind: update.Damaged, Bundle: offer(rapid.IntRange(1, 4).Draw(t, "damaged")).Bundle})
	case "revoke":
		if rapid.IntRange(0, 9).Draw(t, "really") == 0 {
			d.step(update.Event{Kind: update.Revoked, Bundle: offer(rapid.IntRange(1, 4).Draw(t, "bundle")).Bundle, Keep: rapid.Bool().Draw(t, "keep")})
		}
	}
}

// law drives a random device through random days and checks after each act.
func law(t *testing.T, check func(t *rapid.T, before update.State, d *device)) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := newDevice()
		d.restart(false)
		for range rapid.IntRange(1, 60).Draw(t, "acts") {
			before := d.st
			act(t, d)
			check(t, before, d)
		}
	})
}

func TestNeverServesUnverified(t *testing.T) {
	law(t, func(t *rapid.T, _ update.State, d *device) {
		if !d.current.IsZero() && (!d.files[d.current] || !d.tested[d.current]) {
			t.Fatalf("serves %s: files %v, self-test %v", d.current.Short(), d.files[d.current], d.tested[d.current])
		}
		for _, e := range d.flight {
			if e.Kind == update.Switch && e.Key != "repair" && !e.Offer.IsZero() && !d.tested[e.Offer.Bundle] {
				t.Fatalf("would switch to %s, never tested here", e.Offer.Ref)
			}
		}
	})
}

func TestQuarantinedIsNeverRetried(t *testing.T) {
	law(t, func(t *rapid.T, before update.State, d *device) {
		for _, q := range before.Quarantined {
			if !d.st.IsQuarantined(q.Root) {
				if terms := d.st.Terms; terms.Lifts && d.st.Want.Root == q.Root && terms.Rollout != q.Rollout && q.Code != "revoked" {
					continue // by another rollout, for which an operator said so
				}
				if q.Code == update.CodeRevoked && (d.st.Want.Root == q.Root || d.st.Stable.Root == q.Root) {
					continue // what is offered, its publisher lists again
				}
				t.Fatalf("%s was forgotten without an operator", q.Ref)
			}
			if d.st.Attempting() && d.st.Target.Root == q.Root {
				t.Fatalf("%s is tried again, phase %s", q.Ref, d.st.Phase)
			}
		}
	})
}

// Whatever the disk damages, a model goes on where it stands; what is damaged and
// kept is asked for again, until it is right.
func TestDamageMovesNothing(t *testing.T) {
	law(t, func(t *rapid.T, _ update.State, d *device) {
		before := d.st
		bundle := offer(rapid.IntRange(1, 4).Draw(t, "rots")).Bundle
		st, effects := update.Step(before, stamp(d, update.Event{Kind: update.Damaged, Bundle: bundle}))
		if st.Phase != before.Phase || st.Running.Offer != before.Running.Offer || st.Target != before.Target || len(st.Quarantined) != len(before.Quarantined) {
			t.Fatalf("it moved: %s", cmp.Diff(before, st))
		}
		mends := slices.ContainsFunc(effects, func(e update.Effect) bool { return e.Kind == update.Mend && e.Offer.Bundle == bundle })
		if slices.Contains(st.Whole(), bundle) != mends {
			t.Fatalf("kept %v, mended %v", slices.Contains(st.Whole(), bundle), mends)
		}
		if st.Running.Bundle != bundle {
			return
		}
		again, effects := update.Step(st, stamp(d, update.Event{Kind: update.Restarted, Current: d.current, Seen: true}))
		if again.Running.Bundle == bundle && !slices.ContainsFunc(effects, func(e update.Effect) bool { return e.Kind == update.Mend }) {
			t.Fatalf("a restart forgot the damage: %v", effects)
		}
		st, _ = update.Step(st, stamp(d, update.Event{Kind: update.Mended, Bundle: bundle}))
		if st.Running.Damaged || !st.Running.Mended.Equal(d.now) {
			t.Fatalf("not told that it was mended: %+v", st.Running)
		}
	})
}

// What the gates failed is not served any more once a device has come to rest
// with something else to run; what it is still told to run is left alone.
func TestWhatGatesFailedIsGivenUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := newDevice()
		d.restart(false)
		for range rapid.IntRange(1, 40).Draw(t, "acts") {
			act(t, d)
		}
		bad := offer(rapid.IntRange(1, 4).Draw(t, "bad"))
		want, stable := offer(rapid.IntRange(0, 4).Draw(t, "want")), offer(rapid.IntRange(0, 2).Draw(t, "stable"))
		had := slices.Contains([]fleet.Digest{d.st.Running.Root, d.st.Target.Root, d.st.Fallback.Root}, bad.Root)
		told := want.Root == bad.Root || stable.Root == bad.Root
		before := d.st
		d.step(update.Event{
			Kind: update.Assigned, Offer: want, Stable: stable, Terms: update.Terms{Soak: time.Minute, Reason: "told"},
			Failed: []update.GateFailed{{Root: bad.Root, Rollout: "r1", Text: "errors"}},
		})
		was := before.IsQuarantined(bad.Root)
		again := told && slices.ContainsFunc(before.Quarantined, func(q update.Quarantine) bool { return q.Root == bad.Root && q.Code == update.CodeRevoked })
		if got := d.st.IsQuarantined(bad.Root); got != (was && !again || had && !told) {
			t.Fatalf("quarantined %v; before %v, listed again %v, had it %v, is told to run it %v", got, was, again, had, told)
		}
		d.settle()
		if told || !had || d.st.IsQuarantined(d.st.Aim().Root) {
			return
		}
		if d.st.Running.Root == bad.Root || d.current == bad.Bundle || d.st.Fallback.Root == bad.Root {
			t.Fatalf("%s is still held: phase %s (%s), running %q, fallback %q", bad.Ref, d.st.Phase, d.st.Why, d.st.Running.Ref, d.st.Fallback.Ref)
		}
	})
}

// A release that failed elsewhere is nothing to a device that never had it.
func TestWhatItNeverHadChangesNothing(t *testing.T) {
	law(t, func(t *rapid.T, before update.State, d *device) {
		ev := stamp(d, update.Event{Kind: update.Assigned, Offer: offer(2), Stable: offer(1), Terms: update.Terms{Reason: "told"}})
		a, ea := update.Step(before, ev)
		ev.Failed = []update.GateFailed{{Root: offer(9).Root, Rollout: "r1", Text: "errors"}}
		b, eb := update.Step(before, ev)
		if diff := cmp.Diff(a, b) + cmp.Diff(ea, eb); diff != "" {
			t.Fatalf("it did something: %s", diff)
		}
	})
}

// A release that was revoked is not served once a device has come to rest, nor
// kept to return to; only where the directive keeps it does it serve on, and then
// only while there is nothing else.
func TestWhatWasRevokedIsLeft(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := newDevice()
		d.restart(false)
		for range rapid.IntRange(1, 40).Draw(t, "acts") {
			act(t, d)
		}
		keep := rapid.Bool().Draw(t, "keep")
		var gone []update.Offer
		for i := range rapid.IntRange(1, 3).Draw(t, "revoked") {
			o := offer(rapid.IntRange(1, 4).Draw(t, fmt.Sprint("bundle ", i)))
			gone = append(gone, o)
		}
		revoke := func() { // as the agent does, each time that it believes a pack: what it goes back to first
			for _, b := range []fleet.Digest{d.st.Fallback.Bundle, d.st.Target.Bundle, d.st.Running.Bundle} {
				if slices.ContainsFunc(gone, func(o update.Offer) bool { return o.Bundle == b }) {
					d.step(update.Event{Kind: update.Revoked, Bundle: b, Keep: keep})
				}
			}
		}
		revoke()
		if rapid.Bool().Draw(t, "crash") {
			d.restart(rapid.Bool().Draw(t, "reboot"))
		}
		d.settle()
		for range gone { // the law's directive goes on offering what was revoked, so one may come after the other
			revoke()
			d.settle()
		}
		for _, o := range gone {
			if d.st.Fallback.Bundle == o.Bundle {
				t.Fatalf("%s is still the way back, phase %s", o.Ref, d.st.Phase)
			}
			if d.st.Running.Bundle != o.Bundle && d.current != o.Bundle {
				continue
			}
			if !keep || !d.st.Running.Kept {
				t.Fatalf("%s is still served, phase %s (%s)", o.Ref, d.st.Phase, d.st.Why)
			}
			if aim := d.st.Aim(); aim.Bundle != o.Bundle && !d.st.IsQuarantined(aim.Root) {
				t.Fatalf("%s is kept although %q may run", o.Ref, aim.Ref)
			}
			if d.st.Phase != fleet.Quarantined {
				t.Fatalf("%s is kept, and the phase is %s", o.Ref, d.st.Phase)
			}
		}
	})
}

func TestTransportNeverQuarantines(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := newDevice()
		d.restart(false)
		d.step(update.Event{Kind: update.Assigned, Offer: offer(1), Terms: update.Terms{Arm: fleet.Exposed, Soak: time.Minute}})
		for range rapid.IntRange(1, 50).Draw(t, "tries") {
			if len(d.flight) == 0 {
				d.tick(time.Hour)
				continue
			}
			e := d.flight[0]
			d.flight = d.flight[1:]
			d.step(fail(e, rapid.SampledFrom(classes).Draw(t, "class"))) // whatever a fetch says
		}
		if len(d.st.Quarantined) > 0 || d.st.Failure.Class == fleet.ReleaseFailure {
			t.Fatalf("network trouble counted against the release: %+v", d.st)
		}
		d.settle()
		if d.st.Phase != fleet.Healthy {
			t.Fatalf("phase %s (%s) after the network came back", d.st.Phase, d.st.Why)
		}
	})
}

func TestFallbackIsAlwaysKept(t *testing.T) {
	law(t, func(t *rapid.T, before update.State, d *device) {
		if !d.st.Fallback.IsZero() && !d.files[d.st.Fallback.Bundle] && d.st.Phase != fleet.Activating {
			t.Fatalf("the way back to %s has no files, phase %s", d.st.Fallback.Ref, d.st.Phase)
		}
		// A proven release that is switched away from becomes the way back,
		// unless it was given up or taken back from.
		onward := !before.Past.Has(d.st.Running.Bundle) && before.Running.Counter < d.st.Running.Counter || d.st.Stable.Bundle == before.Running.Bundle
		if before.Running.Good && d.st.Running.Bundle != before.Running.Bundle && d.st.Phase == fleet.Soaking && onward &&
			d.st.Fallback.Bundle != before.Running.Bundle && !before.IsQuarantined(before.Running.Root) {
			t.Fatalf("%s was good and is not kept", before.Running.Ref)
		}
	})
}

func TestEffectsAreIdempotent(t *testing.T) {
	law(t, func(t *rapid.T, _ update.State, d *device) {
		if len(d.flight) == 0 {
			return
		}
		// The same answer twice moves the state once.
		once, _ := update.Step(d.st, stamp(d, update.Event{Kind: answerOf(d.flight[0]), Key: d.flight[0].Key}))
		twice, effects := update.Step(once, stamp(d, update.Event{Kind: answerOf(d.flight[0]), Key: d.flight[0].Key}))
		if diff := cmp.Diff(once, twice); diff != "" || len(effects) > 0 {
			t.Fatalf("a repeated answer to %s did something: %s %v", d.flight[0], diff, effects)
		}
	})
}

func stamp(d *device, ev update.Event) update.Event { ev.At = d.now; return ev }

func answerOf(e update.Effect) update.EventKind {
	return map[update.EffectKind]update.EventKind{
		update.Fetch: update.Fetched, update.Probe: update.ProbePassed, update.Switch: update.Switched,
	}[e.Kind]
}

// A restart at any point ends where going on would have ended.
func TestRestartResumes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := newDevice()
		d.restart(false)
		for range rapid.IntRange(1, 40).Draw(t, "acts") {
			act(t, d)
		}
		if rapid.Bool().Draw(t, "effect done, answer lost") && len(d.flight) > 0 {
			d.carry(d.flight[0])
		}
		var back update.State
		data, err := json.Marshal(d.st)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		d.st = back
		d.restart(false)
		d.settle()
		want := d.st.Aim()
		switch {
		case d.st.IsQuarantined(want.Root) && !want.IsZero():
			if (d.st.Running.Root == want.Root || d.current == want.Bundle) && !d.st.Running.Kept {
				t.Fatalf("serves the quarantined %s, phase %s", want.Ref, d.st.Phase)
			}
		case d.current != want.Bundle || d.st.Running.Bundle != want.Bundle:
			t.Fatalf("wants %q, serves %s, state %s (%s), running %q", want.Ref, d.current.Short(), d.st.Phase, d.st.Why, d.st.Running.Ref)
		}
		if !update.Settled(d.st.Phase) {
			t.Fatalf("came to rest in %s", d.st.Phase)
		}
	})
}

func TestStepIsDeterministic(t *testing.T) {
	law(t, func(t *rapid.T, before update.State, d *device) {
		ev := stamp(d, update.Event{Kind: update.Assigned, Offer: offer(3), Terms: update.Terms{Reason: "told"}})
		a, ea := update.Step(before, ev)
		b, eb := update.Step(before, ev)
		if cmp.Diff(a, b) != "" || cmp.Diff(ea, eb) != "" {
			t.Fatal("the same event moved the same state in two ways")
		}
	})
}

func TestEveryPhaseHasAReason(t *testing.T) {
	law(t, func(t *rapid.T, _ update.State, d *device) {
		if d.st.Phase != fleet.Idle && d.st.Why == "" {
			t.Fatalf("phase %s without a reason", d.st.Phase)
		}
	})
}
