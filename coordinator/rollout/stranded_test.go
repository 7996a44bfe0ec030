package rollout_test

import (
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/rollout"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Members whose stable release is not listed any more stay where they are: the
// rollback ends at once and says so, whatever its rate, and waits for the others.
func TestARollbackEndsThoughThereIsNothingToGoBackTo(t *testing.T) {
	t.Parallel()
	release := fleet.Release{Model: "detector", Version: "1.6.0", Variants: []fleet.Variant{{Name: "default", Root: fleet.DigestOf([]byte("1.6.0"))}}}
	old := fleet.DigestOf([]byte("1.5.0"))
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		delisted string
		waits    bool // for a member that can go back
		says     string
	}{
		"kept":      {says: "there is no release to go back to that its publisher lists: members keep this one"},
		"delisted":  {delisted: "detector@1.6.0 is delisted", says: "members leave this one"},
		"some wait": {waits: true, says: "there is no release to go back to"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := fleet.Spec{Stages: []fleet.Stage{{Name: "all", Percent: 100}}, StageDeadline: fleet.Duration(24 * time.Hour), ReturnRate: 1}
			var members []fleet.Facts
			for _, id := range []string{"m-a", "m-b", "m-c"} {
				members = append(members, fleet.Facts{ID: fleet.MemberID(id), Enrolled: start.Add(-time.Hour)})
			}
			v := rollout.View{Roster: rollout.NewRoster("r2", release, spec, members), Delisted: c.delisted}
			for range members {
				v.Observed = append(v.Observed, rollout.Observation{Reachable: true, Phase: fleet.Healthy, Rollout: "r2", Running: release.Variants[0].Root, Stranded: true})
			}
			v.Observed[2].Stranded = !c.waits
			st := rollout.Status{ID: "r2", Release: release, State: rollout.RollingBack, Created: start, Since: start, AsOf: start,
				Stages: []rollout.StageStatus{{Name: "all", State: rollout.Exposing}}, Bounds: []fleet.Bound{fleet.Everyone}}
			now := start.Add(time.Minute)
			st, _ = rollout.Decide(spec, st, v, now)
			if c.waits {
				if st.State != rollout.RollingBack {
					t.Fatalf("it ended while a member was on its way: %v %v", st.State, st.Reason)
				}
				v.Observed[2].Running = old
				for range 3 {
					now = now.Add(time.Minute)
					st, _ = rollout.Decide(spec, st, v, now)
				}
			}
			if st.State != rollout.RolledBack || st.Reason.Code != rollout.Stranded || !strings.Contains(st.Reason.Text, c.says) {
				t.Fatalf("%v: %v, want it rolled back and %q", st.State, st.Reason, c.says)
			}
		})
	}
}
