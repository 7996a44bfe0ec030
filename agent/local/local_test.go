package local_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// host is an agent that only remembers.
type host struct {
	mu     sync.Mutex
	models []local.Model
	seen   []local.Observation
	roots  []fleet.Digest
	losses chan local.Loss
	bug    bool // taking observations panics
}

func (h *host) Listing() local.Listing {
	h.mu.Lock()
	defer h.mu.Unlock()
	return local.Listing{Member: "dev-1", Models: append([]local.Model{}, h.models...)}
}

func (h *host) Observe(_ fleet.ModelName, root fleet.Digest, obs []local.Observation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.bug {
		panic("index out of range")
	}
	h.seen = append(h.seen, obs...)
	h.roots = append(h.roots, root)
}

func (h *host) trap() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bug = true
}

func (h *host) Lift(_ fleet.ModelName, root fleet.Digest) { h.roots = append(h.roots, root) }

func (h *host) Lost(l local.Loss) { h.losses <- l }

func (h *host) serve(ref string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.models = []local.Model{{Name: "detector", Phase: fleet.Soaking}}
	if ref != "" {
		h.models[0].Serving = &local.Release{Ref: ref, Root: fleet.DigestOf([]byte(ref)), Path: "/releases/" + ref}
	}
}

type fixture struct {
	*host
	t      *testing.T
	srv    *local.Server
	socket string
	stop   context.CancelFunc
	done   chan error
}

func start(t *testing.T, ttl time.Duration) *fixture {
	t.Helper()
	dir, err := os.MkdirTemp("", "mf") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f := &fixture{host: &host{losses: make(chan local.Loss, 16)}, t: t, socket: filepath.Join(dir, "a.sock")}
	f.serve("detector@1")
	f.up(ttl)
	t.Cleanup(f.down)
	return f
}

func (f *fixture) up(ttl time.Duration) {
	f.t.Helper()
	f.srv = local.New(local.Options{Socket: f.socket, TTL: ttl, Host: f.host, Logger: slog.New(slog.DiscardHandler)})
	ln, err := f.srv.Listen()
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(f.t.Context())
	f.stop, f.done = stop, make(chan error, 1)
	go func(s *local.Server, done chan<- error) { done <- s.Serve(ctx, ln) }(f.srv, f.done)
}

func (f *fixture) down() {
	f.stop()
	if err := <-f.done; err != nil {
		f.t.Errorf("serve: %v", err)
	}
	f.done <- nil
}

func (f *fixture) client(app string) *local.Client {
	return local.NewClient(local.ClientOptions{Socket: f.socket, App: app})
}

func (f *fixture) loss() local.Loss {
	f.t.Helper()
	select {
	case l := <-f.losses:
		return l
	case <-time.After(2 * time.Minute):
		f.t.Fatal("no loss was told")
		return local.Loss{}
	}
}

func (f *fixture) noLoss() {
	f.t.Helper()
	select {
	case l := <-f.losses:
		f.t.Fatalf("a loss was told: %+v", l)
	default:
	}
}

func TestLoadGivesWhatServesAndObserveCountsIt(t *testing.T) {
	t.Parallel()
	f := start(t, 0)
	c, ctx := f.client("scorer"), t.Context()
	l, err := c.Load(ctx, "detector")
	if err != nil {
		t.Fatal(err)
	}
	if l.Ref != "detector@1" || l.Path != "/releases/detector@1" || l.Lease == "" || l.TTL.D() != time.Minute {
		t.Fatalf("loaded %+v", l)
	}
	if got := f.srv.InUse(); len(got) != 1 || got[0] != l.Path {
		t.Fatalf("in use: %v", got)
	}
	score, right := .75, true
	if err := c.Observe(ctx, l, local.Observation{Micros: 1200, Score: &score, Right: &right}, local.Observation{Error: true}); err != nil {
		t.Fatal(err)
	}
	if len(f.seen) != 2 || *f.seen[0].Score != .75 || !f.seen[1].Error || f.roots[0] != l.Root {
		t.Fatalf("observed %+v", f.seen)
	}
	if err := c.Unload(ctx, l); err != nil {
		t.Fatal(err)
	}
	if err := c.Unload(ctx, l); !fault.Is(err, fault.NotFound) {
		t.Fatalf("second unload: %v", err)
	}
	if len(f.srv.InUse()) != 0 {
		t.Fatal("still in use")
	}
	f.noLoss()
}

