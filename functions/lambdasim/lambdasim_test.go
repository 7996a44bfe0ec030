package lambdasim_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/functions/lambdasim"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

func TestAWarmEnvironmentIsReusedAndSeesWhatLambdaSets(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var lines []string
	log := func(l lambdasim.LogLine) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, l.Text)
	}
	f := function(t, "echo", lambdasim.Options{Name: "scorer", MemoryMB: 512, Handler: "main", Log: log})
	first, r1 := invoke(t, f, "a")
	second, r2 := invoke(t, f, "b")
	if !first.Cold || first.Init <= 0 || second.Cold || second.Init != 0 {
		t.Errorf("cold %v %v then %v %v", first.Cold, first.Init, second.Cold, second.Init)
	}
	if r1.Echo != "a" || r2.Echo != "b" || r2.Count != 2 || r1.PID != r2.PID {
		t.Errorf("replies %+v, %+v: want one process that counts", r1, r2)
	}
	if r2.Request != second.RequestID || r2.ARN != f.ARN() || time.Until(r2.Deadline) > patience || r2.Deadline.Before(r1.Deadline) {
		t.Errorf("context: request %s arn %s deadline %s", r2.Request, r2.ARN, r2.Deadline)
	}
	for k, want := range map[string]string{
		"AWS_LAMBDA_FUNCTION_NAME": "scorer", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512", "_HANDLER": "main",
		"AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand", "AWS_REGION": "us-east-1",
	} {
		if r1.Env[k] != want {
			t.Errorf("%s = %q, want %q", k, r1.Env[k], want)
		}
	}
	if _, leaked := r1.Env["HOME"]; leaked {
		t.Error("the function inherited our environment")
	}
	settled(t, f)
	f.ReleaseIdle() // the end of a process is the end of its log
	mu.Lock()
	defer mu.Unlock()
	if got := strings.Join(lines, ","); got != "init echo,handling a,handling b" {
		t.Errorf("log %q", got)
	}
}

func TestIdleProcessesAreStoppedByTheKernel(t *testing.T) {
	t.Parallel()
	f := function(t, "echo", lambdasim.Options{Extensions: []string{extension(t)}})
	_, r := invoke(t, f, "a")
	env := settled(t, f)
	if env.Status != lambdasim.Frozen || env.PID != r.PID {
		t.Fatalf("environment %+v, want frozen pid %d", env, r.PID)
	}
	if state := procState(t, env.PID); state != "T" {
		t.Errorf("process state %q, want T", state)
	}
	if _, r = invoke(t, f, "b"); r.Count != 2 {
		t.Errorf("count %d after the thaw, want 2", r.Count)
	}
}

func TestParallelInvocationsScaleOutAndThenThrottle(t *testing.T) {
	t.Parallel()
	temp := t.TempDir()
	f := function(t, "echo", lambdasim.Options{MaxEnvironments: 3, TempDir: temp})
	var wg sync.WaitGroup
	pids := make([]int, 3)
	for i := range pids {
		wg.Go(func() { _, r := invoke(t, f, "wait"); pids[i] = r.PID })
	}
	for len(f.Environments()) < 3 { // each waiter takes its own at once
		select {
		case <-t.Context().Done():
			t.Fatal("no three environments")
		case <-time.After(time.Millisecond):
		}
	}
	if _, err := f.Invoke(t.Context(), []byte(`"x"`)); !fault.Is(err, fault.Exhausted) {
		t.Errorf("fourth invocation: %v, want it throttled", err)
	}
	if err := os.WriteFile(filepath.Join(temp, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if pids[0] == pids[1] || pids[1] == pids[2] || pids[0] == pids[2] {
		t.Errorf("pids %v, want three processes", pids)
	}
}

func TestWhatTheFunctionDoesWrongIsAnsweredAsAWSDoes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ event, kind, message string }{
		{"error", "errorString", "no such thing"},
		{"panic", "string", "went wrong"},
		{"exit", "Runtime.ExitError", "Runtime exited with error: exit status 3"},
		{"hang", "Sandbox.Timedout", "Task timed out after 5.00 seconds"},
		{"big", "Function.ResponseSizeTooLarge", "exceeded maximum"},
	} {
		t.Run(c.event, func(t *testing.T) {
			t.Parallel()
			f := function(t, "echo", lambdasim.Options{Timeout: enough(c.event)})
			resp, _ := invoke(t, f, c.event)
			if kind, message := errorType(t, resp); kind != c.kind || !strings.Contains(message, c.message) {
				t.Errorf("%s: %s, want %s: %s", kind, message, c.kind, c.message)
			}
			if err := f.Settle(t.Context()); err != nil { // an environment that still ends is not free
				t.Fatal(err)
			}
			// Whatever happened, the next invocation is served.
			again, r := invoke(t, f, "again")
			if r.Echo != "again" || again.Environment != resp.Environment {
				t.Errorf("after it: %+v in %s, want the same environment to serve", r, again.Environment)
			}
			if survives := c.event == "error"; survives == again.Cold {
				t.Errorf("cold %v after %s", again.Cold, c.event)
			}
		})
	}
}

