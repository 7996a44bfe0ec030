package proctest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Program is a program that runs in the background, and may be started again when
// it has ended. What it prints is appended to its log. Its methods may be called by
// any goroutine; the fields may be changed while it does not run.
type Program struct {
	Name string   // for messages
	Args []string // the program, by path or looked up on PATH, and its arguments
	Env  []string // all of its environment; nil: ours
	Dir  string   // it runs in it; "": in ours
	Log  string   // path

	mu  sync.Mutex
	run *run // the newest; nil before the first
}

// run is one run of a program.
type run struct {
	cmd   *exec.Cmd
	from  int64         // where in the log it begins
	ended chan struct{} // closed at its end
	err   error         // of its end; read once it has ended
}

// Start runs the program, which must not be running.
func (p *Program) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	out, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	defer out.Close()
	r := &run{cmd: exec.Command(p.Args[0], p.Args[1:]...), ended: make(chan struct{})}
	if r.from, err = out.Seek(0, io.SeekEnd); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	r.cmd.Env, r.cmd.Dir, r.cmd.Stdout, r.cmd.Stderr = p.Env, p.Dir, out, out
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	DieWithParent(r.cmd.SysProcAttr)
	if err := r.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	p.run = r
	go func() {
		r.err = r.cmd.Wait()
		close(r.ended)
	}()
	return nil
}

// newest is the newest run; nil before the first.
func (p *Program) newest() *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.run
}

// End signals the program and what it started, waits for its end, and kills what is
// left then. That it did not end for so long is an error; how it ended is told by
// [Program.Err]. One that does not run has ended.
func (p *Program) End(sig syscall.Signal, patience time.Duration) error {
	r := p.newest()
	if r == nil {
		return nil
	}
	r.signal(sig)
	defer r.signal(syscall.SIGKILL) // what it started may be there yet
	select {
	case <-r.ended:
		return nil
	case <-time.After(patience):
	}
	r.signal(syscall.SIGKILL)
	<-r.ended
	return fault.Newf(fault.Internal, "end program", p.Name, "it did not end on %s", sig)
}

// signal reaches the whole group; it may be gone already.
func (r *run) signal(sig syscall.Signal) { _ = syscall.Kill(-r.cmd.Process.Pid, sig) }

// Running reports whether the program runs.
func (p *Program) Running() bool {
	r := p.newest()
	if r == nil {
		return false
	}
	select {
	case <-r.ended:
		return false
	default:
		return true
	}
}

// PID is the process of the newest run; 0 before the first.
func (p *Program) PID() int {
	if r := p.newest(); r != nil {
		return r.cmd.Process.Pid
	}
	return 0
}

// Err waits until the program, which was started, has ended, and says how: an
// [exec.ExitError], or nil when it ended well.
func (p *Program) Err() error {
	r := p.newest()
	<-r.ended
	return r.err
}

// ExitCode is [Program.Err] as a number; -1 when a signal ended it.
func (p *Program) ExitCode() int {
	err := p.Err()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}

// Said is what the program has printed in all its runs.
func (p *Program) Said() string { return p.said(0) }

// SaidNow is what the program has printed since it was started last.
func (p *Program) SaidNow() string {
	if r := p.newest(); r != nil {
		return p.said(r.from)
	}
	return ""
}

func (p *Program) said(from int64) string {
	b, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return string(b[min(from, int64(len(b))):])
}

// Tail is the last lines of [Program.Said], for an error that a person reads.
func (p *Program) Tail(lines int) string {
	all := bytes.Split(bytes.TrimSpace([]byte(p.Said())), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}

// Logged reports whether the program has printed a line that holds all of these.
func (p *Program) Logged(texts ...string) bool { return HasLine(p.Said(), texts...) }

// HasLine reports whether a line of a log holds all of these.
func HasLine(log string, texts ...string) bool {
	for line := range strings.Lines(log) {
		all := true
		for _, text := range texts {
			all = all && strings.Contains(line, text)
		}
		if all {
			return true
		}
	}
	return false
}
