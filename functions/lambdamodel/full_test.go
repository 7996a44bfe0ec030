package lambdamodel_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/functions/lambdamodel"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
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

// opened is a model in this process.
type opened struct {
	*lambdamodel.Model[string]
	t    *testing.T
	dir  string
	logs *logs
}

func newOpened(t *testing.T, f *factory) *opened {
	t.Helper()
	o := &opened{t: t, dir: t.TempDir(), logs: &logs{}}
	var err error
	o.Model, err = lambdamodel.Open(t.Context(), lambdamodel.Options{
		Token: f.token, Model: "detector", Dir: o.dir, Source: f.path("bucket"), InitBudget: patience,
		Refresh: 20 * time.Millisecond, Report: 10 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(o.logs, nil)),
	}, open)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

// until invokes until it is as wanted.
func (o *opened) until(what string, want func() bool) {
	o.t.Helper()
	invoke := lambdamodel.Wrap(o.Model, func(context.Context, *lambdamodel.Call[string], string) (string, error) { return "", nil })
	for deadline := time.Now().Add(patience); !want(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			o.t.Fatalf("not in time: %s", what)
		}
		_, _ = invoke(o.t.Context(), "a") // an error until there is a release
	}
}

func (o *opened) serves(ref string) func() bool {
	return func() bool {
		_, r, err := o.Current()
		return err == nil && r.Ref == ref
	}
}

// A pack that there was no room for is asked for again, though the coordinator
// has nothing newer.
func TestAPackThatCouldNotBeKeptIsAskedForAgain(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	o := newOpened(t, f)
	m, out, until := o.Model, o.logs, o.until
	state := filepath.Join(o.dir, "state.json")
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
	until("1.0.0 is served", o.serves("detector@1.0.0"))
}

// trapped panics at the first reads.
type trapped struct {
	delivery.Source
	left atomic.Int64
}

func (s *trapped) Get(ctx context.Context, key, etag string) ([]byte, string, error) {
	if s.left.Add(-1) >= 0 {
		panic("index out of range")
	}
	return s.Source.Get(ctx, key, etag)
}

// A bundle that finds a bug does not end the function: it serves what it has and
// tries again.
func TestAPanicInARefreshEndsNothing(t *testing.T) {
	t.Parallel()
	f := newFactory(t)
	o := newOpened(t, f)
	f.publish("1.0.0", "one")
	f.rollout("1.0.0", time.Hour, fleet.Health{})
	o.until("1.0.0 is served", o.serves("detector@1.0.0"))
	bucket, err := dir.Open(f.path("bucket"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bucket.Close() })
	s := &trapped{Source: bucket}
	s.left.Store(2)
	o.Bundles(s)
	id, err := f.client.Rollouts(t.Context())
	if err != nil || len(id) != 1 {
		t.Fatalf("%v, %v", id, err)
	}
	if _, err := f.client.Command(t.Context(), id[0].ID, api.Abort, api.CommandRequest{Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	f.publish("2.0.0", "two")
	f.rollout("2.0.0", time.Hour, fleet.Health{})
	o.until("2.0.0 is served", o.serves("detector@2.0.0"))
	if n := o.logs.count("panic survived"); n != 2 {
		t.Errorf("%d panics were survived, want 2", n)
	}
}
