package command_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/agenttest"
	"github.com/modelfleet/modelfleet/agent/command"
	"github.com/modelfleet/modelfleet/agent/local"
)

func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = command.Main(t.Context(), "1.2.3", args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestMistakesAreNamedWithTheNextMove(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{}, 2, "give -state DIR"},
		{[]string{"-state", empty, "-labels", "class"}, 2, "for example: -labels"},
		{[]string{"-state", empty, "-id", "Not An Id"}, 2, "hint: use 1 to 63"},
		{[]string{"-state", empty, "-log-level", "loud"}, 2, "use debug, info, warn or error"},
		{[]string{"-state", empty, "-nonsense"}, 2, "-help"},
		{[]string{"-state", empty, "start"}, 2, "unexpected argument"},
		{[]string{"-state", empty}, 3, "modelfleet token create"},
		{[]string{"-state", empty, "-join-file", filepath.Join(empty, "none")}, 3, "modelfleet token create"},
		{[]string{"-state", empty, "-join", "mft1.xyz", "-id", "d"}, 2, "copy the whole token"},
		{[]string{"status", "-socket", filepath.Join(empty, "none.sock")}, 8, "is modelfleet-agent running"},
	} {
		code, _, stderr := run(t, c.args...)
		if code != c.code || !strings.Contains(stderr, c.says) {
			t.Errorf("%q: exit %d, want %d: %s", c.args, code, c.code, stderr)
		}
	}
	if code, out, _ := run(t, "-version"); code != 0 || out != "modelfleet-agent 1.2.3\n" {
		t.Errorf("version: %d %q", code, out)
	}
	if code, _, help := run(t, "-help"); code != 0 || !strings.Contains(help, "selftest-timeout") {
		t.Errorf("help: %d %s", code, help)
	}
}

// A mistake is told once, with where to read on, and not among all flags.
func TestAWrongFlagIsToldOnce(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-nonsense"}, {"status", "-nonsense"}, {"lift", "-nonsense"}} {
		code, _, stderr := run(t, args...)
		if code != 2 || strings.Count(stderr, "nonsense") != 1 || strings.Count(stderr, "\n") != 2 || !strings.Contains(stderr, "hint: see modelfleet-agent") {
			t.Errorf("%q: exit %d: %s", args, code, stderr)
		}
	}
	if code, _, help := run(t, "status", "-help"); code != 0 || !strings.Contains(help, "-socket") {
		t.Errorf("status -help: %d %s", code, help)
	}
	if _, _, help := run(t, "-help"); !strings.Contains(help, "neither serve neighbours nor fetch from them") {
		t.Errorf("help does not say what -share off means:\n%s", help)
	}
}

func TestStatusOfADeviceWithNothingAndOneDamagedFile(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "mf") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ln, err := net.Listen("unix", filepath.Join(dir, "a.sock"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(local.Listing{Member: "dev-1", Damaged: 1})
	})}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	_, out, stderr := run(t, "status", "-socket", filepath.Join(dir, "a.sock"))
	for _, want := range []string{"no model is assigned to this device yet", "1 file was found damaged"} {
		if !strings.Contains(out, want) {
			t.Errorf("status lacks %q:\n%s%s", want, out, stderr)
		}
	}
	if strings.Contains(out, "SERVES") {
		t.Errorf("an empty table:\n%s", out)
	}
}

func TestStatusShowsARunningAgent(t *testing.T) {
	t.Parallel()
	f := agenttest.New(t)
	rel := f.Publish("1.0.0", map[string]string{"weights.bin": "one"})
	f.Direct(&rel, nil, 0)
	c := f.Serve()
	socket, err := os.MkdirTemp("", "mf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(socket) })
	join := filepath.Join(t.TempDir(), "join")
	if err := os.WriteFile(join, []byte(c.Token(nil)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan int, 1)
	go func() {
		var logs bytes.Buffer
		done <- command.Main(ctx, "1.2.3", []string{"-state", t.TempDir(), "-join-file", join, "-id", "dev-1", "-labels", "class=a",
			"-socket", socket + "/a.sock", "-source", f.Bucket, "-soak", "50ms", "-report", "100ms"}, &logs, &logs)
	}()
	var out string
	for deadline := time.Now().Add(2 * time.Minute); !strings.Contains(out, "healthy"); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("status never said healthy: %s", out)
		}
		_, out, _ = run(t, "status", "-socket", socket+"/a.sock")
	}
	for _, want := range []string{"dev-1  agent 1.2.3  directive 1  fresh", "MODEL     SERVES          WANTS", "detector  detector@1.0.0"} {
		if !strings.Contains(out, want) {
			t.Errorf("status lacks %q:\n%s", want, out)
		}
	}
	if _, js, _ := run(t, "status", "-json", "-socket", socket+"/a.sock"); !strings.Contains(js, `"freshness": "fresh"`) {
		t.Errorf("json: %s", js)
	}
	stop()
	if code := <-done; code != 0 {
		t.Errorf("agent ended with %d", code)
	}
}
