package rollout_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/rollout"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// TestExposureIsExact exposes exactly the share asked for, by the members' own
// reckoning, at many sizes.
func TestExposureIsExact(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		n    int
		st   fleet.Stage
		want int
	}{
		{50, fleet.Stage{Percent: 1}, 1},
		{1000, fleet.Stage{Percent: 1}, 10},
		{1001, fleet.Stage{Percent: 1}, 11},
		{3, fleet.Stage{Percent: 50}, 2},
		{48, fleet.Stage{Percent: 10}, 5},
		{48, fleet.Stage{Count: 7}, 7},
		{5, fleet.Stage{Count: 7}, 5},
		{48, fleet.Stage{Percent: 100, Control: 5}, 45},
		{1, fleet.Stage{Percent: 100, Control: 5}, 1},
		{2, fleet.Stage{Percent: 100, Control: 5}, 1},
		{200, fleet.Stage{Percent: 0.1}, 1},
		{70, fleet.Stage{Percent: 10}, 7}, // 70 * 0.1 is above 7 in floating point
	} {
		c.st.Name, c.st.Soak = "s", fleet.Duration(time.Minute)
		stages := []fleet.Stage{c.st}
		if c.st.Percent != 100 {
			stages = append(stages, fleet.Stage{Name: "all", Percent: 100})
		}
		spec := fleet.Spec{Stages: stages, Alpha: 1, StageDeadline: fleet.Duration(time.Hour), OnInconclusive: fleet.HoldInconclusive, OnFail: fleet.RollbackOnFail}
		facts := fleetOf(c.n)
		st, err := rollout.New("r1", release("2.0"), spec, rollout.Approval{By: "ann"}, midnight)
		if err != nil {
			t.Fatal(err)
		}
		st, _ = rollout.Decide(spec, st, rollout.View{Roster: rollout.NewRoster("r1", release("2.0"), spec, facts)}, midnight.Add(time.Second))
		if got := len(exposed(spec, st, facts)); got != c.want {
			t.Errorf("%d members, percent %g count %d control %g: %d exposed, want %d", c.n, c.st.Percent, c.st.Count, c.st.Control, got, c.want)
		}
	}
}

func fleetOf(n int) []fleet.Facts {
	facts := make([]fleet.Facts, n)
	for i := range facts {
		facts[i] = fleet.Facts{
			ID: fleet.MemberID(fmt.Sprintf("member-%06d", i)), Enrolled: midnight.Add(-time.Hour),
			Labels: fleet.Labels{"site": fmt.Sprintf("site-%03d", i%500), "region": []string{"eu", "us"}[i%2], "ring": []string{"lab", "field"}[min(1, i%100)]},
		}
	}
	return facts
}

// TestDeadlinesMoveThings: at the deadline Decide does something, or it would
// have said there is none.
func TestDeadlinesMoveThings(t *testing.T) {
	t.Parallel()
	spec, err := fleet.Preset("fast")
	if err != nil {
		t.Fatal(err)
	}
	facts := fleetOf(20)
	st, err := rollout.New("r1", release("2.0"), spec, rollout.Approval{By: "ann"}, midnight.Add(300*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	v := rollout.View{Roster: rollout.NewRoster("r1", release("2.0"), spec, facts), Observed: make([]rollout.Observation, 20)}
	steps := 0
	for at, ok := rollout.Deadline(spec, st); ok && steps < 20; at, ok = rollout.Deadline(spec, st) {
		var actions []rollout.Action
		if _, early := rollout.Decide(spec, st, v, at.Add(-time.Nanosecond)); len(early) > 0 {
			t.Errorf("before its deadline: %v", early)
		}
		if st, actions = rollout.Decide(spec, st, v, at); len(actions) == 0 {
			t.Fatalf("nothing at the deadline of %v", st.State)
		}
		steps++
	}
	if steps != 2 || !st.Stages[0].Held { // started; held, for nobody ever answered
		t.Errorf("%d steps to %+v", steps, st.Stages[0])
	}
}

func TestTooManyStages(t *testing.T) {
	t.Parallel()
	var spec fleet.Spec
	for i := range 65 {
		spec.Stages = append(spec.Stages, fleet.Stage{Name: fmt.Sprint(i), Percent: 100})
	}
	spec.Alpha, spec.OnFail, spec.OnInconclusive = 1, fleet.RollbackOnFail, fleet.HoldInconclusive
	if _, err := rollout.New("r1", release("2.0"), spec, rollout.Approval{By: "ann"}, midnight); err == nil || !strings.Contains(err.Error(), "65 stages") {
		t.Errorf("%v", err)
	}
}

// TestSpecFormatIsReadable reads the examples of docs/formats/spec.md.
func TestSpecFormatIsReadable(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/formats/spec.md")
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(doc), "```")
	read := 0
	for i := 1; i < len(parts); i += 2 {
		if text, ok := strings.CutPrefix(parts[i], "yaml\n"); ok {
			specOf(t, text)
			read++
		}
	}
	if read < 2 {
		t.Errorf("%d examples read", read)
	}
}

// BenchmarkDecide decides over a whole fleet in the midst of a stage that
// exposes within a budget, which costs the most of all that changes nothing:
// the loop does it at every tick. The roster is made once, as the caller does.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{48, 1_000, 100_000} {
		b.Run(fmt.Sprint("members=", n), func(b *testing.B) {
			spec, st, v, now := busy(b, n)
			b.ReportAllocs()
			for b.Loop() {
				if _, actions := rollout.Decide(spec, st, v, now); len(actions) > 0 {
					b.Fatal(actions)
				}
			}
		})
	}
}

