package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/modelfleet/modelfleet/infra/crash/disk"
	"github.com/modelfleet/modelfleet/infra/crash/trace"
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

// Traced runs the member's agent through an update to the n-th release under strace
// and returns what it did to the disk.
func (m *Member) Traced(ctx context.Context, n int, log string) ([]trace.Call, error) {
	m.Wrap = trace.Flags(log, trace.Syscalls)
	defer func() { m.Wrap = nil }()
	if err := m.Start(ctx, n); err != nil {
		return nil, err
	}
	if err := m.Until(ctx, Healthy(m.World.Releases[n])); err != nil {
		return nil, err
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

// Exploration says how thoroughly the disks of an update are looked at.
type Exploration struct {
	Before  string // the state folder before the update
	Root    string // and where the agent that was traced had it
	Calls   []trace.Call
	Draws   int      // disks a step that chance makes, besides the four that are always made
	Step    int      // steps of the program from one to the next that is looked at; default 1
	Recover int      // every how many-th disk is also recovered; default 1
	Start   int      // on every how many-th disk a whole agent is started instead; 0: on none
	Agent   []string // which
	Work    string   // a folder, best in memory
	Seed    uint64
}

// Explore looks at the disks that a power cut after each step of an update from the
// second to the third release may leave, and at what a start makes of them.
func (w *World) Explore(ctx context.Context, e Exploration) (t Tally, err error) {
	old, now := w.Releases[1], w.Releases[2]
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
			wrong := w.Check(state, old, now)
			switch {
			case wrong != nil:
			case e.Start > 0 && t.Tried%e.Start == 0:
				wrong = w.starts(ctx, state, e.Agent)
			case t.Tried%max(e.Recover, 1) == 0:
				wrong = w.recovers(ctx, state)
			}
			t.Add(d.Done(), wrong)
		}
	}
	return t, d.Err()
}

// recovers reports what is wrong with what a start makes of a disk.
func (w *World) recovers(ctx context.Context, state string) error {
	now := w.Releases[2]
	_, err := os.Stat(filepath.Join(state, "store", "releases", now.Key.String()))
	here := err == nil
	rec, err := w.Recover(ctx, state, now)
	if err != nil {
		return fmt.Errorf("a start does not get over it: %w", err)
	}
	if here && rec.Fetched > 0 {
		return fmt.Errorf("the release was here and %d bytes were fetched again", rec.Fetched)
	}
	return w.CheckVisible(state, now)
}

// starts reports what is wrong with what a whole agent makes of a disk.
func (w *World) starts(ctx context.Context, state string, agent []string) error {
	m := &Member{World: w, State: state, Agent: agent}
	if err := m.Start(ctx, 2); err != nil {
		return err
	}
	if err := m.Until(ctx, Healthy(w.Releases[2])); err != nil {
		return errors.Join(err, m.Kill())
	}
	return errors.Join(m.Stop(), w.Check(state, w.Releases[2]))
}
