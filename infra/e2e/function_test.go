package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/modelfleet/modelfleet/functions/lambdasim"
	"github.com/modelfleet/modelfleet/infra/demo/train"
)

// scratch holds what tests share; [shared] removes it at the end.
var scratch = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "modelfleet-e2e") })

// trained makes the demo's three releases, once for all tests.
var trained = sync.OnceValues(func() (string, error) {
	dir, err := scratch()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, "releases")
	_, err = train.Train(context.Background(), train.Options{Dir: dir, Seed: 7, ReferenceRows: 1})
	return dir, err
})

// trainReleases is "train FOLDER": the demo's releases v1, v2 and v3 come into
// the folder.
func trainReleases(ts *testscript.TestScript, _ bool, args []string) {
	dir, err := trained()
	ts.Check(err)
	ts.Check(os.CopyFS(ts.MkAbs(args[0]), os.DirFS(dir)))
}

// reportPeriod is the function's, in the scripts.
const reportPeriod = 200 * time.Millisecond

// startFunction is "function ENVIRONMENTS NAME=VALUE...": the scorer as a Lambda
// function with at most so many environments, which start when invoked.
func startFunction(ts *testscript.TestScript, _ bool, args []string) {
	s := on(ts)
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	path, err := exec.LookPath("scorer")
	ts.Check(err)
	s.function, err = lambdasim.New(lambdasim.Options{
		Command: []string{path}, Name: "scorer", MaxEnvironments: n, Timeout: patience, InitTimeout: patience,
		Env: append(args[1:], "MODELFLEET_REPORT="+reportPeriod.String(), "MODELFLEET_INIT_BUDGET="+(patience/2).String()),
	})
	ts.Check(err)
}

// invoke is "invoke TIMES SITE": the function scores readings of a site, one
// after the other, and what it answered last is printed. With "!", it must answer
// with an error each time.
func invoke(ts *testscript.TestScript, neg bool, args []string) {
	s := on(ts)
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var r lambdasim.Response
	for range n {
		r = s.invokeOnce(ctx, ts, args[1])
		if failed := r.FunctionError != ""; failed != neg {
			ts.Fatalf("the function answered %s", r.Payload)
		}
	}
	ts.Check(s.function.Settle(ctx))
	all := s.function.Environments()
	fmt.Fprintf(ts.Stdout(), "%s\n%s of %d, cold=%t, now %s\n", r.Payload, r.Environment, len(all), r.Cold, all[len(all)-1].Status)
}

// counted is "counted MEMBER RELEASE": the coordinator comes to count every
// invocation that the release has answered, and none twice, though each report says
// again what those before it said. Some more are made meanwhile: a frozen environment
// reports nothing, and one that runs for moments may be a few behind.
func counted(ts *testscript.TestScript, _ bool, args []string) {
	s := on(ts)
	known, asked, due := -1, time.Now(), s.answered[args[1]]
	came := until(func() bool {
		out, err := s.run(ts, []string{"modelfleet", "members", "describe", args[0], "-o", "json"})
		ts.Check(err)
		running, err := lookup(out, "models.running")
		ts.Check(err)
		requests, err := lookup(out, "models.requests")
		ts.Check(err)
		if len(running) == 1 && running[0] == args[1] {
			known, err = strconv.Atoi(requests[0])
			ts.Check(err)
		}
		if known > s.answered[args[1]] {
			ts.Fatalf("the coordinator counts %d requests, the release answered %d", known, s.answered[args[1]])
		}
		if known >= due {
			return true
		}
		// A report is sent beside an invocation once its period has passed since the last.
		if time.Since(asked) > 2*reportPeriod {
			asked = time.Now()
			s.invokeOnce(context.Background(), ts, "hall-1")
		}
		return false
	})
	if !came {
		ts.Fatalf("the coordinator counts %d requests, the release had answered %d, and %d since", known, due, s.answered[args[1]]-due)
	}
}

// invokeOnce has the function score one reading, and counts the answer.
func (s *stage) invokeOnce(ctx context.Context, ts *testscript.TestScript, site string) lambdasim.Response {
	next := train.NewStream(1, site).Next()
	event, err := json.Marshal(map[string]any{"regime": next.Regime, "features": next.Values})
	ts.Check(err)
	r, err := s.function.Invoke(ctx, event)
	ts.Check(err)
	var reply struct{ Release string }
	if r.FunctionError == "" && json.Unmarshal(r.Payload, &reply) == nil {
		s.answered[reply.Release]++
	}
	return r
}