// enough is the timeout of a function that is given this event: some time for one
// that hangs, so that others it answers in between are not cut off.
func enough(event string) time.Duration {
	if event == "hang" {
		return 5 * time.Second
	}
	return patience
}

func TestAFailedInitIsRepeatedInsideTheInvocation(t *testing.T) {
	t.Parallel()
	f := function(t, "init-fails-once", lambdasim.Options{})
	if _, r := invoke(t, f, "a"); r.Echo != "a" {
		t.Errorf("reply %+v", r)
	}
	if env := settled(t, f); env.Starts != 2 {
		t.Errorf("%d starts, want 2", env.Starts)
	}
}

func TestInitThatNeverSucceeds(t *testing.T) {
	t.Parallel()
	for child, want := range map[string]string{"init-fails": "Runtime.ExitError", "never-ready": "Sandbox.Timedout"} {
		var o lambdasim.Options
		if child == "never-ready" {
			o.InitTimeout, o.Timeout = 200*time.Millisecond, 200*time.Millisecond
		}
		f := function(t, child, o)
		resp, _ := invoke(t, f, "a")
		if kind, _ := errorType(t, resp); kind != want {
			t.Errorf("%s: %s, want %s", child, kind, want)
		}
		if err := f.Provision(t.Context(), 2); err == nil {
			t.Errorf("%s: provisioned", child)
		}
	}
}

func TestExtensionsHearOfInvocationsAndOfTheEnd(t *testing.T) {
	t.Parallel()
	for event, want := range map[string]string{
		"a":    "INVOKE \nINVOKE \nSHUTDOWN spindown\n",
		"hang": "INVOKE \nINVOKE \nSHUTDOWN timeout\n",
		"exit": "INVOKE \nINVOKE \nSHUTDOWN failure\n",
	} {
		temp := t.TempDir()
		f := function(t, "echo", lambdasim.Options{Extensions: []string{extension(t)}, TempDir: temp, Timeout: enough(event)})
		invoke(t, f, "first")
		invoke(t, f, event)
		if err := f.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.ReleaseIdle()
		got, err := os.ReadFile(filepath.Join(temp, "events"))
		if err != nil || string(got) != want {
			t.Errorf("%s: events %q %v, want %q", event, got, err, want)
		}
	}
}

