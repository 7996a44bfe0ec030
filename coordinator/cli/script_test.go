package cli_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/modelfleet/modelfleet/coordinator"
	"github.com/modelfleet/modelfleet/coordinator/cli"
	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"modelfleet": func() {
			now := time.Now
			if os.Getenv("FIXED_NOW") != "" {
				now = func() time.Time { return moment }
			}
			os.Exit(cli.Run(context.Background(), cli.Options{Args: os.Args[1:], Streams: console.System(), Env: os.Getenv, Version: "v1.2.3", Now: now}))
		},
	})
}

// TestScripts runs testdata/script: the program as people call it. $URL is a
// coordinator that stands still; "coordinator FLEET" starts a real one.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			still := httptest.NewServer(newStill())
			env.Defer(still.Close)
			env.Setenv("URL", still.URL)
			expiring := httptest.NewServer(noticing(newStill()))
			env.Defer(expiring.Close)
			env.Setenv("EXPIRING", expiring.URL)
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"coordinator": startCoordinator,
			"exits":       exits,
			"blob":        blob,
			"flip":        flip,
		},
	})
}

// startCoordinator is "coordinator FLEET DATA": a real one, until the script ends.
func startCoordinator(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: coordinator FLEET DATA")
	}
	ctx, cancel := context.WithCancel(context.Background())
	serving, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- coordinator.Run(ctx, coordinator.Options{
			Version: "v1.2.3", Fleet: ts.MkAbs(args[0]), Data: ts.MkAbs(args[1]), Listen: "127.0.0.1:0", Tick: 50 * time.Millisecond, Report: time.Second,
			Logger: slog.New(slog.DiscardHandler), Serving: func(coordinator.Address) { close(serving) },
		})
	}()
	select {
	case <-serving:
	case err := <-ended:
		cancel()
		ts.Fatalf("coordinator: %v", err)
	}
	ts.Defer(func() {
		cancel()
		if err := <-ended; err != nil {
			ts.Logf("coordinator: %v", err)
		}
	})
}

// exits is "exits CODE modelfleet ...": the program must end with just this code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		code, ok := strings.CutPrefix(err.Error(), "exit status ")
		if !ok {
			ts.Fatalf("%v", err)
		}
		got, _ = strconv.Atoi(code)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// blob is "blob FILE BYTES": a file of that many bytes that do not compress.
func blob(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	b := make([]byte, n)
	x := uint64(n)
	for i := range b {
		x = x*6364136223846793005 + 1442695040888963407
		b[i] = byte(x >> 56)
	}
	path := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
	ts.Check(os.WriteFile(path, b, 0o644))
}

// flip is "flip GLOB OFFSET": somebody changes one byte.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	at, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	paths, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	flipped := false
	for _, p := range paths {
		b, err := os.ReadFile(p)
		ts.Check(err)
		if int64(len(b)) > at {
			b[at] ^= 1
			ts.Check(os.Chmod(p, 0o644))
			ts.Check(os.WriteFile(p, b, 0o644))
			flipped = true
		}
	}
	if !flipped {
		ts.Fatalf("no file to flip a byte of: %v", paths)
	}
}

// moment is when the coordinator that stands still stands still.
var moment = time.Date(2026, 11, 24, 9, 41, 0, 0, time.UTC)

const stillToken = "mfo1.still"

// still is a coordinator that stands still: pkg/api over values.
type still struct {
	mu      sync.Mutex
	rollout api.RolloutInfo
	log     []api.AuditEntry
}

func newStill() http.Handler {
	s := &still{rollout: stillRollout()}
	s.note("ana", "rollout.started", "r4-demo", "scorer@1.4.0")
	s.note("coordinator", "rollout.decided", "r4-demo", "stage lab exposes 3 of 52 members")
	s.note("coordinator", "rollout.verdict", "r4-demo", "every gate passed")
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/fleet", answer(func(*http.Request) (any, error) { return api.FleetInfo{Name: "orchard"}, nil }))
	mux.HandleFunc("GET /v1/members", answer(s.members))
	mux.HandleFunc("GET /v1/members/{id}", answer(s.member))
	mux.HandleFunc("GET /v1/members/{id}/explain", answer(func(r *http.Request) (any, error) {
		m, err := s.member(r)
		if err != nil {
			return nil, err
		}
		return api.Explanation{Member: m.(api.MemberInfo), Lines: []string{"directive #17 is the newest it has acted on", "rollout r4-demo exposes it"}}, nil
	}))
	mux.HandleFunc("GET /v1/releases", answer(func(*http.Request) (any, error) {
		return []api.ReleaseInfo{{Release: s.rollout.Release, Admitted: moment.Add(-time.Hour), By: "ana", Members: 2, Metrics: map[string]float64{"accuracy": 0.962}}}, nil
	}))
	mux.HandleFunc("GET /v1/rollouts", answer(func(*http.Request) (any, error) { return []api.RolloutInfo{s.rollout}, nil }))
	mux.HandleFunc("GET /v1/rollouts/{id}", answer(s.one))
	mux.HandleFunc("POST /v1/rollouts", answer(s.plan))
	mux.HandleFunc("POST /v1/rollouts/{id}/{command}", answer(s.command))
	mux.HandleFunc("GET /v1/audit", answer(s.audit))
	mux.HandleFunc("GET /v1/tokens", answer(func(*http.Request) (any, error) { return nil, nil }))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+stillToken {
			api.WriteProblem(w, fault.Newf(fault.Denied, "authenticate", "", "the token is not an operator's").WithHint("ask an admin for one"))
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// noticing is a coordinator whose root runs out.
func noticing(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(api.NoticeHeader, "root expires in 27 days, on 2026-12-21; sign it anew with the root keys: `modelfleet key renew root`")
		next.ServeHTTP(w, r)
	})
}

