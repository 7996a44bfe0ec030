package e2e_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/modelfleet/modelfleet/infra/proctest"
	"github.com/modelfleet/modelfleet/pkg/api"
)

const (
	everyone = `
stages: [{name: all, percent: 100, soak: 1s}]
burnIn: 300ms
memberSoak: 500ms
stageDeadline: 30s
onInconclusive: continue
`
	staged = `
stages:
  - {name: lab, selector: ring=lab, soak: 20s}
  - {name: all, percent: 100, soak: 20s}
burnIn: 500ms
memberSoak: 5s
health: {failStreak: 5, restarts: 2}
stageDeadline: 30s
onFail: rollback
`
	slow = `
stages:
  - {name: lab, selector: ring=lab, soak: 1s}
  - {name: half, percent: 50, soak: 1h}
  - {name: all, percent: 100, soak: 1h, control: 5}
gates: [{gate: errors, tolerate: 50%}]
burnIn: 300ms
memberSoak: 500ms
stageDeadline: 10s
onInconclusive: continue
`
)

// realFleet is a coordinator, an S3 server and devices with their applications.
type realFleet struct {
	dir, url, token string
	env             []string
	programs        proctest.Group
}

const devices = 8

func startFleet(t *testing.T) *realFleet {
	t.Helper()
	f := &realFleet{dir: t.TempDir()}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(f.programs.Logs(tailLines))
		}
		f.programs.End(syscall.SIGKILL, patience)
	})
	f.env = append(os.Environ(), "HOME="+f.dir, "MODELFLEET_DIR=fleet", "MODELFLEET_CONTEXT=data/admin.context.json")
	listen, err := proctest.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	bucket := filepath.Join(f.dir, "bucket")
	f.url = "https://" + listen
	if err := os.Mkdir(bucket, 0o755); err != nil {
		t.Fatal(err)
	}
	f.run(t, "init", "--dir", "fleet", "--name", "orchard", "--team", "vision", "--bucket", "dir:"+bucket)
	f.start(t, "coordinator", "modelfleet-coordinator", "-fleet", "fleet", "-data", "data", "-listen", listen, "-tick", "200ms", "-report", "500ms")
	f.until(t, "url="+f.url, "context", "show")
	c, err := api.LoadContext(filepath.Join(f.dir, "data", "admin.context.json"))
	if err != nil {
		t.Fatal(err)
	}
	f.token = c.Token
	token := f.run(t, "token", "create", "--uses", fmt.Sprint(devices))
	sockets, err := os.MkdirTemp("", "mf") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	for i := range devices {
		id, ring := fmt.Sprintf("hall-%d-cam-%02d", i%2+1, i/2+1), "field"
		if i < 2 {
			ring = "lab"
		}
		socket := filepath.Join(sockets, fmt.Sprint(i))
		f.start(t, id, "modelfleet-agent", "-state", id, "-join", token, "-id", id, "-labels", fmt.Sprintf("class=jetson,site=hall-%d,ring=%s", i%2+1, ring),
			"-socket", socket, "-source", bucket, "-report", "500ms", "-window", "500ms", "-soak", "500ms", "-retry", "1s")
		f.start(t, id+"-app", "device", "supervise", "-socket", socket, "-site", fmt.Sprintf("hall-%d", i%2+1), "-seed", fmt.Sprint(100+i), "-rate", "40", "-report", "500ms")
	}
	if _, err := trained(); err != nil { // while they come up
		t.Fatal(err)
	}
	f.until(t, fmt.Sprintf("%d.freshness=fresh", devices-1), "members", "list")
	return f
}

// start runs a program in the fleet's folder until the test ends.
func (f *realFleet) start(t *testing.T, name string, args ...string) {
	t.Helper()
	p := &proctest.Program{Name: name, Args: args, Env: f.env, Dir: f.dir, Log: filepath.Join(f.dir, name+".log")}
	if err := f.programs.Start(p); err != nil {
		t.Fatal(err)
	}
}

// try runs a command of the operator's to its end.
func (f *realFleet) try(args ...string) ([]byte, error) {
	out, _, err := proctest.Run(context.Background(), f.dir, f.env, append([]string{"modelfleet"}, args...)...)
	return out, err
}

// run is try, and must work; it returns the one line that was printed.
func (f *realFleet) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := f.try(args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// until waits until a condition holds of what the command prints as JSON.
func (f *realFleet) until(t *testing.T, wanted string, args ...string) {
	t.Helper()
	c, ok := parseCondition(wanted)
	if !ok {
		t.Fatalf("%q is no condition", wanted)
	}
	var last []byte
	var err error
	came := until(func() bool {
		if last, err = f.try(append(args, "-o", "json")...); err != nil {
			return false
		}
		var held bool
		held, err = c.holds(last)
		return held
	})
	if !came {
		t.Fatalf("it never came to %s: %v; last:\n%.4000s", wanted, err, last)
	}
}

// first is the first value at the path of what the command prints as JSON.
func (f *realFleet) first(t *testing.T, path string, args ...string) string {
	t.Helper()
	values, err := lookup([]byte(f.run(t, append(args, "-o", "json")...)), path)
	if err != nil || len(values) == 0 {
		t.Fatalf("there is no %s: %v", path, err)
	}
	return values[0]
}

func (f *realFleet) publish(t *testing.T, folder, version string) {
	t.Helper()
	dir, err := trained()
	if err != nil {
		t.Fatal(err)
	}
	f.run(t, "publish", filepath.Join(dir, folder), "service-needed@"+version, "--metric", "accuracy=0.93")
}

func (f *realFleet) file(t *testing.T, name, content string) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// settle rolls a version out and waits until it ended in this state.
func (f *realFleet) settle(t *testing.T, version, policy, state string) (rollout string) {
	t.Helper()
	rollout = f.run(t, "rollout", "start", "service-needed@"+version, "-f", f.file(t, version+".yaml", policy))
	f.until(t, "state="+state, "rollout", "status", rollout)
	return rollout
}
