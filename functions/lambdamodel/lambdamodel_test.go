package lambdamodel_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/functions/lambdamodel"
	"github.com/modelfleet/modelfleet/functions/lambdasim"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/identity"
)

// The function under test is this binary, told so by childEnv.
const childEnv = "LAMBDAMODEL_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	opts, err := lambdamodel.FromEnv(os.Getenv)
	if err == nil {
		opts.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
		err = lambdamodel.Start(opts, open, handle)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// answer is what the function answers with.
type answer struct {
	Release string
	Says    string
	PID     int
	Member  string // of DIR/identity.json
	Gated   bool   // DIR/state.json says that the gates failed something
}

// The model is a word: how it behaves.
func open(r lambdamodel.Release) (string, error) {
	word, err := os.ReadFile(filepath.Join(r.Path, "behaviour"))
	if err != nil {
		return "", err
	}
	switch string(word) {
	case "does not load":
		return "", errors.New("weights of the wrong shape")
	case "panics at load":
		panic("index out of range")
	}
	return string(word), nil
}

func handle(_ context.Context, call *lambdamodel.Call[string], event string) (answer, error) {
	if event == "risky" {
		switch call.Model {
		case "crashes":
			panic("index out of range")
		case "fails":
			return answer{}, errors.New("no number")
		}
	}
	if event == "exit" {
		os.Exit(9)
	}
	call.Score(0.25)
	call.Right(event != "wrong")
	data, err := os.ReadFile(filepath.Join(os.TempDir(), "modelfleet", "identity.json"))
	if err != nil {
		return answer{}, err
	}
	var id identity.Identity
	if err := json.Unmarshal(data, &id); err != nil {
		return answer{}, err
	}
	state, err := os.ReadFile(filepath.Join(os.TempDir(), "modelfleet", "state.json"))
	gated := strings.Contains(string(state), "the gates of rollout")
	return answer{call.Release.Ref, call.Model, os.Getpid(), string(id.Facts.ID), gated}, err
}

func serves(ref string) func(answer, lambdasim.Response) bool {
	return func(a answer, _ lambdasim.Response) bool { return a.Release == ref }
}

func TestAFunctionIsAMember(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	fn := f.function()
	// Enrolled, but the fleet has no release yet: an invocation says so.
	_, resp := f.invoke(fn, "a")
	if resp.FunctionError == "" || !strings.Contains(string(resp.Payload), "no release of it is in service") {
		t.Fatalf("without a release: %s", resp.Payload)
	}
	f.publish("1.0.0", "one")
	f.rollout("1.0.0", 100*time.Millisecond, fleet.Health{})
	a := f.until(fn, "a", "1.0.0 is served", serves("detector@1.0.0"))
	if a.Says != "one" {
		t.Errorf("answer %+v", a)
	}
	f.until(fn, "a", "it is reported as healthy", func(a answer, _ lambdasim.Response) bool {
		_, m := f.member(fleet.MemberID(a.Member))
		return m.Running == "detector@1.0.0" && m.Phase == fleet.Healthy
	})
	info, _ := f.member(fleet.MemberID(a.Member))
	if info.Facts.Kind != fleet.Function || info.Facts.Labels["function"] != "Detect_it" || info.Facts.Labels["app"] != "detect" || !strings.HasPrefix(a.Member, "detect-it-") {
		t.Errorf("facts %+v", info.Facts)
	}
	// Each invocation is counted once, however it is reported. On a busy machine the
	// end comes before the last report, and an environment's last invocations are
	// not counted; those of the next one are.
	for before, tries := uint64(0), 20; ; tries-- {
		for range 3 {
			a = f.until(fn, "wrong", "1.0.0 is served", serves("detector@1.0.0"))
		}
		fn.ReleaseIdle() // SIGTERM: the last report
		_, m := f.member(fleet.MemberID(a.Member))
		answered := f.answered["detector@1.0.0"] - before
		if m.Requests == answered && m.Wrong == 3 && m.Errors == 0 {
			break
		}
		if m.Requests > answered || m.Wrong > 3 || m.Errors > 0 || tries == 0 {
			t.Fatalf("%d invocations were answered, and reported is %+v", answered, m)
		}
		before += answered
	}
}

func TestAnEnvironmentStaysTheSameMemberThroughACrash(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	fn := f.function()
	f.invoke(fn, "a")
	f.publish("1.0.0", "one")
	f.rollout("1.0.0", time.Minute, fleet.Health{})
	a := f.until(fn, "a", "1.0.0 is served", serves("detector@1.0.0"))
	if _, resp := f.invoke(fn, "exit"); resp.FunctionError == "" {
		t.Fatal("it did not crash")
	}
	f.stop() // not even the coordinator is needed
	b, resp := f.invoke(fn, "a")
	if b.Release != a.Release || b.PID == a.PID || b.Member != a.Member || !resp.Cold {
		t.Errorf("before the crash %+v, after it %+v", a, b)
	}
}

func TestBadReleasesAreTakenBackHere(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		behaviour, event, code string
		health                 fleet.Health
	}{
		{"does not load", "a", "load", fleet.Health{}},
		{"panics at load", "a", "load", fleet.Health{}},
		{"crashes", "risky", "crash-loop", fleet.Health{Restarts: 2}},
		{"fails", "risky", "unhealthy", fleet.Health{FailStreak: 3}},
	} {
		t.Run(c.behaviour, func(t *testing.T) {
			t.Parallel()
			f := newFactory(t)
			fn := f.function()
			f.invoke(fn, "a")
			f.publish("1.0.0", "one")
			first := f.rollout("1.0.0", 50*time.Millisecond, fleet.Health{})
			a := f.until(fn, "a", "1.0.0 is stable", func(a answer, _ lambdasim.Response) bool {
				r, err := f.client.Rollout(t.Context(), first)
				return err == nil && r.State == "Succeeded" && a.Release != ""
			})
			f.publish("2.0.0", c.behaviour)
			f.rollout("2.0.0", time.Minute, c.health)
			refused := 0
			f.until(fn, c.event, "2.0.0 is quarantined", func(got answer, resp lambdasim.Response) bool {
				if resp.FunctionError != "" {
					refused++
				}
				_, m := f.member(fleet.MemberID(a.Member))
				return m.Phase == fleet.Quarantined && m.FailureCode == c.code && m.Failure == fleet.ReleaseFailure
			})
			if c.event == "a" && refused > 0 {
				t.Errorf("%d invocations failed: a release that does not load must cost none", refused)
			}
			f.until(fn, c.event, "1.0.0 is served again", serves("detector@1.0.0"))
			if _, m := f.member(fleet.MemberID(a.Member)); m.Running != "detector@1.0.0" {
				t.Errorf("reported to run %s", m.Running)
			}
		})
	}
}

