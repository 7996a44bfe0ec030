package lambdasim_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"

	"github.com/modelfleet/modelfleet/functions/lambdasim"
)

// The functions under test are this binary, told by childEnv what to be.
const childEnv = "LAMBDASIM_TEST_CHILD"

func TestMain(m *testing.M) {
	switch child := os.Getenv(childEnv); {
	case child == "":
		os.Exit(m.Run())
	case strings.HasSuffix(os.Args[0], "-extension"):
		runExtension()
	default:
		runFunction(child)
	}
}

// reply is what the test function answers with.
type reply struct {
	Echo     string            `json:"echo"`
	Count    int               `json:"count"` // invocations in this process
	PID      int               `json:"pid"`
	Env      map[string]string `json:"env"`
	Request  string            `json:"request"`
	ARN      string            `json:"arn"`
	Deadline time.Time         `json:"deadline"`
}

func runFunction(child string) {
	inTemp := func(name string) string { return filepath.Join(os.Getenv("TMPDIR"), name) }
	fmt.Println("init", child)
	switch child {
	case "never-ready":
		select {}
	case "init-fails-once":
		if _, err := os.Stat(inTemp("tried")); err != nil {
			os.WriteFile(inTemp("tried"), nil, 0o600)
			os.Exit(7)
		}
	case "init-fails":
		os.Exit(7)
	}
	count := 0
	handler := func(ctx context.Context, event string) (reply, error) {
		count++
		fmt.Println("handling", event)
		switch event {
		case "error":
			return reply{}, errors.New("no such thing")
		case "panic":
			panic("went wrong")
		case "exit":
			os.Exit(3)
		case "hang":
			select {}
		case "wait":
			for { // until the test says so
				if _, err := os.Stat(inTemp("../go")); err == nil {
					break
				}
				<-time.After(time.Millisecond)
			}
		case "big":
			return reply{Echo: strings.Repeat("x", 7<<20)}, nil
		}
		lc, _ := lambdacontext.FromContext(ctx)
		deadline, _ := ctx.Deadline()
		env := map[string]string{}
		for _, kv := range os.Environ() {
			k, v, _ := strings.Cut(kv, "=")
			env[k] = v
		}
		return reply{event, count, os.Getpid(), env, lc.AwsRequestID, lc.InvokedFunctionArn, deadline}, nil
	}
	if child == "sigterm" {
		lambda.StartWithOptions(handler, lambda.WithEnableSIGTERM(func() {
			os.WriteFile(inTemp("../terminated"), nil, 0o600)
			os.Exit(0)
		}))
	}
	lambda.Start(handler)
}

// runExtension is an external extension that writes down what it is told.
func runExtension() {
	api := "http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2020-01-01/extension/"
	req, _ := http.NewRequest(http.MethodPost, api+"register", strings.NewReader(`{"events":["INVOKE","SHUTDOWN"]}`))
	req.Header.Set("Lambda-Extension-Name", filepath.Base(os.Args[0]))
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		fmt.Println("register", err, resp)
		os.Exit(1)
	}
	id := resp.Header.Get("Lambda-Extension-Identifier")
	log, _ := os.OpenFile(filepath.Join(os.Getenv("TMPDIR"), "..", "events"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	for {
		req, _ := http.NewRequest(http.MethodGet, api+"event/next", nil)
		req.Header.Set("Lambda-Extension-Identifier", id)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			os.Exit(1)
		}
		body, _ := io.ReadAll(resp.Body)
		var event struct{ EventType, ShutdownReason string }
		json.Unmarshal(body, &event)
		fmt.Fprintln(log, event.EventType, event.ShutdownReason)
		if event.EventType == "SHUTDOWN" {
			os.Exit(0)
		}
	}
}

// patience is how long a function that does what it should may take.
const patience = time.Minute

func function(t testing.TB, child string, opts lambdasim.Options) *lambdasim.Function {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	opts.Command = []string{self}
	opts.Env = append(opts.Env, childEnv+"="+child)
	if opts.Timeout == 0 { // the machine may be loaded: only what is to be timed out is
		opts.Timeout = patience
	}
	if opts.InitTimeout == 0 {
		opts.InitTimeout = patience
	}
	if opts.TempDir == "" {
		opts.TempDir = t.TempDir()
	}
	f, err := lambdasim.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return f
}

func invoke(t testing.TB, f *lambdasim.Function, event string) (lambdasim.Response, reply) {
	t.Helper()
	resp, err := f.Invoke(t.Context(), fmt.Appendf(nil, "%q", event))
	if err != nil {
		t.Fatal(err)
	}
	var r reply
	if resp.FunctionError == "" {
		if err := json.Unmarshal(resp.Payload, &r); err != nil {
			t.Fatalf("payload %.200q: %v", resp.Payload, err)
		}
	}
	return resp, r
}

// settled waits until the function's only environment is frozen and returns it.
func settled(t testing.TB, f *lambdasim.Function) lambdasim.Environment {
	t.Helper()
	if err := f.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	envs := f.Environments()
	if len(envs) != 1 {
		t.Fatalf("%d environments, want 1", len(envs))
	}
	return envs[0]
}

func errorType(t *testing.T, resp lambdasim.Response) (kind, message string) {
	t.Helper()
	var doc struct{ ErrorType, ErrorMessage string }
	if resp.FunctionError != "Unhandled" || json.Unmarshal(resp.Payload, &doc) != nil {
		t.Fatalf("function error %q, payload %q: want an error document", resp.FunctionError, resp.Payload)
	}
	return doc.ErrorType, doc.ErrorMessage
}

// extension is this binary under the name that makes it an extension.
func extension(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "test-extension")
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	return link
}

// procState is the state letter in /proc/PID/status.
func procState(t *testing.T, pid int) string {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skip("no /proc here to ask")
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "State:"); ok {
			return strings.Fields(v)[0]
		}
	}
	return ""
}
