package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/infra/crash/disk"
	"github.com/modelfleet/modelfleet/infra/crash/trace"
	"github.com/modelfleet/modelfleet/pkg/artifact"
)

// Tally counts disks that were looked at after a crash.
type Tally struct {
	Tried int
	Bad   int
	What  []error // of the first few bad ones, where and what
}

// Add counts one disk, and what was wrong with it.
func (t *Tally) Add(where string, err error) {
	t.Tried++
	if err == nil {
		return
	}
	if t.Bad++; len(t.What) < 5 {
		t.What = append(t.What, fmt.Errorf("%s: %w", where, err))
	}
}

// Err is what went wrong, nil when nothing did.
func (t *Tally) Err() error {
	if t.Bad == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d bad: %w", t.Bad, t.Tried, errors.Join(t.What...))
}

// Traced runs the member's agent through an update to the n-th release under strace,
// until the release that is not needed any more is collected, and returns what it did
// to the disk.
func (m *Member) Traced(ctx context.Context, n int, log string) ([]trace.Call, error) {
	m.Wrap = trace.Flags(log, trace.Syscalls)
	defer func() { m.Wrap = nil }()
	if err := m.Start(ctx, n); err != nil {
		return nil, err
	}
	if err := m.Until(ctx, Healthy(m.World.Releases[n])); err != nil {
		return nil, err
	}
	if n >= 2 {
		if err := m.collected(ctx, m.World.Releases[n-2]); err != nil {
			return nil, err
		}
	}
	if err := m.Stop(); err != nil {
		return nil, err
	}
	f, err := os.Open(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return trace.Parse(f)
}

// collected waits until a release and the files of its own are gone.
func (m *Member) collected(ctx context.Context, r Release) error {
	files, err := artifact.FilesOf(r.Manifest)
	if err != nil {
		return err
	}
	gone := []string{filepath.Join(m.State, "store", "releases", r.Key.String())}
	for _, f := range files {
		if f.Path == "weights.bin" { // changes with each release
			gone = append(gone, filepath.Join(m.State, "store", "files", f.Digest.String()[:2], f.Digest.String()))
		}
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for _, path := range gone {
		for _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist); _, err = os.Lstat(path) {
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s was not collected: %w", path, ctx.Err())
			case <-m.ended:
				return fmt.Errorf("%w: %s", ErrEnded, m.Said())
			case <-tick.C:
			}
		}
	}
	return nil
}

// Exploration says how thoroughly the disks of an update are looked at.
type Exploration struct {
	From, To Release // of the update; the zero Release: from none
	Before   string  // the state folder before the update
	Root     string  // and where the agent that was traced had it
	Calls    []trace.Call
	Draws    int      // disks a step that chance makes, besides the four that are always made
	Step     int      // steps of the program from one to the next that is looked at; default 1
	Recover  int      // every how many-th disk is also recovered; default 1
	Start    int      // on every how many-th disk a whole agent is started instead; 0: on none
	Agent    []string // which
	Work     string   // a folder, best in memory; the first few bad disks stay in it
	Seed     uint64
}

// Explore looks at the disks that a power cut after each step of an update may
// leave, and at what a start makes of them.
func (w *World) Explore(ctx context.Context, e Exploration) (t Tally, err error) {
	d, err := disk.Load(e.Before, e.Root, e.Calls, e.Seed)
	if err != nil {
		return t, err
	}
	seen := map[[32]byte]bool{}
	for step := 0; d.Next(); step++ {
		if step%max(e.Step, 1) != 0 {
			continue
		}
		for im := range d.Crashes(e.Draws) {
			sum := im.Sum()
			if seen[sum] {
				continue
			}
			seen[sum] = true
			if err := ctx.Err(); err != nil {
				return t, err
			}
			state := filepath.Join(e.Work, "crashed")
			if err := errors.Join(os.RemoveAll(state), im.Write(state)); err != nil {
				return t, err
			}
			wrong := w.Check(state, e.From, e.To)
			switch {
			case wrong != nil:
				wrong = fmt.Errorf("as the power cut left it: %w", wrong)
			case e.Start > 0 && t.Tried%e.Start == 0:
				wrong = w.starts(ctx, state, e)
			case t.Tried%max(e.Recover, 1) == 0:
				wrong = w.recovers(ctx, state, e.To)
			}
			t.Add(d.Done(), wrong)
			if wrong != nil && len(t.What) == t.Bad {
				if err := keepBad(filepath.Join(e.Work, fmt.Sprintf("bad-%d", t.Bad)), state, im, t.What[t.Bad-1]); err != nil {
					return t, err
				}
			}
		}
	}
	return t, d.Err()
}

// keepBad lays a bad disk down for who looks into it: as the power cut left it, as
// it was when it was found bad, which is after a start if there was one, and why.
func keepBad(dir, found string, im *disk.Image, why error) error {
	if err := os.RemoveAll(dir); err != nil { // of an exploration before
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return errors.Join(
		im.Write(filepath.Join(dir, "left")),
		os.Rename(found, filepath.Join(dir, "found")),
		os.WriteFile(filepath.Join(dir, "why.txt"), []byte(why.Error()+"\n"), 0o644))
}

// recovers reports what is wrong with what a start makes of a disk.
func (w *World) recovers(ctx context.Context, state string, now Release) error {
	_, err := os.Stat(filepath.Join(state, "store", "releases", now.Key.String()))
	here := err == nil
	rec, err := w.Recover(ctx, state, now)
	if err != nil {
		return fmt.Errorf("a start does not get over it: %w", err)
	}
	if here && rec.Fetched > 0 {
		return fmt.Errorf("the release was here and %d bytes were fetched again", rec.Fetched)
	}
	if err := w.CheckVisible(state, now); err != nil {
		return fmt.Errorf("after what a start does: %w", err)
	}
	return nil
}

// starts reports what is wrong with what a whole agent makes of a disk.
func (w *World) starts(ctx context.Context, state string, e Exploration) error {
	m := &Member{World: w, State: state, Agent: e.Agent}
	n := slices.IndexFunc(w.Releases, func(r Release) bool { return r.Key == e.To.Key })
	if err := m.Start(ctx, n); err != nil {
		return err
	}
	if err := m.Until(ctx, Healthy(e.To)); err != nil {
		return errors.Join(err, m.Kill())
	}
	if err := errors.Join(m.Stop(), w.Check(state, e.To)); err != nil {
		return fmt.Errorf("after an agent was started on it: %w; it said: %s", err, m.Said())
	}
	return nil
}
