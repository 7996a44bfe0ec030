package rollout_test

import (
	"encoding/json"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/modelfleet/modelfleet/coordinator/rollout"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"pgregory.net/rapid"
)

// text is a status in the form it is stored in; two statuses are the same when
// their texts are.
func text(t *rapid.T, v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func share(p fleet.Percent, n int) int {
	return min(n, max(1, int(math.Ceil(float64(p)*float64(n)/100-1e-9))))
}

// allowed is the most members a stage may expose of those it matches, given
// how many were exposed before it; written apart from the engine.
func allowed(stage fleet.Stage, n, population int, released bool) int {
	most := n
	if stage.Count > 0 {
		most = min(n, stage.Count)
	}
	if stage.Percent > 0 {
		most = share(stage.Percent, n)
	}
	if stage.Control > 0 && !released {
		held := share(stage.Control, population)
		most = min(most, n-max(0, held-(population-n)))
	}
	if n > 0 {
		most = max(1, most)
	}
	return most
}

func TestNeverExceedsExposure(t *testing.T) {
	everyTick(t, func(t *rapid.T, k tick) {
		if k.after.State != rollout.Running || k.after.Stages[k.after.Stage].State.Terminal() {
			return
		}
		facts := k.d.facts()
		before, after := exposed(k.d.spec, k.before, facts), exposed(k.d.spec, k.after, facts)
		if len(after) <= len(before) {
			return
		}
		stage := k.d.spec.Stages[k.after.Stage]
		n, population, inside := 0, 0, 0
		for _, f := range facts {
			if f.Enrolled.After(k.after.AsOf) {
				continue
			}
			population++
			if stage.Selector.Matches(f) {
				n++
				if _, is := slices.BinarySearch(after, f.ID); is {
					inside++
				}
			}
		}
		if most := allowed(stage, n, population, k.after.Stages[k.after.Stage].Released); inside > most {
			t.Fatalf("NeverExceedsExposure: %d exposed of %d that match, at most %d allowed", inside, n, most)
		}
	})
}

func TestNeverExceedsBudget(t *testing.T) {
	everyTick(t, func(t *rapid.T, k tick) {
		after := exposed(k.d.spec, k.after, k.d.facts())
		before := exposed(k.d.spec, k.before, k.d.facts())
		if k.after.State != rollout.Running || len(after) <= len(before) {
			return // only raising a bound uses budget
		}
		stage := k.d.spec.Stages[k.after.Stage]
		busy, bySite := 0, map[string]int{}
		fresh := map[string]bool{}
		for _, m := range k.d.members {
			o := m.seen
			_, is := slices.BinarySearch(after, m.facts.ID)
			settled := o.Running == digest("2.0") && o.Phase == fleet.Healthy || o.Quarantined ||
				o.Rollout == "r1" && (o.Phase == fleet.Quarantined || o.Phase == fleet.Failed && o.Failure == fleet.MemberFailure)
			if !is || settled || !o.Reachable {
				continue
			}
			busy++
			site := m.facts.Labels["site"]
			bySite[site]++
			if _, was := slices.BinarySearch(before, m.facts.ID); !was {
				fresh[site] = true
			}
		}
		// Members that come back from silence by themselves may exceed it; the
		// engine adds nobody while they do.
		if limit := stage.Budget.InProgress; limit > 0 && busy > limit && len(fresh) > 0 {
			t.Fatalf("NeverExceedsBudget: %d in progress, budget %d", busy, limit)
		}
		if limit := stage.Budget.PerLabel["site"]; limit > 0 {
			for site, n := range bySite {
				if n > limit && fresh[site] {
					t.Fatalf("NeverExceedsBudget: %d in progress at site %s, budget %d", n, site, limit)
				}
			}
		}
	})
}

func TestNeverAdvancesUnproven(t *testing.T) {
	everyTick(t, func(t *rapid.T, k tick) {
		for _, a := range k.actions {
			left := a.Kind == rollout.EnterStage && a.From == "Deciding" && (a.To == "Passed" || a.To == "Exposing")
			if !left || k.after.Stages[a.Stage].Skipped {
				continue
			}
			healthy := 0
			for _, m := range k.d.members {
				if m.seen.Reachable && m.seen.Running == digest("2.0") && m.seen.Phase == fleet.Healthy {
					healthy++
				}
			}
			v := k.view.Verdict
			proven := v.Outcome == rollout.Pass && v.Stage == a.Stage
			rest := k.after.Stages[a.Stage].Released && v.Outcome != rollout.Fail && !v.Suspicious
			policy := a.Reason.Code == "inconclusive" && k.d.spec.OnInconclusive == fleet.ContinueInconclusive && v.E <= 1 && !v.Suspicious
			if healthy == 0 || !(proven || rest || policy) {
				t.Fatalf("NeverAdvancesUnproven: stage %d left with %d healthy and verdict %+v: %v", a.Stage, healthy, v, a.Reason)
			}
			if soak := k.d.spec.Stages[a.Stage].Soak.D(); !rest && k.d.now.Sub(k.after.Stages[a.Stage].Soaked) < soak {
				t.Fatalf("NeverAdvancesUnproven: stage %d left before its soak of %v", a.Stage, soak)
			}
		}
	})
}

func TestNeverExposesThroughAFailingGate(t *testing.T) {
	everyTick(t, func(t *rapid.T, k tick) {
		if k.view.Verdict.Outcome != rollout.Fail {
			return
		}
		before := exposed(k.d.spec, k.before, k.d.facts())
		for _, id := range exposed(k.d.spec, k.after, k.d.facts()) {
			if _, was := slices.BinarySearch(before, id); !was {
				t.Fatalf("NeverExposesThroughAFailingGate: %s was exposed", id)
			}
		}
		if k.after.State == rollout.Running || k.after.State == rollout.AwaitingApproval {
			t.Fatalf("NeverExposesThroughAFailingGate: the rollout is %v", k.after.State)
		}
	})
}

// However tokens are named and whoever made them: what counts as N approvals are
// the words of N people, none of them the author.
func TestApprovalsAreOfDistinctPeople(t *testing.T) {
	person := func(a rollout.Approval) string {
		if len(a.As) > 0 {
			return a.As[0]
		}
		return a.By
	}
	everyTick(t, func(t *rapid.T, k tick) {
		for _, list := range [][]rollout.Approval{k.after.Approvals, k.after.Skips} {
			for i, a := range list {
				if person(a) == "ann" || slices.Contains(a.As, "ann") {
					t.Fatalf("ApprovalsAreOfDistinctPeople: the author's %v counts", a)
				}
				for _, b := range list[:i] {
					if person(a) == person(b) || slices.Contains(a.As, person(b)) || slices.Contains(b.As, person(a)) {
						t.Fatalf("ApprovalsAreOfDistinctPeople: %v and %v both count", a, b)
					}
				}
			}
		}
	})
}

func TestPausedIsStill(t *testing.T) {
	everyTick(t, func(t *rapid.T, k tick) {
		if k.before.State == rollout.Paused && k.after.State == rollout.Paused {
			if diff := cmp.Diff(text(t, rollout.Exposure(k.d.spec, k.before)), text(t, rollout.Exposure(k.d.spec, k.after))); diff != "" {
				t.Fatalf("PausedIsStill: the directive changed: %s", diff)
			}
		}
	})
}

func TestRollbackTerminates(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := newDay(t)
		for range rapid.IntRange(3, 30).Draw(t, "ticks") {
			d.pass(t)
		}
		d.seq++
		d.script = append(d.script, rollout.Command{Seq: d.seq, Kind: rollout.CommandRollback, By: "bob"})
		d.calm, d.newer = true, nil
		d.mute = rapid.Bool().Draw(t, "nobody answers again")
		for range 5*len(d.members) + 20 {
			if d.pass(t); d.st.State.Terminal() {
				break
			}
		}
		if !d.st.State.Terminal() {
			t.Fatalf("RollbackTerminates: still %v: %v", d.st.State, d.st.Reason)
		}
		if x := rollout.Exposure(d.spec, d.st); d.st.State == rollout.RolledBack && x != nil {
			t.Fatalf("RollbackTerminates: the directive still exposes %v", x.Rules)
		}
		on := 0
		for _, m := range d.members {
			if m.seen.Reachable && m.seen.Running == digest("2.0") {
				on++
			}
		}
		if d.st.State == rollout.RolledBack && on > 0 && d.st.Reason.Code != "deadline" {
			t.Fatalf("RollbackTerminates: said %v with %d members that answer on the release", d.st.Reason, on)
		}
	})
}