// BenchmarkRoster makes the roster that decisions are made over.
func BenchmarkRoster(b *testing.B) {
	for _, n := range []int{48, 100_000} {
		b.Run(fmt.Sprint("members=", n), func(b *testing.B) {
			spec, _, _, _ := busy(b, 1)
			facts := fleetOf(n)
			b.ReportAllocs()
			for b.Loop() {
				rollout.NewRoster("r1", release("2.0"), spec, facts)
			}
		})
	}
}

func busy(tb testing.TB, n int) (fleet.Spec, rollout.Status, rollout.View, time.Time) {
	sel, err := fleet.ParseSelector("region in (eu, us)")
	if err != nil {
		tb.Fatal(err)
	}
	spec, err := fleet.Preset("standard")
	if err != nil {
		tb.Fatal(err)
	}
	spec.Population.Selector = sel
	spec.Stages = spec.Stages[2:]
	spec.Stages[0].Budget = fleet.Budget{InProgress: max(1, n/20), PerLabel: map[string]int{"site": 2}}
	st, err := rollout.New("r1", release("2.0"), spec, rollout.Approval{By: "ann"}, midnight)
	if err != nil {
		tb.Fatal(err)
	}
	v := rollout.View{Roster: rollout.NewRoster("r1", release("2.0"), spec, fleetOf(n)), Observed: make([]rollout.Observation, n)}
	for i := range v.Observed {
		v.Observed[i] = rollout.Observation{Reachable: true, Rollout: "r1", Phase: fleet.Downloading, Running: digest("1.0")}
	}
	now := midnight.Add(time.Minute)
	st, _ = rollout.Decide(spec, st, v, now)
	return spec, st, v, now
}

// What a plan says of three members is what the stages then aim at: shares are
// rounded up, at least one, and a control is kept until the soak is over.
func TestAPlanSaysHowManyMembersEachStageExposes(t *testing.T) {
	t.Parallel()
	spec, err := fleet.ParseSpec([]byte(`{"stages": [
		{"name": "lab", "selector": "ring=lab"}, {"name": "one", "percent": 1}, {"name": "two", "count": 2}, {"name": "half", "percent": 50},
		{"name": "nobody", "selector": "ring=none", "percent": 50}, {"name": "all", "percent": 100, "control": 5}]}`))
	if err != nil {
		t.Fatal(err)
	}
	members := []fleet.Facts{{ID: "a", Labels: fleet.Labels{"ring": "lab"}}, {ID: "b"}, {ID: "c"}}
	rel := fleet.Release{Model: "m", Version: "1", Variants: []fleet.Variant{{Name: fleet.DefaultVariant}}}
	got := rollout.Plan(spec, rollout.NewRoster("r1", rel, spec, members))
	if want := []int{1, 1, 2, 2, 0, 2}; !slices.Equal(got, want) {
		t.Errorf("plan %v, want %v", got, want)
	}
}
