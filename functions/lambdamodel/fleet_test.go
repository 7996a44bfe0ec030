package lambdamodel_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator"
	"github.com/modelfleet/modelfleet/coordinator/cli"
	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/functions/lambdasim"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// patience is how long anything is waited for. It is long because the machine may be
// loaded; a test that works never waits for it.
const patience = 2 * time.Minute

// factory is a real fleet for tests: a bucket in a folder, a coordinator in this
// process, and the operator's commands.
type factory struct {
	t      *testing.T
	dir    string
	client *api.Client
	token  string
	stop   func() // ends the coordinator
	// answered counts the invocations that a release answered.
	answered map[string]uint64
}

func newFactory(t *testing.T, edit ...func(*coordinator.Options)) *factory {
	t.Helper()
	f := &factory{t: t, dir: t.TempDir(), answered: map[string]uint64{}}
	if err := os.Mkdir(f.path("bucket"), 0o700); err != nil {
		t.Fatal(err)
	}
	f.cli("init", "--dir", f.path("fleet"), "--name", "acme", "--team", "vision", "--bucket", "dir:"+f.path("bucket"))
	ctx, cancel := context.WithCancel(context.Background())
	serving, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		o := coordinator.Options{
			Fleet: f.path("fleet"), Data: f.path("data"), Listen: "127.0.0.1:0", Tick: 50 * time.Millisecond, Report: time.Second,
			Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Serving: func(coordinator.Address) { close(serving) },
		}
		for _, f := range edit {
			f(&o)
		}
		ended <- coordinator.Run(ctx, o)
	}()
	select {
	case <-serving:
	case err := <-ended:
		cancel()
		t.Fatalf("coordinator: %v", err)
	}
	stopped := false
	f.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("coordinator: %v", err)
		}
	}
	t.Cleanup(f.stop)
	c, err := api.LoadContext(f.path("data", "admin.context.json"))
	if err != nil {
		t.Fatal(err)
	}
	if f.client, err = c.Client(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.client.Close)
	tok, err := f.client.CreateToken(t.Context(), api.TokenRequest{Kind: fleet.Function, Uses: 20, TTL: fleet.Duration(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	f.token = tok.Text
	return f
}

func (f *factory) path(elem ...string) string {
	return filepath.Join(append([]string{f.dir}, elem...)...)
}

func (f *factory) cli(args ...string) {
	f.t.Helper()
	var out bytes.Buffer
	env := func(name string) string {
		return map[string]string{"MODELFLEET_CONTEXT": f.path("data", "admin.context.json"), "MODELFLEET_DIR": f.path("fleet")}[name]
	}
	code := cli.Run(f.t.Context(), cli.Options{Args: args, Streams: console.Streams{In: &bytes.Buffer{}, Out: &out, Err: &out}, Env: env, Version: "test"})
	if code != 0 {
		f.t.Fatalf("modelfleet %v: exit code %d\n%s", args, code, out.String())
	}
}

// publish makes a version whose one file says how the model behaves.
func (f *factory) publish(version, behaviour string) {
	f.t.Helper()
	folder := f.t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "behaviour"), []byte(behaviour), 0o600); err != nil {
		f.t.Fatal(err)
	}
	f.cli("publish", folder, "detector@"+version)
}

// rollout exposes everyone to a version; members watch it for soak.
func (f *factory) rollout(version string, soak time.Duration, health fleet.Health) fleet.RolloutID {
	f.t.Helper()
	spec, err := json.Marshal(fleet.Spec{
		Stages: []fleet.Stage{{Name: "all", Percent: 100, Soak: fleet.Duration(soak)}}, OnInconclusive: fleet.ContinueInconclusive,
		StageDeadline: fleet.Duration(time.Second), MemberSoak: fleet.Duration(soak), Health: health, BurnIn: fleet.Duration(time.Millisecond),
		Gates: []fleet.Gate{{Gate: fleet.GateFatal, Off: true}, {Gate: fleet.GateErrors, Off: true}, {Gate: fleet.GateBreaker, Off: true}},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	r, err := f.client.StartRollout(f.t.Context(), api.RolloutRequest{Model: "detector", Version: fleet.Version(version), Spec: spec})
	if err != nil {
		f.t.Fatal(err)
	}
	return r.ID
}

// function is a function of the fleet with environments in the simulator.
func (f *factory) function(env ...string) *lambdasim.Function {
	f.t.Helper()
	self, err := os.Executable()
	if err != nil {
		f.t.Fatal(err)
	}
	log := func(lambdasim.LogLine) {}
	if testing.Verbose() {
		log = func(l lambdasim.LogLine) { fmt.Fprintln(os.Stderr, l.Environment, l.Text) }
	}
	fn, err := lambdasim.New(lambdasim.Options{
		Command: []string{self}, Name: "Detect_it", TempDir: f.t.TempDir(), Timeout: patience, InitTimeout: patience, Log: log,
		Env: append([]string{
			childEnv + "=1", "MODELFLEET_TOKEN=" + f.token, "MODELFLEET_MODEL=detector", "MODELFLEET_SOURCE=" + f.path("bucket"),
			"MODELFLEET_REFRESH=20ms", "MODELFLEET_REPORT=10ms", "MODELFLEET_WINDOW=50ms", "MODELFLEET_INIT_BUDGET=50s", "MODELFLEET_LABELS=app=detect",
		}, env...),
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { fn.Close(context.Background()) })
	return fn
}

// answer is what the function said, "" when the invocation failed.
func (f *factory) invoke(fn *lambdasim.Function, event string) (answer, lambdasim.Response) {
	f.t.Helper()
	resp, err := fn.Invoke(f.t.Context(), fmt.Appendf(nil, "%q", event))
	if err != nil {
		f.t.Fatal(err)
	}
	if err := fn.Settle(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	var a answer
	if resp.FunctionError == "" {
		if err := json.Unmarshal(resp.Payload, &a); err != nil {
			f.t.Fatalf("%s: %v", resp.Payload, err)
		}
		f.answered[a.Release]++
	}
	return a, resp
}

// until invokes until the answer is as wanted.
func (f *factory) until(fn *lambdasim.Function, event, what string, want func(answer, lambdasim.Response) bool) answer {
	f.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		a, resp := f.invoke(fn, event)
		if want(a, resp) {
			return a
		}
		if time.Now().After(deadline) {
			members, _ := f.client.Members(f.t.Context(), fleet.Selector{})
			text, _ := json.MarshalIndent(members, "", " ")
			f.t.Fatalf("not in time: %s; last answer %+v, %s\n%s", what, a, resp.Payload, text)
		}
	}
}

// member is what the coordinator knows of one member's detector.
func (f *factory) member(id fleet.MemberID) (api.MemberInfo, api.ModelStatus) {
	f.t.Helper()
	info, err := f.client.Member(f.t.Context(), id)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, m := range info.Models {
		if m.Model == "detector" {
			return info, m
		}
	}
	return info, api.ModelStatus{}
}