func TestSIGTERMComesOnlyToThoseWhoRegistered(t *testing.T) {
	t.Parallel()
	for child, want := range map[string]bool{"sigterm": true, "echo": false} {
		temp := t.TempDir()
		f := function(t, child, lambdasim.Options{TempDir: temp})
		_, r := invoke(t, f, "a")
		settled(t, f)
		if n := f.ReleaseIdle(); n != 1 || len(f.Environments()) != 0 {
			t.Errorf("%s: released %d", child, n)
		}
		if _, err := os.Stat(filepath.Join(temp, "terminated")); (err == nil) != want {
			t.Errorf("%s: SIGTERM handled %v, want %v", child, err == nil, want)
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", r.PID)); err == nil {
			t.Errorf("%s: the process is still there", child)
		}
	}
}

func TestProvisionedEnvironmentsAreWarm(t *testing.T) {
	t.Parallel()
	f := function(t, "echo", lambdasim.Options{})
	if err := f.Provision(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	a, r := invoke(t, f, "a")
	b, _ := invoke(t, f, "b")
	if a.Cold || b.Cold || a.Environment == b.Environment {
		t.Errorf("cold %v %v in %s %s, want two warm ones in turn", a.Cold, b.Cold, a.Environment, b.Environment)
	}
	if got := r.Env["AWS_LAMBDA_INITIALIZATION_TYPE"]; got != "provisioned-concurrency" {
		t.Errorf("initialization type %q", got)
	}
}

func TestCallerWhoLeavesDoesNotStopTheInvocation(t *testing.T) {
	t.Parallel()
	temp := t.TempDir()
	f := function(t, "echo", lambdasim.Options{TempDir: temp})
	invoke(t, f, "warm")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Invoke(ctx, []byte(`"wait"`)); !fault.Is(err, fault.Canceled) {
		t.Fatalf("error %v", err)
	}
	if err := os.WriteFile(filepath.Join(temp, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	settled(t, f)
	if _, r := invoke(t, f, "after"); r.Count != 3 {
		t.Errorf("count %d, want 3", r.Count)
	}
}

func TestBadOptionsAndClosedFunctionsAreRefused(t *testing.T) {
	t.Parallel()
	for _, command := range [][]string{nil, {"/no/such/program"}, {t.TempDir()}} {
		if _, err := lambdasim.New(lambdasim.Options{Command: command}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%v: %v", command, err)
		}
	}
	f := function(t, "echo", lambdasim.Options{})
	if err := f.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Invoke(t.Context(), nil); !fault.Is(err, fault.Denied) {
		t.Errorf("invoke after close: %v", err)
	}
}

// TestTheAPIRefusesNonsense speaks to the API as a confused runtime would.
func TestTheAPIRefusesNonsense(t *testing.T) {
	t.Parallel()
	f := function(t, "echo", lambdasim.Options{})
	_, r := invoke(t, f, "a")
	settled(t, f)
	base := "http://" + r.Env["AWS_LAMBDA_RUNTIME_API"]
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/2018-06-01/runtime/invocation/none/response", "{}", 400},
		{"POST", "/2018-06-01/runtime/invocation/" + r.Request + "/response", "{}", 400}, // answered before
		{"POST", "/2020-01-01/extension/register", "{}", 400},
		{"GET", "/2020-01-01/extension/event/next", "", 403},
		{"PUT", "/2022-07-01/telemetry", "{}", 403},
		{"GET", "/2018-06-01/runtime/nothing", "", 404},
	} {
		req, _ := http.NewRequest(c.method, base+c.path, bytes.NewBufferString(c.body))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, resp.StatusCode, c.status)
		}
	}
}

func BenchmarkWarm(b *testing.B) {
	f := function(b, "echo", lambdasim.Options{})
	invoke(b, f, "a")
	for b.Loop() {
		invoke(b, f, "b")
		if err := f.Settle(b.Context()); err != nil { // freeze is part of the price
			b.Fatal(err)
		}
	}
}

func BenchmarkCold(b *testing.B) {
	f := function(b, "echo", lambdasim.Options{})
	for b.Loop() {
		invoke(b, f, "a")
		if err := f.Settle(b.Context()); err != nil {
			b.Fatal(err)
		}
		f.ReleaseIdle()
	}
}