func answer(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := f(r)
		if err != nil {
			api.WriteProblem(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v) // the client tells of what did not arrive
	}
}

func (s *still) note(actor, action, subject, reason string) {
	e := ledger.Entry{At: moment.Add(time.Duration(len(s.log)) * time.Second), Actor: actor, Action: action, Subject: subject, Reason: reason}
	s.log = append(s.log, api.AuditEntry{Index: uint64(len(s.log) + 1), Entry: e})
}

func (s *still) fleet() []api.MemberInfo {
	one := func(id fleet.MemberID, site, runs, should string, phase fleet.Phase) api.MemberInfo {
		return api.MemberInfo{
			Facts: fleet.Facts{ID: id, Kind: fleet.Device, Group: "default", Labels: fleet.Labels{"site": site}, Enrolled: moment.Add(-48 * time.Hour), Agent: "0.1.0", Platform: "linux/arm64"},
			Cell:  site + "/0", Seen: moment.Add(-4 * time.Second), Via: "gossip", Directive: 17, Freshness: "FRESH", RSS: 13 << 20,
			Models: []api.ModelStatus{{Model: "scorer", Running: runs, Target: should, Phase: phase, Arm: "exposed", Rollout: "r4-demo", Reason: "exposed to scorer@1.4.0 by rollout r4-demo", Requests: 1200, Errors: 12}},
		}
	}
	down := one("bremen-05", "bremen", "scorer@1.2.0", "scorer@1.4.0", fleet.Downloading)
	st := &down.Models[0]
	st.BytesDone, st.BytesTotal, st.Rate, st.Left = 9<<20, 18<<20, 1<<20, fleet.Duration(9*time.Second)
	st.BytesFrom = &api.Sources{Copy: 1 << 20, Delta: 2 << 20, Peer: 5 << 20, Bucket: 1 << 20}
	down.Delivery = &api.DeliveryInfo{From: *st.BytesFrom, Wire: 1 << 20, Damaged: 1, Liars: 1, Liar: "bremen-06"}
	cut := one("bremen-06", "bremen", "scorer@1.2.0", "scorer@1.4.0", fleet.Offered)
	cut.Models[0].Failure, cut.Models[0].FailureCode, cut.Models[0].Failing = fleet.TransportFailure, "network", moment.Add(-12*time.Minute)
	locked, revoked := one("dover-01", "dover", "scorer@1.4.0", "scorer@1.4.0", fleet.Soaking), one("dover-02", "dover", "scorer@1.4.0", "scorer@1.4.0", fleet.Healthy)
	locked.Locked, revoked.Revoked = "certificate 1f0c2a9b77d1 of generation 3 was shown after 90be41d2c2a7 of generation 4 was in use: the identity was copied", true
	gone := one("essen-01", "essen", "scorer@1.3.0", "scorer@1.3.0", fleet.Healthy) // stable, and delisted
	gone.Models[0].Revoked = "delisted by its publisher"
	return []api.MemberInfo{down, cut, one("cork-07", "cork", "scorer@1.4.0", "scorer@1.4.0", fleet.Healthy), locked, revoked, gone}
}

func (s *still) members(r *http.Request) (any, error) {
	sel, err := fleet.ParseSelector(r.FormValue("selector"))
	if err != nil {
		return nil, err
	}
	out := []api.MemberInfo{}
	for _, m := range s.fleet() {
		if sel.Matches(m.Facts) {
			out = append(out, m)
		}
	}
	return out, nil
}