// A request that finds a bug is answered as our fault, and the next one is
// answered as ever.
func TestAPanicIsAnsweredAndEndsNothing(t *testing.T) {
	t.Parallel()
	f := start(t, 0)
	c := f.client("scorer")
	l, err := c.Load(t.Context(), "detector")
	if err != nil {
		t.Fatal(err)
	}
	f.trap()
	for range 2 {
		if err := c.Observe(t.Context(), l, local.Observation{Micros: 1}); !fault.Is(err, fault.Internal) {
			t.Fatalf("a panic was answered by %v", err)
		}
	}
	if err := c.Unload(t.Context(), l); err != nil {
		t.Fatal(err)
	}
}

func TestReloadingWithoutUnloadingIsACrash(t *testing.T) {
	t.Parallel()
	f := start(t, 0)
	for range 2 {
		if _, err := f.client("scorer").Load(t.Context(), "detector"); err != nil {
			t.Fatal(err)
		}
	}
	if l := f.loss(); l.App != "scorer" || l.Model != "detector" || l.Root != fleet.DigestOf([]byte("detector@1")) || l.Fatal {
		t.Fatalf("lost %+v", l)
	}
	if _, err := f.client("another").Load(t.Context(), "detector"); err != nil {
		t.Fatal(err)
	}
	f.noLoss()
}

func TestALeaseNobodyRenewsIsLost(t *testing.T) {
	t.Parallel()
	f := start(t, 100*time.Millisecond)
	if _, err := f.client("scorer").Load(t.Context(), "detector"); err != nil {
		t.Fatal(err)
	}
	if l := f.loss(); l.App != "scorer" {
		t.Fatalf("lost %+v", l)
	}
}

func TestAConnectionThatDropsIsACrash(t *testing.T) {
	t.Parallel()
	f := start(t, 0)
	c := f.client("scorer")
	l, err := c.Load(t.Context(), "detector")
	if err != nil {
		t.Fatal(err)
	}
	ctx, crash := context.WithCancel(t.Context())
	watched := make(chan struct{})
	go c.Watch(ctx, "detector", l.Lease, func(local.Model) error {
		close(watched)
		return nil
	})
	<-watched
	crash()
	if got := f.loss(); got.App != "scorer" {
		t.Fatalf("lost %+v", got)
	}
}

func TestAnAgentThatStopsIsNoCrash(t *testing.T) {
	t.Parallel()
	f := start(t, 0)
	c := f.client("scorer")
	l, err := c.Load(t.Context(), "detector")
	if err != nil {
		t.Fatal(err)
	}
	watched, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- c.Watch(t.Context(), "detector", l.Lease, func(local.Model) error {
			close(watched)
			return nil
		})
	}()
	<-watched
	f.down()
	if err := <-ended; !fault.Is(err, fault.Transient) {
		t.Fatalf("watch ended with %v", err)
	}
	f.noLoss()
}

func TestFollowSwitchesWithTheAgentAndLeavesInGoodOrder(t *testing.T) {
	t.Parallel()
	f := start(t, 0)
	f.serve("") // nothing yet
	ctx, stop := context.WithCancel(t.Context())
	used, ended := make(chan local.Loaded, 4), make(chan error, 1)
	go func() {
		ended <- f.client("scorer").Follow(ctx, "detector", func(l local.Loaded) error {
			used <- l
			if l.Ref == "detector@3" {
				return errors.New("unknown operator GELU2")
			}
			return nil
		})
	}()
	for _, ref := range []string{"detector@1", "detector@2"} {
		f.serve(ref)
		f.srv.Changed()
		if l := <-used; l.Ref != ref {
			t.Fatalf("uses %s, want %s", l.Ref, ref)
		}
	}
	f.noLoss()
	f.serve("detector@3")
	f.srv.Changed()
	<-used
	if l := f.loss(); !l.Fatal || l.Why != "scorer could not load it: unknown operator GELU2" {
		t.Fatalf("lost %+v", l)
	}
	// The agent takes it back: nothing is loaded anew, what was used still is.
	f.serve("detector@2")
	f.srv.Changed()
	// An agent that restarts is found again, and nothing is loaded anew.
	f.down()
	f.up(0)
	for deadline := time.Now().Add(2 * time.Minute); len(f.srv.InUse()) == 0; <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the application did not come back")
		}
	}
	stop()
	if err := <-ended; !fault.Is(err, fault.Canceled) {
		t.Fatalf("follow ended with %v", err)
	}
	if len(used) != 0 {
		t.Fatalf("loaded anew: %+v", <-used)
	}
	if len(f.srv.InUse()) != 0 {
		t.Fatal("left without unloading")
	}
	f.noLoss()
}

