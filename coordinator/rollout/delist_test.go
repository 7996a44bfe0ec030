package rollout_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/coordinator/rollout"
)

// Whatever a rollout is doing when its release is taken back, paused and held
// included: it ends, exposes nobody new, and says why.
func TestADelistedReleaseEndsItsRollout(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := newDay(t)
		for range rapid.IntRange(0, 30).Draw(t, "ticks") {
			d.pass(t)
		}
		was := d.st
		v := rollout.View{Roster: rollout.NewRoster(was.ID, was.Release, d.spec, d.facts()), Delisted: "detector@2.0 is delisted"}
		st, actions := rollout.Decide(d.spec, was, v, d.now)
		switch {
		case was.State.Terminal():
			if len(actions) > 0 {
				t.Fatalf("%v did something: %v", was.State, actions)
			}
			return
		case was.State == rollout.RollingBack:
			return // for a reason of its own
		case st.State != rollout.RollingBack && st.State != rollout.RolledBack && st.State != rollout.Aborted:
			t.Fatalf("%v became %v", was.State, st.State)
		case st.State == rollout.Aborted && !was.AsOf.IsZero():
			t.Fatal("members were exposed, and stay so")
		}
		if again, more := rollout.Decide(d.spec, st, v, d.now); len(more) > 0 || again.State != st.State {
			t.Fatalf("%v, told again, becomes %v: %v", st.State, again.State, more)
		}
		found := false
		for _, a := range actions {
			if a.Kind == rollout.Expose {
				t.Fatalf("exposes %d members", a.Members)
			}
			found = found || a.Kind == rollout.EnterState && a.Reason.Code == rollout.Delisted
		}
		if !found {
			t.Fatalf("nothing says why: %v", actions)
		}
	})
}
