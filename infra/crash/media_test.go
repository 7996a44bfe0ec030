package crash_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/infra/crash"
	"github.com/modelfleet/modelfleet/infra/crash/powercut"
)

// card is an ext4 file system in a file, mounted where a member keeps its state.
type card struct {
	t           *testing.T
	image, root string
}

func insert(t *testing.T) *card {
	t.Helper()
	if err := powercut.Lacking("ext4"); err != nil {
		t.Skipf("SKIPPED: no file system can be mounted here: %v", err)
	}
	c := &card{t, filepath.Join(t.TempDir(), "card.img"), t.TempDir()}
	if err := os.WriteFile(c.image, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(c.image, 192<<20); err != nil {
		t.Fatal(err)
	}
	c.run("mkfs.ext4", "-q", c.image)
	if out, err := exec.Command("mount", "-o", "loop", c.image, c.root).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: no file system can be mounted here: %s", out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", c.root).Run() }) // a test may have taken it out
	return c
}

func (c *card) run(name string, args ...string) {
	c.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		c.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// on copies a member onto the card.
func (c *card) on(m *crash.Member) *crash.Member {
	c.t.Helper()
	d, err := m.Copy(filepath.Join(c.root, "state"))
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

// patience is how long anything is waited for. It is long because the machine may be
// loaded; a test that works never waits for it.
const patience = 3 * time.Minute

func start(t *testing.T, m *crash.Member, n int) {
	t.Helper()
	if err := m.Start(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Kill() }) // it may have ended
}

func until(t *testing.T, m *crash.Member, want func(local.Model) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := m.Until(ctx, want); err != nil {
		t.Fatal(err)
	}
}

// serving is the condition that a release is given to applications.
func serving(r crash.Release) func(local.Model) bool {
	return func(l local.Model) bool { return l.Serving != nil && l.Serving.Ref == r.Ref() }
}

// A device comes up on a disk that is mounted read-only, as ext4 does after an
// error, gives applications what is there, and updates once it may write again.
func TestAReadOnlyDiskIsServed(t *testing.T) {
	t.Parallel()
	template := enrol(t, folder(t), 16<<10, 160<<10)
	c := insert(t)
	m, w := c.on(template), template.World
	c.run("mount", "-o", "remount,ro", c.root)
	start(t, m, 2)
	until(t, m, serving(w.Releases[1]))
	if err := w.Check(m.State, w.Releases[1]); err != nil {
		t.Error(err)
	}
	c.run("mount", "-o", "remount,rw", c.root)
	until(t, m, crash.Healthy(w.Releases[2]))
	if err := errors.Join(m.Stop(), w.Check(m.State, w.Releases[2])); err != nil {
		t.Error(err)
	}
}

// A disk that is full when a release is to come in says so, serves what it has, and
// goes on by itself when there is room.
func TestAFullFileSystemIsSaidAndOutlived(t *testing.T) {
	t.Parallel()
	template := enrol(t, folder(t), 16<<10, 160<<10)
	c := insert(t)
	m, w := c.on(template), template.World
	full := filepath.Join(c.root, "full")
	if err := exec.Command("dd", "if=/dev/zero", "of="+full, "bs=64k").Run(); err == nil {
		t.Fatal("the disk never became full")
	}
	start(t, m, 2)
	until(t, m, serving(w.Releases[1]))
	until(t, m, func(local.Model) bool { // it tries
		said := m.Said()
		return strings.Contains(said, "no space left") || strings.Contains(said, "disk has")
	})
	until(t, m, serving(w.Releases[1]))
	if err := w.Check(m.State, w.Releases[1]); err != nil {
		t.Error(err)
	}
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	until(t, m, crash.Healthy(w.Releases[2]))
}

// shutdown is ext4's and xfs's way of being gone: from now on everything is EIO.
const shutdown = 0x8004587d // EXT4_IOC_SHUTDOWN

// A card that is pulled out does not end the agent; when it is back, the agent
// begins anew on it, and updates.
func TestACardIsPulledOutAndComesBack(t *testing.T) {
	t.Parallel()
	template := enrol(t, folder(t), 16<<10, 160<<10)
	c := insert(t)
	m, w := c.on(template), template.World
	start(t, m, 1)
	until(t, m, crash.Healthy(w.Releases[1]))
	c.run("sync", "-f", c.root)
	f, err := os.Open(c.root)
	if err != nil {
		t.Fatal(err)
	}
	now := 2 // without what is only in memory
	if err := unix.IoctlSetPointerInt(int(f.Fd()), shutdown, now); err != nil {
		t.Skipf("SKIPPED: a file system cannot be shut down here: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	c.run("umount", "-l", c.root)
	before, began := len(m.Said()), time.Now()
	<-time.After(3 * time.Second)
	until(t, m, func(l local.Model) bool { return l.Name == crash.Model }) // it answers
	if n := strings.Count(m.Said()[min(before, len(m.Said())):], "\n"); float64(n) > 14*time.Since(began).Seconds() {
		t.Errorf("%d lines of log in %s", n, time.Since(began))
	}
	// It comes back as another device: the kernel still holds the one that is gone.
	c.run("cp", c.image, c.image+"2")
	c.run("mount", "-o", "loop", c.image+"2", c.root)
	select {
	case <-m.Ended():
	case <-time.After(patience):
		t.Fatalf("it goes on with a disk that is gone: %s", m.Said())
	}
	if !strings.Contains(m.Said(), "another disk was mounted") {
		t.Errorf("it ended and said: %s", m.Said())
	}
	if err := w.Check(m.State, w.Releases[1]); err != nil {
		t.Error(err)
	}
	start(t, m, 2)
	until(t, m, crash.Healthy(w.Releases[2]))
	if err := errors.Join(m.Stop(), w.Check(m.State, w.Releases[2])); err != nil {
		t.Error(err)
	}
}