// An application that is asked to end while it loads the next release ends in good
// order all the same: neither that release nor the one before is held, and no crash
// is counted.
func TestEndingWhileLoadingIsNoCrash(t *testing.T) {
	t.Parallel()
	f := start(t, 0)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	used, ended := make(chan string, 4), make(chan error, 1)
	go func() {
		ended <- f.client("scorer").Follow(ctx, "detector", func(l local.Loaded) error {
			if l.Ref == "detector@2" {
				stop()
			}
			used <- l.Ref
			return nil
		})
	}()
	<-used
	f.serve("detector@2")
	f.srv.Changed()
	if ref := <-used; ref != "detector@2" {
		t.Fatalf("uses %s", ref)
	}
	if err := <-ended; !fault.Is(err, fault.Canceled) {
		t.Fatalf("follow ended with %v", err)
	}
	if held := f.srv.InUse(); len(held) != 0 {
		t.Errorf("it left without giving back %v", held)
	}
	f.noLoss()
}

func TestBadRequestsAreProblems(t *testing.T) {
	t.Parallel()
	f := start(t, 0)
	hc := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", f.socket)
	}}}
	many, err := json.Marshal(local.ObserveRequest{Root: fleet.DigestOf(nil), Observations: make([]local.Observation, 10_001)})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, body string
		status     int
	}{
		{"/v1/models/other/load", `{"app":"a"}`, 404},
		{"/v1/models/detector/load", `{"app":""}`, 400},
		{"/v1/models/detector/load", `{"app":"a","force":true}`, 400},
		{"/v1/models/detector/load", `{`, 400},
		{"/v1/models/detector/unload", `{"lease":"none"}`, 404},
		{"/v1/models/detector/observe", `{"observations":[{"micros":1}]}`, 400},
		{"/v1/models/detector/observe", string(many), 400},
	} {
		resp, err := hc.Post("http://agent"+c.path, "application/json", bytes.NewReader([]byte(c.body)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %.40s: %s %s", c.path, c.body, resp.Status, got)
		}
	}
}

func TestASocketInUseIsAConflictAndAStaleOneIsReplaced(t *testing.T) {
	t.Parallel()
	f := start(t, 0)
	second := local.New(local.Options{Socket: f.socket, Host: f.host, Logger: slog.New(slog.DiscardHandler)})
	if _, err := second.Listen(); !fault.Is(err, fault.Conflict) {
		t.Fatalf("listen on a socket in use: %v", err)
	}
	stale := filepath.Join(filepath.Dir(f.socket), "b.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	third := local.New(local.Options{Socket: stale, Host: f.host, Logger: slog.New(slog.DiscardHandler)})
	ln3, err := third.Listen()
	if err != nil {
		t.Fatalf("listen on a stale socket: %v", err)
	}
	ln3.Close()
	if err := os.WriteFile(stale, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := third.Listen(); !fault.Is(err, fault.Conflict) {
		t.Fatalf("listen on a file: %v", err)
	}
	fourth := local.New(local.Options{Socket: filepath.Join(stale, "c.sock"), Host: f.host, Logger: slog.New(slog.DiscardHandler)})
	if _, err := fourth.Listen(); !strings.Contains(fault.Hint(err), "another -socket") {
		t.Fatalf("listen where no folder can be: %v; %s", err, fault.Hint(err))
	}
}

// An application that loads under ever new names is held to a bound; one that
// gives back what it has can go on.
func TestLeasesAreBounded(t *testing.T) {
	f := start(t, time.Minute)
	f.serve("detector@1.0.0")
	var first local.Loaded
	for i := range 2000 {
		l, err := local.NewClient(local.ClientOptions{Socket: f.socket, App: fmt.Sprint("app-", i)}).Load(t.Context(), "detector")
		if i == 0 {
			first = l
		}
		if err == nil {
			continue
		}
		if !fault.Is(err, fault.Exhausted) || i < 100 {
			t.Fatalf("load %d: %v, want Exhausted after many", i, err)
		}
		c := local.NewClient(local.ClientOptions{Socket: f.socket, App: "patient"})
		if err := c.Unload(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Load(t.Context(), "detector"); err != nil {
			t.Errorf("after one was given back: %v", err)
		}
		return
	}
	t.Error("2000 leases were given")
}
