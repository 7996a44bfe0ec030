package crash_test

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/modelfleet/modelfleet/agent/command"
	"github.com/modelfleet/modelfleet/infra/crash"
	"github.com/modelfleet/modelfleet/infra/crash/trace"
)

// TestMain makes this binary the agent when it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == agentArg {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		code := command.Main(ctx, "1.0.0", os.Args[2:], os.Stdout, os.Stderr)
		stop()
		os.Exit(code)
	}
	os.Exit(m.Run())
}

const agentArg = "be-the-agent"

// folder is an empty one, in memory where the machine has such a place: the model
// knows what is durable, the machine need not.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "modelfleet-crash-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// enrol makes a world and a member that serves its second release.
func enrol(t *testing.T, folder string, shard, size int64) *crash.Member {
	t.Helper()
	w, err := crash.New(t.Context(), crash.Options{Dir: folder, Shard: shard, Size: size, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	m, err := crash.Enrol(t.Context(), w, filepath.Join(folder, "state"), exe, agentArg)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Check(m.State, w.Releases[1]); err != nil {
		t.Fatalf("the device before any crash: %v", err)
	}
	return m
}

func needStrace(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("SKIPPED: strace is not installed")
	}
	if out, err := exec.Command("strace", "-o", "/dev/null", "true").CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: strace cannot trace here: %v: %s", err, out)
	}
}

// The disk of a real agent, after each of its steps, with what was not synced lost
// in many ways: the old or the new release is served, whole, the state can be read,
// and a start gets on with it.
func TestNoLossOfWhatWasNotSyncedIsSeen(t *testing.T) {
	t.Parallel()
	needStrace(t)
	dir := folder(t)
	m := enrol(t, dir, 16<<10, 160<<10)
	c, err := m.Copy(filepath.Join(dir, "traced"))
	if err != nil {
		t.Fatal(err)
	}
	calls, err := c.Traced(t.Context(), 2, filepath.Join(dir, "trace"))
	if err != nil {
		t.Fatal(err)
	}
	tally, err := m.World.Explore(t.Context(), crash.Exploration{
		Before: m.State, Root: c.State, Calls: calls, Draws: 6, Recover: 2, Work: dir, Seed: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d disks", tally.Tried)
	if err := tally.Err(); err != nil || tally.Tried < 500 {
		t.Errorf("%d disks: %v", tally.Tried, err)
	}
}

// The same disks, had the agent synced less: the look at them must be able to find
// something.
func TestASyncLeftOutIsSeen(t *testing.T) {
	t.Parallel()
	needStrace(t)
	dir := folder(t)
	m := enrol(t, dir, 16<<10, 64<<10)
	c, err := m.Copy(filepath.Join(dir, "traced"))
	if err != nil {
		t.Fatal(err)
	}
	calls, err := c.Traced(t.Context(), 2, filepath.Join(dir, "trace"))
	if err != nil {
		t.Fatal(err)
	}
	for what, of := range map[string]string{
		"no file is synced":              ".part",
		"the state is not synced":        "/.state.json.tmp",
		"the store's folder is not":      "/store/releases",
		"the release's folders are not":  "/tree",
		"the folder of the links is not": "/models/" + string(crash.Model),
	} {
		kept := slices.DeleteFunc(slices.Clone(calls), func(c trace.Call) bool {
			return c.Name == "fsync" && strings.Contains(c.Path(0), of)
		})
		if len(kept) == len(calls) {
			t.Errorf("%s: the agent never syncs %s", what, of)
		}
		tally, err := m.World.Explore(t.Context(), crash.Exploration{
			Before: m.State, Root: c.State, Calls: kept, Draws: 2, Recover: 1 << 30, Work: dir, Seed: 1,
		})
		if err != nil {
			t.Fatal(err)
		}
		if tally.Bad == 0 {
			t.Errorf("%s: none of %d disks is bad", what, tally.Tried)
		}
		t.Logf("%s: %d of %d disks are bad", what, tally.Bad, tally.Tried)
	}
}
