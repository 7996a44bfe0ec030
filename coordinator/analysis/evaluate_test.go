package analysis_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/modelfleet/modelfleet/coordinator/analysis"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// still is evidence of members that do the same in every minute: n1 exposed and
// n0 in the control, a minute after the soak began.
func still(n1, n0 int) analysis.Evidence {
	ev := analysis.Evidence{At: noon.Add(time.Minute), Soaked: noon, Told: n1}
	for i := range n1 + n0 {
		m := analysis.Member{ID: fleet.MemberID(fmt.Sprintf("m%04d", i)), Arm: fleet.Control, Since: noon, Seen: ev.At}
		if i < n1 {
			m.Arm, m.Settled = fleet.Exposed, noon
		}
		m.Pre = analysis.Counters{Windows: 100, Requests: 1000, Errored: 2, Errors: 2, Slow: [3]uint64{500, 50, 10}}
		ev.Members = append(ev.Members, m)
	}
	return ev
}

// advance lets time pass in which everyone who is heard serves.
func advance(ev analysis.Evidence, d time.Duration) analysis.Evidence {
	ev.At = ev.At.Add(d)
	members := make([]analysis.Member, len(ev.Members))
	for i, m := range ev.Members {
		m.Seen = ev.At
		n := uint64(d / (10 * time.Second))
		m.Post.Windows += n
		m.Post.Requests += 10 * n
		members[i] = m
	}
	ev.Members = members
	return ev
}

