// Package crash measures what is left of a member's disk, and of its download, when
// it is stopped in the middle of an update: by every loss of what was not synced
// that a model disk can think of, at its system calls, by kills and by power cuts.
// Each disk is looked at whole and then recovered; see infra/crash.
//
// The anchor is a fetch that writes a temporary file and renames it, without a
// sync, as s5cmd and most downloaders do, under power cuts of the same file system.
package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/infra/bench/figure"
	"github.com/modelfleet/modelfleet/infra/crash"
)

// size is how much is tried.
type size struct {
	draws  int   // model disks a step by chance
	kills  int   // at system calls
	errs   int   // failing system calls
	cuts   int   // of the power
	random int   // kills at random moments
	large  int64 // MiB of the file that kills update; a quarter of it for power cuts
}

// bench is one benchmark under way.
type bench struct {
	o     figure.Options
	n     size
	agent string
	rng   *rand.Rand
	out   []figure.Figure
}

// Run measures and returns the figures. What the machine cannot do is skipped, and
// said so. A bad disk is an error beside the figures: the promise is that there is none.
func Run(ctx context.Context, o figure.Options) ([]figure.Figure, error) {
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	b := &bench{o: o, n: size{30, 1000, 120, 200, 100, 128}, rng: rand.New(rand.NewPCG(1, 1)), agent: filepath.Join(o.Work, "modelfleet-agent")}
	if o.Quick {
		b.n = size{4, 40, 12, 12, 6, 32}
	}
	build := exec.CommandContext(ctx, "go", "build", "-o", b.agent, "./agent/cmd/modelfleet-agent")
	build.Dir = o.Root
	if msg, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the agent: %w: %s", err, msg)
	}
	var bad []error
	for _, part := range []func(context.Context) error{b.model, b.systemCalls, b.kills, b.power, b.anchor} {
		if err := part(ctx); err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			o.Logf("BAD: %v", err)
			bad = append(bad, err)
		}
	}
	return b.out, errors.Join(bad...)
}

func (b *bench) figure(name string, value float64, unit string) {
	b.out = append(b.out, figure.Figure{Name: "crash " + name, Value: value, Unit: unit})
}

// tally adds how many were tried and how many were bad.
func (b *bench) tally(what string, t crash.Tally) error {
	b.figure(what, float64(t.Tried), "tried")
	b.figure(what+", bad", float64(t.Bad), fmt.Sprintf("of %d", t.Tried))
	b.o.Logf("%s: %d tried, %d bad", what, t.Tried, t.Bad)
	return t.Err()
}

// shares adds the spread of shares.
func (b *bench) shares(what string, shares []float64) {
	slices.Sort(shares)
	if len(shares) == 0 {
		return
	}
	b.o.Logf("%s: median %.1f %%, from %.1f to %.1f", what, 100*figure.Median(shares), 100*shares[0], 100*shares[len(shares)-1])
	b.figure(what+", least", 100*shares[0], "%")
	b.figure(what+", median", 100*figure.Median(shares), "%")
	b.figure(what+", 95th percentile", 100*shares[(len(shares)-1)*95/100], "%")
	b.figure(what+", greatest", 100*shares[len(shares)-1], "%")
}

// place makes a world with a member in a folder of its own.
func (b *bench) place(ctx context.Context, memory bool, shard, bytes int64) (m *crash.Member, done func() error, err error) {
	parent := b.o.Work
	if fi, err := os.Stat("/dev/shm"); memory && err == nil && fi.IsDir() {
		parent = "/dev/shm"
	}
	dir, err := os.MkdirTemp(parent, "modelfleet-crash-")
	if err != nil {
		return nil, nil, err
	}
	w, err := crash.New(ctx, crash.Options{Dir: dir, Shard: shard, Size: bytes, Seed: 1})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	done = func() error { return errors.Join(w.Close(), os.RemoveAll(dir)) }
	if m, err = crash.Enrol(ctx, w, filepath.Join(dir, "state"), b.agent); err != nil {
		return nil, nil, errors.Join(err, done())
	}
	return m, done, nil
}

// hasStrace says so when it is not there.
func (b *bench) hasStrace(what string) bool {
	if out, err := exec.Command("strace", "-o", "/dev/null", "true").CombinedOutput(); err != nil {
		b.o.Logf("SKIPPED: %s: strace cannot trace here: %v %s", what, err, out)
		return false
	}
	return true
}