func (s *still) member(r *http.Request) (any, error) {
	for _, m := range s.fleet() {
		if string(m.Facts.ID) == r.PathValue("id") {
			return m, nil
		}
	}
	return nil, fault.Newf(fault.NotFound, "find member", r.PathValue("id"), "it is not enrolled").WithHint("list them with `modelfleet members list`")
}

func stillRollout() api.RolloutInfo {
	rel := fleet.Release{Team: "vision", Model: "scorer", Version: "1.4.0", Counter: 4, Variants: []fleet.Variant{{Name: "default", Root: fleet.DigestOf([]byte("v4")), Size: 18_400_256}}}
	return api.RolloutInfo{
		ID: "r4-demo", Release: rel, From: "scorer@1.2.0", Group: "default", State: "Running", Reason: "stage quarter soaks: 4m10s of 10m", Author: "ana",
		Started: moment.Add(-14 * time.Minute), Stage: 1, Population: 52, EverExposed: 13, StillOn: 13,
		Stages: []api.StageInfo{
			{Name: "lab", State: "Passed", Target: 3, Exposed: 3, Soak: fleet.Duration(5 * time.Minute), Verdict: &api.VerdictInfo{Outcome: "pass", Reason: "every gate passed", Gates: []api.GateInfo{
				{Gate: "errors", Outcome: "pass", Reason: "1 of 3 against 4 of 49", E: 0.41, PassE: 24, Threshold: 100},
			}}},
			{Name: "quarter", State: "Soaking", Target: 13, Exposed: 13, Soak: fleet.Duration(10 * time.Minute)},
		},
		Fetching: &api.FetchingInfo{Members: 2, Done: 20 << 20, Total: 36 << 20, From: api.Sources{Peer: 16 << 20, Bucket: 4 << 20}, Rate: 2 << 20, Left: fleet.Duration(9 * time.Second)},
		Stuck:    []api.StuckInfo{{Failure: fleet.TransportFailure, Code: "network", Members: 1, Since: moment.Add(-12 * time.Minute)}},
		Exposed:  api.ArmInfo{Members: 13, Seen: 13, Requests: 10_000, Errors: 81, Right: 960, Wrong: 40, P50: fleet.Duration(2 * time.Millisecond), P95: fleet.Duration(5 * time.Millisecond)},
		Control:  api.ArmInfo{Members: 39, Seen: 38, Requests: 40_000, Errors: 392, Right: 3800, Wrong: 200, P50: fleet.Duration(2 * time.Millisecond), P95: fleet.Duration(5 * time.Millisecond)},
	}
}

func (s *still) one(r *http.Request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.PathValue("id") != string(s.rollout.ID) {
		return nil, fault.Newf(fault.NotFound, "find rollout", r.PathValue("id"), "there is none of that id").WithHint("list them with `modelfleet rollout list`")
	}
	return s.rollout, nil
}

// plan answers dry runs: of 52 members, 3 are in the lab.
func (s *still) plan(r *http.Request) (any, error) {
	var q api.RolloutRequest
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil || !q.DryRun {
		return nil, fault.New(fault.Invalid, "start rollout", "", err)
	}
	if ref := string(q.Model) + "@" + string(q.Version); ref != s.rollout.Release.Ref() {
		return nil, fault.Newf(fault.NotFound, "start rollout", ref, "no such release was admitted").WithHint("publish it")
	}
	x := api.RolloutInfo{Release: s.rollout.Release, From: s.rollout.From, Population: 52}
	for _, n := range []int{3, 49, 52} {
		x.Stages = append(x.Stages, api.StageInfo{Target: n})
	}
	return x, nil
}

// command takes pause and rollback for done at once.
func (s *still) command(r *http.Request) (any, error) {
	x, err := s.one(r)
	if err != nil {
		return nil, err
	}
	var req api.CommandRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		return nil, fault.New(fault.Invalid, "read command", "", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch api.Command(r.PathValue("command")) {
	case api.Pause:
		s.rollout.State, s.rollout.Hold, s.rollout.Reason = "Paused", req.Hold, "pause by ana: "+req.Reason
	case api.Rollback:
		s.rollout.State, s.rollout.Ended, s.rollout.Reason, s.rollout.StillOn = "RolledBack", moment, "rolled back by ana: "+req.Reason, 0
		s.rollout.Fetching, s.rollout.Stuck = nil, nil
	}
	return x, nil
}

func (s *still) audit(r *http.Request) (any, error) {
	limit, err := strconv.Atoi(r.FormValue("limit"))
	if err != nil {
		return nil, fault.New(fault.Invalid, "read limit", r.FormValue("limit"), err)
	}
	if limit < 0 {
		return s.log[max(0, len(s.log)+limit):], nil
	}
	after, _ := strconv.Atoi(r.FormValue("after"))
	from := min(after, len(s.log))
	return s.log[from:min(from+limit, len(s.log))], nil
}