func TestTerminalIsStill(t *testing.T) {
	everyTick(t, func(t *rapid.T, k tick) {
		if k.before.State.Terminal() && (text(t, k.before) != text(t, k.after) || len(k.actions) > 0) {
			t.Fatalf("TerminalIsStill: %v did %v", k.before.State, k.actions)
		}
	})
}

func TestDecideIsDeterministic(t *testing.T) {
	everyTick(t, func(t *rapid.T, k tick) {
		shuffled := rapid.Permutation(k.d.facts()).Draw(t, "facts")
		v := k.view
		v.Roster = rollout.NewRoster(k.before.ID, k.before.Release, k.d.spec, shuffled)
		before := text(t, k.before)
		again, actions := rollout.Decide(k.d.spec, k.before, v, k.d.now)
		if text(t, again) != text(t, k.after) || text(t, actions) != text(t, k.actions) {
			t.Fatalf("DecideIsDeterministic: %s", cmp.Diff(text(t, again), text(t, k.after)))
		}
		if text(t, k.before) != before {
			t.Fatal("DecideIsDeterministic: its argument changed")
		}
	})
}

func TestDecideIsIdempotent(t *testing.T) {
	everyTick(t, func(t *rapid.T, k tick) {
		again, actions := rollout.Decide(k.d.spec, k.after, k.view, k.d.now)
		if len(actions) > 0 || text(t, again) != text(t, k.after) {
			t.Fatalf("DecideIsIdempotent: %v; %s", actions, cmp.Diff(text(t, k.after), text(t, again)))
		}
	})
}