// model looks at the disks that a model of a file system leaves.
func (b *bench) model(ctx context.Context) (err error) {
	if !b.hasStrace("model disks") {
		return nil
	}
	m, done, err := b.place(ctx, true, 16<<10, 160<<10)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	c, err := m.Copy(filepath.Join(m.World.Dir, "traced"))
	if err != nil {
		return err
	}
	calls, err := c.Traced(ctx, 2, filepath.Join(m.World.Dir, "trace"))
	if err != nil {
		return err
	}
	t, err := m.World.Explore(ctx, crash.Exploration{
		From: m.World.Releases[1], To: m.World.Releases[2], Before: m.State, Root: c.State, Calls: calls, Draws: b.n.draws, Recover: 1, Start: 50, Agent: m.Agent, Work: m.World.Dir, Seed: 2,
	})
	if err != nil {
		return err
	}
	return b.tally("model disks", t)
}

// kills ends the agent at random moments of a download.
func (b *bench) kills(ctx context.Context) (err error) {
	m, done, err := b.place(ctx, false, 512<<10, b.n.large<<20)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	s, err := m.World.Serve(100e6)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	state := filepath.Join(m.World.Dir, "killed")
	clean, takes, err := m.Undisturbed(ctx, s, state)
	if err != nil {
		return err
	}
	var t crash.Tally
	var again []float64
	for i := range b.n.random {
		if err := os.RemoveAll(state); err != nil {
			return err
		}
		at := crash.After(time.Duration(b.rng.Float64() * float64(takes)))
		got, err := m.KillOnce(ctx, s, state, clean, at)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if t.Add(fmt.Sprintf("kill %d", i), err); t.Tried%20 == 0 {
			b.o.Logf("%d kills at random moments, %d bad", t.Tried, t.Bad)
		}
		if err == nil && got.Before < clean.Needed { // it was killed while it fetched
			again = append(again, got.Share())
		}
	}
	b.o.Logf("%d of %d kills met the download of %d MiB in %.1f s", len(again), b.n.random, clean.Needed>>20, takes.Seconds())
	b.shares("fetched again after a kill", again)
	return b.tally("kills at random moments", t)
}

// systemCalls kills the agent at its system calls, and fails them.
func (b *bench) systemCalls(ctx context.Context) (err error) {
	if !b.hasStrace("system calls") {
		return nil
	}
	m, done, err := b.place(ctx, true, 16<<10, 160<<10)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	calls := []string{"openat", "close", "write", "fsync", "renameat", "unlinkat", "fchmod", "pwrite64", "mkdirat", "linkat", "symlinkat",
		"fchmodat", "ftruncate", "fallocate", "fcntl", "getdents64", "newfstatat", "readlinkat"}
	if err := b.inject(ctx, m, "kills at system calls", b.n.kills, calls, []string{"signal=SIGKILL"}); err != nil {
		return err
	}
	calls = []string{"fsync", "renameat", "unlinkat", "pwrite64", "mkdirat", "linkat", "symlinkat", "fchmodat", "ftruncate", "fallocate"}
	return b.inject(ctx, m, "failing system calls", b.n.errs, calls, []string{"error=ENOSPC", "error=EIO", "error=EROFS"})
}

// inject tries the first, second, ... of each call of a thread until enough came to
// pass. A call of which none came to pass any more is left.
func (b *bench) inject(ctx context.Context, m *crash.Member, what string, enough int, calls, effects []string) error {
	var t crash.Tally
	survived, misses := 0, map[string]int{}
	for n := 1; t.Tried < enough; n++ {
		for _, call := range calls {
			if misses[call] >= 3 || t.Tried >= enough {
				continue
			}
			in := crash.Injection{Syscall: call, Effect: effects[(n-1+len(call))%len(effects)], When: fmt.Sprint(n)}
			c, err := m.Copy(filepath.Join(m.World.Dir, "injected"))
			if err != nil {
				return err
			}
			out, err := c.Inject(ctx, 2, in, 20*time.Second)
			if err != nil {
				return err
			}
			if out.Hit {
				_, wrong := c.AfterInjection(ctx)
				t.Add(in.String(), wrong)
				misses[call] = 0
			} else if misses[call]++; misses[call] == 3 {
				b.o.Logf("%s: the last %s was the %dth of a thread", what, call, n-3)
			}
			if out.Hit && out.Updated {
				survived++
			}
			if err := os.RemoveAll(c.State); err != nil {
				return err
			}
		}
		if !slices.ContainsFunc(calls, func(c string) bool { return misses[c] < 3 }) {
			n, misses = 0, map[string]int{} // threads differ from run to run: once more from the first
		}
	}
	if effects[0] != "signal=SIGKILL" {
		b.figure(what+", updated all the same", float64(survived), fmt.Sprintf("of %d", t.Tried))
	}
	return b.tally(what, t)
}