func bytesOf(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestSameEvidenceGivesTheSameVerdictByteForByte(t *testing.T) {
	t.Parallel()
	cfg := config(1, 2, 5*time.Minute)
	ev := still(5, 43)
	var st, replayed analysis.State
	for i := range 20 {
		ev = advance(ev, 20*time.Second)
		ev.Members[2].Failed = i > 5
		ev.Members[3].Post.Errored += 2
		ev.Members[30].Alarm = i > 8
		ev.Members[4].Post.Wrong, ev.Members[40].Post.Right = uint64(i), uint64(i)
		if i == 12 {
			ev.Stage, ev.Soaked = 1, ev.At
		}
		var v, again analysis.Verdict
		st, v = analysis.Evaluate(cfg, st, ev)

		var backState analysis.State
		var backEvidence analysis.Evidence
		var backConfig analysis.Config
		for _, p := range []struct{ from, to any }{{replayed, &backState}, {ev, &backEvidence}, {cfg, &backConfig}} {
			if err := json.Unmarshal([]byte(bytesOf(t, p.from)), p.to); err != nil {
				t.Fatal(err)
			}
		}
		replayed, again = analysis.Evaluate(backConfig, backState, backEvidence)
		if diff := cmp.Diff(bytesOf(t, v), bytesOf(t, again)); diff != "" {
			t.Fatalf("replayed verdict %d: %s", i, diff)
		}
		if diff := cmp.Diff(bytesOf(t, st), bytesOf(t, replayed)); diff != "" {
			t.Fatalf("replayed state %d: %s", i, diff)
		}
	}
}

func TestLookingAgainChangesNothing(t *testing.T) {
	t.Parallel()
	cfg := config(1, 1, 5*time.Minute)
	ev := advance(still(5, 43), 3*time.Minute)
	ev.Members[1].Failed, ev.Members[2].Alarm = true, true
	for i := range 5 {
		ev.Members[i].Post.Errored = ev.Members[i].Post.Windows
	}
	st, v := analysis.Evaluate(cfg, analysis.State{}, ev)
	again, same := analysis.Evaluate(cfg, st, ev)
	if diff := cmp.Diff(bytesOf(t, st)+bytesOf(t, v), bytesOf(t, again)+bytesOf(t, same)); diff != "" {
		t.Errorf("the same evidence twice: %s", diff)
	}
	for range 50 { // time passes, nobody counts anything
		ev.At = ev.At.Add(30 * time.Second)
		for i := range ev.Members {
			ev.Members[i].Seen = ev.At
		}
		var later analysis.Verdict
		st, later = analysis.Evaluate(cfg, st, ev)
		if later.E != v.E {
			t.Fatalf("E went from %g to %g without new counts", v.E, later.E)
		}
	}
}

// judge evaluates the evidence after an empty one from the soak's beginning,
// against which the stage's counts are taken.
func judge(cfg analysis.Config, ev analysis.Evidence) analysis.Verdict {
	begin := analysis.Evidence{At: noon, Told: ev.Told}
	for _, m := range ev.Members {
		begin.Members = append(begin.Members, analysis.Member{ID: m.ID, Arm: m.Arm, Since: noon, Seen: noon})
	}
	st, _ := analysis.Evaluate(cfg, analysis.State{}, begin)
	_, v := analysis.Evaluate(cfg, st, ev)
	return v
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	metric := fleet.Spec{Stages: []fleet.Stage{{Soak: fleet.Duration(5 * time.Minute)}}, Gates: []fleet.Gate{{Gate: fleet.GateMetric, Name: "missed_defects", Direction: fleet.Up}}}
	cases := []struct {
		name   string
		cfg    analysis.Config
		ev     func() analysis.Evidence
		want   analysis.Outcome
		reason string // is in it
	}{
		{"healthy", config(1, 1, 5*time.Minute), func() analysis.Evidence { return advance(still(5, 43), 4*time.Minute) }, analysis.Pass, "gates passed with 5"},
		{"too early", config(1, 1, 5*time.Minute), func() analysis.Evidence { return still(5, 43) }, analysis.Inconclusive, "watched for"},
		{"nobody tried it", config(1, 1, 5*time.Minute), func() analysis.Evidence { return advance(still(0, 48), 4*time.Minute) }, analysis.Inconclusive, "no exposed member"},
		{"still exposing", config(1, 1, 5*time.Minute), func() analysis.Evidence {
			ev := advance(still(5, 43), 4*time.Minute)
			ev.Soaked = time.Time{}
			return ev
		}, analysis.Inconclusive, "still exposes"},
		{"three of the first five fail", config(1, 1, 5*time.Minute), func() analysis.Evidence {
			ev := still(20, 180)
			for i := range 3 {
				ev.Members[i].Failed = true
			}
			return ev
		}, analysis.Fail, "breaker: the release failed on 3 of the first 5"},
		{"late failures are not the breaker's", config(1, 1, 5*time.Minute), func() analysis.Evidence {
			ev := advance(still(200, 200), 4*time.Minute)
			for i := range 3 {
				ev.Members[i].Failed, ev.Members[i].Settled = true, noon.Add(time.Hour)
			}
			return ev
		}, analysis.Pass, "gates passed with 200"},
		{"a quiet exposed arm", config(1, 1, 5*time.Minute), func() analysis.Evidence {
			ev := advance(still(5, 43), 4*time.Minute)
			for i := range 5 {
				ev.Members[i].Post = analysis.Counters{}
			}
			return ev
		}, analysis.Inconclusive, "0 exposed members report it"},
		{"no traffic anywhere", config(1, 1, 5*time.Minute), func() analysis.Evidence {
			ev := advance(still(5, 43), 4*time.Minute)
			for i := range ev.Members {
				ev.Members[i].Post = analysis.Counters{}
			}
			return ev
		}, analysis.Inconclusive, "errors: no member reports it"},
		{"a metric nobody reports", analysis.NewConfig(metric, analysis.Timing{}), func() analysis.Evidence { return advance(still(5, 43), 4*time.Minute) }, analysis.Inconclusive, "metric: no member reports it"},
		{"half the exposed are not heard", config(1, 1, 5*time.Minute), func() analysis.Evidence {
			ev := advance(still(6, 42), 4*time.Minute)
			for i := range 3 {
				ev.Members[i].Seen = noon
			}
			return ev
		}, analysis.Inconclusive, "only 3 of 6 exposed members are heard"},
		{"tiny and healthy", config(1, 1, 5*time.Minute), func() analysis.Evidence { return advance(still(1, 2), 4*time.Minute) }, analysis.Pass, "not enough members for a fleet verdict (3 of 10)"},
		{"tiny and fatal", config(1, 1, 5*time.Minute), func() analysis.Evidence {
			ev := still(1, 2)
			ev.Members[0].Failed = true
			return ev
		}, analysis.Fail, "not enough members for a fleet verdict"},
		{"tiny and alarmed", config(1, 1, 5*time.Minute), func() analysis.Evidence {
			ev := still(1, 2)
			ev.Members[0].Alarm = true
			return ev
		}, analysis.Fail, "self-alarm"},
		{"everyone exposed, no control", config(1, 1, 5*time.Minute), func() analysis.Evidence { return advance(still(48, 0), 4*time.Minute) }, analysis.Pass, "against 0"},
		{"everyone exposed, most alarmed", config(1, 1, 5*time.Minute), func() analysis.Evidence {
			ev := advance(still(48, 0), 4*time.Minute)
			for i := range 30 {
				ev.Members[i].Alarm = true
			}
			return ev
		}, analysis.Fail, "30 of 48 exposed members raised their self-alarm"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			v := judge(c.cfg, c.ev())
			if v.Outcome != c.want || !strings.Contains(v.Reason, c.reason) {
				t.Errorf("%s: %s; want %s with %q%s", v.Outcome, v.Reason, c.want, c.reason, gates(v))
			}
		})
	}
}