func TestARollbackReachesAFunction(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	fn := f.function()
	f.invoke(fn, "a")
	f.publish("1.0.0", "one")
	first := f.rollout("1.0.0", 50*time.Millisecond, fleet.Health{})
	f.until(fn, "a", "1.0.0 is stable", func(answer, lambdasim.Response) bool {
		r, err := f.client.Rollout(t.Context(), first)
		return err == nil && r.State == "Succeeded"
	})
	f.publish("2.0.0", "two")
	second := f.rollout("2.0.0", time.Minute, fleet.Health{})
	f.until(fn, "a", "2.0.0 is served", serves("detector@2.0.0"))
	if _, err := f.client.Command(t.Context(), second, api.Rollback, api.CommandRequest{Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	f.until(fn, "a", "1.0.0 is served again", serves("detector@1.0.0"))
}

func TestTheFirstReleaseOfAllCanBeTakenBack(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	fn := f.function()
	f.invoke(fn, "a")
	f.publish("1.0.0", "one")
	id := f.rollout("1.0.0", time.Minute, fleet.Health{})
	f.until(fn, "a", "1.0.0 is served", serves("detector@1.0.0"))
	if _, err := f.client.Command(t.Context(), id, api.Rollback, api.CommandRequest{Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	f.until(fn, "a", "nothing is served", func(a answer, resp lambdasim.Response) bool {
		return a.Release == "" && strings.Contains(string(resp.Payload), "no release of it is in service")
	})
}

func TestACoordinatorThatIsAwayCostsNothing(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	fn := f.function()
	f.invoke(fn, "a")
	f.publish("1.0.0", "one")
	f.rollout("1.0.0", time.Minute, fleet.Health{})
	f.until(fn, "a", "1.0.0 is served", serves("detector@1.0.0"))
	f.stop()
	for range 30 {
		a, resp := f.invoke(fn, "a")
		if a.Release != "detector@1.0.0" {
			t.Fatalf("without a coordinator: %s", resp.Payload)
		}
	}
}

func TestFreshRequiresAReleaseAndAnyDoesNot(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	for require, want := range map[lambdamodel.Require]bool{lambdamodel.Fresh: false, lambdamodel.Any: true} {
		m, err := lambdamodel.Open(t.Context(), lambdamodel.Options{
			Token: f.token, Model: "detector", Dir: t.TempDir(), Source: f.path("bucket"), Require: require, InitBudget: patience,
			Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		}, open)
		if (err == nil) != want {
			t.Errorf("require %s without a release: %v", require, err)
		}
		if m != nil {
			if _, _, err := m.Current(); !fault.Is(err, fault.NotFound) {
				t.Errorf("current model: %v", err)
			}
			m.Close()
		}
	}
}

func TestOptionsThatAreWrongAreNamed(t *testing.T) {
	t.Parallel()
	good := map[string]string{"MODELFLEET_TOKEN": "t", "MODELFLEET_MODEL": "detector", "MODELFLEET_REFRESH": "5s", "MODELFLEET_LABELS": "a=b, c=d"}
	if o, err := lambdamodel.FromEnv(func(n string) string { return good[n] }); err != nil || o.Refresh != 5*time.Second || o.Labels["c"] != "d" {
		t.Errorf("good options: %+v %v", o, err)
	}
	for name, value := range map[string]string{
		"MODELFLEET_TOKEN": "", "MODELFLEET_MODEL": "No Name", "MODELFLEET_REFRESH": "soon", "MODELFLEET_REPORT": "-1s",
		"MODELFLEET_LABELS": "a", "MODELFLEET_REQUIRE": "all", "MODELFLEET_ON_STALE": "panic",
	} {
		_, err := lambdamodel.FromEnv(func(n string) string {
			if n == name {
				return value
			}
			return good[n]
		})
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
	bad := lambdamodel.Options{Token: "mft1.nonsense", Model: "detector", Dir: t.TempDir()}
	if _, err := lambdamodel.Open(t.Context(), bad, open); err == nil {
		t.Error("a token that is none was taken")
	}
}
