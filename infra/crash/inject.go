package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Injection is something that strace does to a system call of the agent.
type Injection struct {
	Syscall string // "fsync", or a class such as "%file"
	Effect  string // "signal=SIGKILL", "error=ENOSPC"
	When    string // "7": at the 7th call of a thread; "7..9"; "7+"
}

func (i Injection) String() string { return i.Syscall + ":" + i.Effect + ":when=" + i.When }

// Kills reports whether it ends the agent.
func (i Injection) Kills() bool { return i.Effect == "signal=SIGKILL" }

// Outcome is how a run with an injection ended.
type Outcome struct {
	Hit     bool // it came to that call
	Updated bool // the update went through, in the same process
	Ended   bool // the process ended
	Said    string
}

// Inject runs the agent through an update to the n-th release with an injection, for
// so long at most, and ends it.
func (m *Member) Inject(ctx context.Context, n int, i Injection, limit time.Duration) (o Outcome, err error) {
	log := filepath.Join(filepath.Dir(m.State), filepath.Base(m.State)+".strace")
	defer func() { err = errors.Join(err, os.Remove(log)) }()
	m.Wrap = []string{"strace", "-f", "-qq", "-e", "signal=none", "-o", log, "-e", "trace=" + i.Syscall, "-e", "inject=" + i.String()}
	defer func() { m.Wrap = nil }()
	if err := m.Start(ctx, n); err != nil {
		return o, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	switch err := m.Until(ctx, Healthy(m.World.Releases[n])); {
	case err == nil:
		o.Updated = true
	case errors.Is(err, ErrEnded):
		o.Ended = true
	case !errors.Is(err, context.DeadlineExceeded):
		return o, err
	}
	_ = m.Kill() // how it ended is in the outcome
	o.Said = m.log.String()
	if i.Kills() {
		o.Hit = o.Ended
		return o, nil
	}
	data, err := os.ReadFile(log)
	if err != nil {
		return o, fmt.Errorf("read strace's log: %w", err)
	}
	o.Hit = bytes.Contains(data, []byte("(INJECTED)"))
	return o, nil
}

// AfterInjection is what must hold of the disk and of the next start, whatever was
// injected.
func (m *Member) AfterInjection(ctx context.Context) (Recovery, error) {
	old, now := m.World.Releases[1], m.World.Releases[2]
	if err := m.World.Check(m.State, old, now); err != nil {
		return Recovery{}, err
	}
	rec, err := m.World.Recover(ctx, m.State, now)
	if err != nil {
		return rec, fmt.Errorf("a start does not get over it: %w", err)
	}
	return rec, m.World.CheckVisible(m.State, now)
}