func TestEveryActionHasAReason(t *testing.T) {
	everyTick(t, func(t *rapid.T, k tick) {
		for _, a := range k.actions {
			if a.Kind == "" || a.Reason.Code == "" || a.Reason.Text == "" {
				t.Fatalf("EveryActionHasAReason: %+v", a)
			}
		}
		if k.before.State != k.after.State && k.after.Reason.Code == "" {
			t.Fatalf("EveryActionHasAReason: %v has none", k.after.State)
		}
	})
}

func TestLateJoinersGetStable(t *testing.T) {
	everyTick(t, func(t *rapid.T, k tick) {
		for _, m := range k.d.members {
			a := k.d.told(m.facts)
			if !k.after.AsOf.IsZero() && m.facts.Enrolled.After(k.after.AsOf) && a.Arm != fleet.NoArm {
				t.Fatalf("LateJoinersGetStable: %s, enrolled %v, is %v as of %v", m.facts.ID, m.facts.Enrolled, a.Arm, k.after.AsOf)
			}
		}
	})
}

// TestTransportNeverCounts turns every transport failure into silence: no
// rollout may end worse for the one than for the other.
func TestTransportNeverCounts(t *testing.T) {
	everyTick(t, func(t *rapid.T, k tick) {
		v := k.view
		v.Observed = slices.Clone(v.Observed)
		for i := range v.Observed {
			if o := &v.Observed[i]; o.Failure == fleet.TransportFailure {
				o.Reachable = false
			}
		}
		without, _ := rollout.Decide(k.d.spec, k.before, v, k.d.now)
		bad := func(s rollout.State) bool { return s == rollout.RollingBack || s == rollout.RolledBack }
		if bad(k.after.State) && !bad(without.State) {
			t.Fatalf("TransportNeverCounts: %v instead of %v", k.after.State, without.State)
		}
		if n := rollout.Count(k.after, k.view); n.Failed > 0 {
			for _, m := range k.d.members {
				if m.seen.Quarantined {
					return
				}
			}
			t.Fatalf("TransportNeverCounts: %d failed", n.Failed)
		}
	})
}

// TestSupersedeNeverLoops lets rollouts of one model see each other in every
// order: each ends, at most one runs, and the newest is never superseded.
func TestSupersedeNeverLoops(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		spec, err := fleet.Preset("AllAtOnce")
		if err != nil {
			t.Fatal(err)
		}
		n := rapid.IntRange(2, 5).Draw(t, "rollouts")
		all := make([]rollout.Status, n)
		for i := range all {
			id := fleet.RolloutID("r" + string(rune('a'+rapid.IntRange(0, 25).Draw(t, "id"))) + string(rune('0'+i)))
			all[i], _ = rollout.New(id, release("2.0"), spec, rollout.Approval{By: "ann"}, midnight.Add(time.Duration(rapid.IntRange(0, 2).Draw(t, "at"))*time.Second))
		}
		newest := slices.MaxFunc(all, func(a, b rollout.Status) int {
			if c := a.Created.Compare(b.Created); c != 0 {
				return c
			}
			return map[bool]int{true: 1, false: -1}[a.ID > b.ID]
		}).ID
		now := midnight.Add(10 * time.Second)
		for range 10 * n {
			i := rapid.IntRange(0, n-1).Draw(t, "which")
			v := rollout.View{Roster: rollout.NewRoster(all[i].ID, all[i].Release, spec, nil)}
			if other := rapid.IntRange(0, n-1).Draw(t, "other"); other != i {
				v.Newer = &rollout.Peer{ID: all[other].ID, Created: all[other].Created}
			}
			all[i], _ = rollout.Decide(spec, all[i], v, now)
			if all[i].ID == newest && all[i].State == rollout.Superseded {
				t.Fatal("SupersedeNeverLoops: the newest rollout was superseded")
			}
		}
	})
}

func TestReplayAgrees(t *testing.T) {
	everyTick(t, func(t *rapid.T, k tick) {
		in := rollout.Input{Spec: k.d.spec, Status: k.before, Members: k.d.facts(), View: k.view, Now: k.d.now}
		in.View.Observed = slices.Clone(in.View.Observed)
		var back rollout.Input
		if err := json.Unmarshal([]byte(text(t, in)), &back); err != nil {
			t.Fatal(err)
		}
		st, actions := back.Replay()
		if text(t, st) != text(t, k.after) || text(t, actions) != text(t, k.actions) {
			t.Fatalf("ReplayAgrees: %s", cmp.Diff(text(t, st), text(t, k.after)))
		}
	})
}
