package lambdamodel_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/functions/lambdamodel"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// logs is what was logged, line by line.
type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

// A pack that there was no room for is asked for again, though the coordinator
// has nothing newer.
func TestAPackThatCouldNotBeKeptIsAskedForAgain(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	dir, out := t.TempDir(), &logs{}
	m, err := lambdamodel.Open(t.Context(), lambdamodel.Options{
		Token: f.token, Model: "detector", Dir: dir, Source: f.path("bucket"), InitBudget: 20 * time.Second,
		Refresh: 20 * time.Millisecond, Report: 10 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(out, nil)),
	}, open)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	invoke := lambdamodel.Wrap(m, func(context.Context, *lambdamodel.Call[string], string) (string, error) { return "", nil })
	until := func(what string, want func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !want(); <-time.After(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not in time: %s", what)
			}
			_, _ = invoke(t.Context(), "a") // an error until there is a release
		}
	}
	state := filepath.Join(dir, "state.json")
	if err := os.Remove(state); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(state, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	f.publish("1.0.0", "one")
	f.rollout("1.0.0", time.Hour, fleet.Health{})
	until("nothing can be written", func() bool { return out.count("model was not refreshed") >= 20 })
	if _, _, err := m.Current(); err == nil {
		t.Fatal("a pack was acted on that was not kept")
	}
	if err := os.RemoveAll(state); err != nil {
		t.Fatal(err)
	}
	until("1.0.0 is served", func() bool { _, r, err := m.Current(); return err == nil && r.Ref == "detector@1.0.0" })
}
