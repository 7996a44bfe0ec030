package probe_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/probe"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

func subject(t *testing.T) probe.Subject {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "weights.bin"), []byte("w"), 0o444); err != nil {
		t.Fatal(err)
	}
	return probe.Subject{Model: "detector", Ref: "detector@1", Root: fleet.DigestOf([]byte("r")), Path: dir}
}

func TestCommandDecides(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, command, says string
		kind                fault.Kind
		pass                bool
	}{
		{name: "passes and knows the release", pass: true,
			command: `test "$MODELFLEET_MODEL@$MODELFLEET_RELEASE" = detector@detector@1 && test "$1" = "$MODELFLEET_PATH" && cat weights.bin`},
		{name: "fails", command: `echo first; echo "accuracy 0.31" >&2; exit 3`, kind: fault.Invalid, says: "exit status 3: first accuracy 0.31"},
		{name: "crashes", command: `kill -SEGV $$`, kind: fault.Invalid, says: "segmentation fault"},
		{name: "never ends", command: `sleep 60 & wait`, kind: fault.Invalid, says: "no end after"},
		{name: "not now", command: `exit 75`, kind: fault.Transient, says: "could not run"},
		{name: "no such command", command: `/no/such/command`, kind: fault.Transient, says: "exit status 127"},
		{name: "talks too much", command: `yes | head -c 100000; echo the end; exit 1`, kind: fault.Invalid, says: "the end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := probe.Test(t.Context(), probe.Options{Command: c.command, Timeout: time.Second}, subject(t))
			if c.pass {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) || len(err.Error()) > 400 {
				t.Fatalf("%v (%s)", err, fault.KindOf(err))
			}
		})
	}
}

func TestEndpointDecides(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]fault.Kind{200: 255, 204: 255, 422: fault.Invalid, 500: fault.Invalid, 503: fault.Transient} {
		s := subject(t)
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var req probe.Request
			if err := json.NewDecoder(r.Body).Decode(&req); err != nil || req.Path != s.Path || req.Ref != s.Ref || req.Root != s.Root.String() {
				t.Errorf("posted %+v, %v", req, err)
			}
			w.WriteHeader(status)
		}))
		err := probe.Test(t.Context(), probe.Options{URL: srv.URL}, s)
		srv.Close()
		if want == 255 && err != nil || want != 255 && !fault.Is(err, want) {
			t.Errorf("status %d: %v", status, err)
		}
	}
	if err := probe.Test(t.Context(), probe.Options{URL: "http://127.0.0.1:1/"}, subject(t)); !fault.Is(err, fault.Transient) {
		t.Errorf("nobody listens: %v", err)
	}
}

func TestFilesMustBeThere(t *testing.T) {
	t.Parallel()
	s := subject(t)
	if err := probe.Test(t.Context(), probe.Options{}, s); err != nil {
		t.Fatal(err)
	}
	s.Path = filepath.Join(s.Path, "gone")
	if err := probe.Test(t.Context(), probe.Options{}, s); !fault.Is(err, fault.Transient) {
		t.Errorf("gone: %v", err)
	}
	s.Path = t.TempDir()
	if err := probe.Test(t.Context(), probe.Options{}, s); !fault.Is(err, fault.Invalid) {
		t.Errorf("empty: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := probe.Test(ctx, probe.Options{Command: "true"}, subject(t)); !fault.Is(err, fault.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func TestWatchKeepsToItsLimits(t *testing.T) {
	t.Parallel()
	use := func(w *probe.Watch, pattern string) (v probe.Verdict, at int) {
		for i, c := range pattern {
			if v, bad := w.Used(c == 'x', 0); bad {
				return v, i + 1
			}
		}
		return probe.Verdict{}, 0
	}
	streak := probe.Limits{Health: fleet.Health{FailStreak: 3}}
	if v, at := use(probe.NewWatch(streak), "xx.xx.xxx"); at != 9 || v.Code != "unhealthy" || v.Text != "3 uses failed in a row, limit 3" {
		t.Errorf("streak: %+v at %d", v, at)
	}
	rate := probe.Limits{ErrorRate: .3, MinUses: 10}
	if v, at := use(probe.NewWatch(rate), "xx......x......."); at != 10 || v.Text != "3 of 10 uses failed, limit 30%" {
		t.Errorf("rate: %+v at %d", v, at)
	}
	if _, at := use(probe.NewWatch(probe.Limits{}), strings.Repeat("x", 100)); at != 0 {
		t.Errorf("no limits, yet it ended at %d", at)
	}
	w := probe.NewWatch(probe.Limits{Health: fleet.Health{Restarts: 2}})
	if _, bad := w.Lost("crashed"); bad {
		t.Error("one restart of two was too many")
	}
	if v, bad := w.Lost("crashed"); !bad || v.Code != "crash-loop" {
		t.Errorf("second restart: %+v %v", v, bad)
	}
}
