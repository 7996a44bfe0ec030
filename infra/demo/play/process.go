package play

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// process is a child process of the demo with a log file of its own. It lives
// in its own process group, so that stopping it stops what it started.
type process struct {
	name string
	args []string
	env  []string
	dir  string // working directory
	log  string // path; its standard output and error are appended

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when the current run has ended
}

// start runs the process. It must not be running.
func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	defer out.Close()
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Dir = p.dir
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	done := make(chan struct{})
	p.cmd, p.done = cmd, done
	go func() {
		_ = cmd.Wait() // how a child ended is in its log; callers look at what it does, not at its status
		close(done)
	}()
	return nil
}

// signal sends sig to the process group. A process that is gone is no error.
func (p *process) signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return nil
	}
	if err := syscall.Kill(-p.cmd.Process.Pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal %s: %w", p.name, err)
	}
	return nil
}

// kill ends the process at once, as a power cut would, and waits for its end.
func (p *process) kill() error {
	err := p.signal(syscall.SIGKILL)
	p.wait()
	return err
}

// stop asks the process to end and, after the grace, kills it.
func (p *process) stop(grace time.Duration) {
	if p.signal(syscall.SIGTERM) != nil {
		return
	}
	p.mu.Lock()
	done := p.done
	p.mu.Unlock()
	if done == nil {
		return
	}
	select {
	case <-done:
	case <-time.After(grace):
	}
	_ = p.kill() // also what the process left behind in its group
}

func (p *process) wait() {
	p.mu.Lock()
	done := p.done
	p.mu.Unlock()
	if done != nil {
		<-done
	}
}

// running reports whether the process is alive.
func (p *process) running() bool {
	p.mu.Lock()
	done := p.done
	p.mu.Unlock()
	if done == nil {
		return false
	}
	select {
	case <-done:
		return false
	default:
		return true
	}
}

// tail is the end of the process's log, for an error a person reads.
func (p *process) tail(n int) string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-n):], []byte("\n")))
}

// processes is everything the demo started, in order.
type processes struct {
	dir string // where logs go

	mu  sync.Mutex
	all []*process
}

// spawn starts a process and remembers it.
func (ps *processes) spawn(name string, env []string, args ...string) (*process, error) {
	p := &process{name: name, args: args, env: env, log: filepath.Join(ps.dir, name+".log")}
	if err := p.start(); err != nil {
		return nil, err
	}
	ps.mu.Lock()
	ps.all = append(ps.all, p)
	ps.mu.Unlock()
	return p, nil
}

// stopAll stops everything, the last started first, a few at a time.
func (ps *processes) stopAll() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, p := range ps.all {
		_ = p.signal(syscall.SIGTERM) // all begin to stop; each is waited for below
	}
	for i := len(ps.all) - 1; i >= 0; i-- {
		ps.all[i].stop(3 * time.Second)
	}
}

// patience is how long anything is waited for. It is long because the machine may be
// loaded; a demo that works never waits for it.
const patience = 3 * time.Minute

// until polls cond until it holds, ctx ends or the limit passes. what names the
// condition in the error. An Internal fault of cond ends the wait at once: what
// broke will not mend by waiting.
func until(ctx context.Context, limit time.Duration, what string, cond func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := cond()
		if ok {
			return nil
		}
		if broke, ok := errors.AsType[*fault.Error](err); ok && broke.Kind == fault.Internal {
			return err
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = ctx.Err()
			}
			return fault.New(fault.Transient, "wait until", what, err)
		case <-tick.C:
		}
	}
}

// run runs a command to its end and returns its standard output. A command that
// fails returns an error that carries the end of its standard error.
func run(ctx context.Context, env []string, args ...string) (string, error) {
	out, _, err := runBoth(ctx, env, args...)
	return out, err
}

// runBoth also returns what a command that ended well said beside its results.
func runBoth(ctx context.Context, env []string, args ...string) (out, said string, err error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var results, told bytes.Buffer
	cmd.Stdout, cmd.Stderr = &results, &told
	if err := cmd.Run(); err != nil {
		return results.String(), "", &commandError{args: args, err: err, stderr: string(bytes.TrimSpace(told.Bytes()))}
	}
	return results.String(), told.String(), nil
}

// commandError is a command that ended badly.
type commandError struct {
	args   []string
	err    error
	stderr string
}

// Error names the command and what it said.
func (e *commandError) Error() string {
	return fmt.Sprintf("%s: %v: %s", filepath.Base(e.args[0]), e.err, e.stderr)
}

// Unwrap is how the command ended.
func (e *commandError) Unwrap() error { return e.err }