func TestSilence(t *testing.T) {
	t.Parallel()
	cfg := config(1, 1, 5*time.Minute)
	quiet := func(ev analysis.Evidence, from, to int) {
		for i := from; i < to; i++ {
			ev.Members[i].Seen = noon
		}
	}
	t.Run("after activation it is a fatal event", func(t *testing.T) {
		ev := advance(still(5, 43), 4*time.Minute)
		quiet(ev, 0, 5)
		for i := range 5 {
			ev.Members[i].Settled = time.Time{}
		}
		if v := judge(cfg, ev); v.Outcome != analysis.Fail || !strings.Contains(v.Reason, "5 fell silent") {
			t.Errorf("%s: %s", v.Outcome, v.Reason)
		}
	})
	t.Run("after its soak it is the network's", func(t *testing.T) {
		ev := advance(still(5, 43), 4*time.Minute)
		quiet(ev, 0, 5)
		if v := judge(cfg, ev); v.Outcome != analysis.Inconclusive || v.E > 1 {
			t.Errorf("%s: %s (E %g)", v.Outcome, v.Reason, v.E)
		}
	})
	t.Run("of everyone it is the coordinator's", func(t *testing.T) {
		ev := advance(still(5, 43), 4*time.Minute)
		quiet(ev, 0, 48)
		for i := range 5 {
			ev.Members[i].Settled = time.Time{}
		}
		if v := judge(cfg, ev); v.Outcome != analysis.Inconclusive || v.E > 1 {
			t.Errorf("%s: %s (E %g)", v.Outcome, v.Reason, v.E)
		}
	})
}

// TestStrataKeepSitesApart: all failures are at a site where nearly everyone is
// exposed, and its control fails as well. Pooled, that would look like the
// release's doing.
func TestStrataKeepSitesApart(t *testing.T) {
	t.Parallel()
	build := func(stratum string) analysis.Evidence {
		ev := still(10, 90)
		for i := range ev.Members {
			m := &ev.Members[i]
			m.Settled = noon.Add(time.Hour + time.Duration(i)*time.Second) // the breaker's first five are well
			if i >= 5 && i < 10 || i >= 10 && i < 15 {
				m.Stratum, m.Failed = stratum, true
			}
		}
		return ev
	}
	pooled, apart := judge(config(1, 1, time.Minute), build("")), judge(config(1, 1, time.Minute), build("burnt"))
	if pooled.E < 10*apart.E || apart.E > 1.01 {
		t.Errorf("E %g pooled, %g by site", pooled.E, apart.E)
	}
}

func TestAFailedReleaseStaysFailed(t *testing.T) {
	t.Parallel()
	cfg := config(1, 2, 5*time.Minute)
	ev := still(5, 43)
	for i := range 4 {
		ev.Members[i].Failed = true
	}
	st, v := analysis.Evaluate(cfg, analysis.State{}, ev)
	if v.Outcome != analysis.Fail {
		t.Fatalf("%s: %s", v.Outcome, v.Reason)
	}
	ev = advance(still(5, 43), 5*time.Minute)
	ev.Stage, ev.Soaked = 1, noon
	if _, v = analysis.Evaluate(cfg, st, ev); v.Outcome != analysis.Fail {
		t.Errorf("later: %s: %s", v.Outcome, v.Reason)
	}
}

func TestLabelled(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name  string
		wrong uint64 // of 100 on exposed members; 20 on the others
		want  analysis.Relation
	}{
		{"twice as often wrong", 40, analysis.Worse},
		{"half as often wrong", 10, analysis.Better},
		{"as often wrong", 20, analysis.NonInferior},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ev := advance(still(24, 24), 6*time.Minute)
			for i := range ev.Members {
				m := &ev.Members[i]
				wrong := uint64(20)
				if m.Arm == fleet.Exposed {
					wrong = c.wrong
				}
				jitter := uint64(i*7) % 5 // members differ a little
				m.Pre.Wrong, m.Pre.Right = 18+uint64(i*3)%5, 80
				m.Post.Wrong, m.Post.Right = wrong+jitter, 100-wrong
			}
			v := judge(config(1, 1, 5*time.Minute), ev)
			if v.Labelled == nil || v.Labelled.Relation != c.want || v.Labelled.Low > v.Labelled.Difference || v.Labelled.High < v.Labelled.Difference {
				t.Errorf("%+v, want %s", v.Labelled, c.want)
			}
			if failed := v.Outcome == analysis.Fail; failed != (c.want == analysis.Worse) {
				t.Errorf("%s: %s", v.Outcome, v.Reason)
			}
		})
	}
}
