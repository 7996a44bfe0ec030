package crash_test

import (
	"context"
	"fmt"
	"math/rand/v2"
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
	"github.com/modelfleet/modelfleet/infra/crash/powercut"
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
// knows what is durable, the machine need not. When the test fails it stays, with
// the trace and the disks that were found bad: what a trace shows depends on how the
// agent's goroutines ran, and the next one may not show it.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "modelfleet-crash-")
	if err != nil {
		dir, err = os.MkdirTemp("", "modelfleet-crash-")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the trace, the disks before and after and those found bad are left in %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
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
		From: m.World.Releases[1], To: m.World.Releases[2], Before: m.State, Root: c.State, Calls: calls, Draws: 6, Recover: 2, Start: 60, Agent: m.Agent, Work: dir, Seed: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d disks", tally.Tried)
	if err := tally.Err(); err != nil || tally.Tried < 250 { // how many differ depends on how its goroutines ran
		t.Errorf("%d disks: %v", tally.Tried, err)
	}
}

// The same of a device's first release: it is given to applications whole or not at
// all.
func TestNoLossIsSeenOfAFirstRelease(t *testing.T) {
	t.Parallel()
	needStrace(t)
	dir := folder(t)
	w, err := crash.New(t.Context(), crash.Options{Dir: dir, Shard: 16 << 10, Size: 64 << 10, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	m, err := crash.Fresh(w, filepath.Join(dir, "state"), exe, agentArg)
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.Copy(filepath.Join(dir, "traced"))
	if err != nil {
		t.Fatal(err)
	}
	calls, err := c.Traced(t.Context(), 0, filepath.Join(dir, "trace"))
	if err != nil {
		t.Fatal(err)
	}
	tally, err := w.Explore(t.Context(), crash.Exploration{
		To: w.Releases[0], Before: m.State, Root: c.State, Calls: calls, Draws: 4, Recover: 2, Start: 60, Agent: m.Agent, Work: dir, Seed: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d disks", tally.Tried)
	if err := tally.Err(); err != nil || tally.Tried < 100 {
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
			From: m.World.Releases[1], To: m.World.Releases[2], Before: m.State, Root: c.State, Calls: kept, Draws: 2, Recover: 1 << 30, Work: dir, Seed: 1,
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

// A kill, or an error, at system calls spread over an update: whatever happens the
// disk is good and the next start gets on; an error does not even end the agent.
func TestSystemCallsMayFailOrBeTheLast(t *testing.T) {
	t.Parallel()
	needStrace(t)
	dir := folder(t)
	m := enrol(t, dir, 16<<10, 160<<10)
	hits := 0
	for i, in := range []crash.Injection{
		{"openat", "signal=SIGKILL", "90"}, {"fsync", "signal=SIGKILL", "4"}, {"fsync", "signal=SIGKILL", "12"},
		{"renameat", "signal=SIGKILL", "3"}, {"renameat", "signal=SIGKILL", "8"}, {"linkat", "signal=SIGKILL", "2"},
		{"pwrite64", "signal=SIGKILL", "2"}, {"symlinkat", "signal=SIGKILL", "1"}, {"unlinkat", "signal=SIGKILL", "2"},
		{"mkdirat", "signal=SIGKILL", "1"}, {"fallocate", "signal=SIGKILL", "1"}, {"ftruncate", "signal=SIGKILL", "1"},
		{"fallocate", "error=ENOSPC", "1"}, {"pwrite64", "error=ENOSPC", "1..3"}, {"pwrite64", "error=EIO", "2"},
		{"linkat", "error=ENOSPC", "1"}, {"mkdirat", "error=EROFS", "1..2"}, {"symlinkat", "error=EROFS", "1"},
	} {
		c, err := m.Copy(filepath.Join(dir, fmt.Sprint("injected-", i)))
		if err != nil {
			t.Fatal(err)
		}
		out, err := c.Inject(t.Context(), 2, in, patience)
		if err != nil {
			t.Fatal(err)
		}
		if out.Hit {
			hits++
		}
		if !out.Updated && !(in.Kills() && out.Ended) {
			t.Errorf("%s: ended %t, hit %t: %s", in, out.Ended, out.Hit, out.Said)
		}
		if _, err := c.AfterInjection(t.Context()); err != nil {
			t.Errorf("%s: %v", in, err)
		}
		if err := os.RemoveAll(c.State); err != nil {
			t.Fatal(err)
		}
	}
	if t.Logf("%d injections came to pass", hits); hits < 9 {
		t.Errorf("only %d injections came to pass", hits)
	}
}

// A kill loses nothing that was verified: the next start fetches the rest only.
func TestAKillLosesNothingVerified(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m := enrol(t, dir, 128<<10, 16<<20)
	s, err := m.World.Serve(16 << 20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	clean, _, err := m.Undisturbed(t.Context(), s, filepath.Join(dir, "clean"))
	if err != nil {
		t.Fatal(err)
	}
	for i, share := range []float64{0.05, 0.3, 0.5, 0.7, 0.95} {
		having := crash.Having(int64(share * float64(m.World.Changed())))
		got, err := m.KillOnce(t.Context(), s, filepath.Join(dir, fmt.Sprint("killed-", i)), clean, having)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("killed with %d of %d bytes verified: %d lost, %.1f %% given out again", got.Verified, got.Needed, got.Lost(), 100*got.Share())
		// The pack and the release's papers, asked for anew, and a frame begun in each stream.
		if again := int64(6 * 128 << 10); got.Verified == 0 || got.Lost() > again {
			t.Errorf("of %d verified bytes %d were fetched again", got.Verified, got.Lost())
		}
	}
}

// The power of a real file system is cut while an agent updates on it.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	if err := powercut.Lacking("ext4"); err != nil {
		t.Skipf("SKIPPED: power cannot be cut here: %v", err)
	}
	dir := t.TempDir()
	m := enrol(t, dir, 128<<10, 16<<20)
	rig, err := powercut.New(t.Context(), powercut.Options{Dir: filepath.Join(dir, "rig"), FS: "ext4", MiB: 256})
	if err != nil {
		t.Skipf("SKIPPED: power cannot be cut here: %v", err)
	}
	defer func() {
		if err := rig.Close(); err != nil {
			t.Error(err)
		}
	}()
	s, err := m.World.Serve(5 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, takes, err := m.Undisturbed(t.Context(), s, filepath.Join(dir, "clean"))
	if err != nil {
		t.Fatal(err)
	}
	after, err := m.CutUpdate(t.Context(), rig, s, 12, takes, rand.New(rand.NewPCG(1, 1)))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range after {
		if a.Wrong != nil {
			t.Errorf("power cut after %s: %v", a.At, a.Wrong)
		}
		share, _ := a.Reused()
		t.Logf("after %5.2f s: %8d bytes verified, %8d fetched again of %d: %.1f %% reused", a.At.Seconds(), a.Verified, a.Fetched, a.Needed, 100*share)
	}
}
