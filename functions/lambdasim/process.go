//go:build unix

package lambdasim

import (
	"bytes"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// process is a child in a process group of its own.
type process struct {
	pid  int
	gone chan struct{} // closed when it was reaped

	mu   sync.Mutex
	dead bool // it was reaped: the pid may belong to someone else by now
}

// startProcess starts a child. log gets its lines; ended is called once, with
// its exit status in words, after the last of them.
func startProcess(command, environ []string, dir string, log, ended func(string)) (*process, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env, cmd.Dir = environ, dir
	out := &lineWriter{emit: log}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
	cmd.WaitDelay = time.Second // a grandchild may hold the pipe
	p := &process{gone: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The signal of dieWithParent comes when the thread that started the child
		// ends, so the thread is kept for as long as the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err != nil {
			return
		}
		how := "exit status 0"
		if err := cmd.Wait(); err != nil {
			how = err.Error()
		}
		p.mu.Lock()
		p.dead = true
		p.mu.Unlock()
		out.flush()
		close(p.gone)
		ended(how)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// signal sends sig to the group unless the child was reaped. Between its end
// and the reaping the group id is still ours, so no stranger is hit.
func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.dead {
		_ = syscall.Kill(-p.pid, sig) // ESRCH: it ended meanwhile, which is fine
	}
}

// stop freezes the group and returns when it has stopped.
func (p *process) stop() {
	p.signal(syscall.SIGSTOP)
	p.waitStopped()
}

func (p *process) resume()    { p.signal(syscall.SIGCONT) }
func (p *process) terminate() { p.signal(syscall.SIGTERM) }
func (p *process) kill()      { p.signal(syscall.SIGKILL) }

// wait waits for the child's end, but no longer than limit.
func (p *process) wait(limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.gone:
		return true
	case <-timer.C:
		return false
	}
}

// lineWriter cuts a stream into lines.
type lineWriter struct {
	emit func(string)
	mu   sync.Mutex
	rest []byte
}

// maxLine is where a line without an end is cut.
const maxLine = 64 << 10

func (l *lineWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, b...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 && len(l.rest) < maxLine {
			return len(b), nil
		}
		if i < 0 {
			i = len(l.rest) - 1
		}
		l.emit(string(bytes.TrimRight(l.rest[:i+1], "\r\n")))
		l.rest = l.rest[i+1:]
	}
}

func (l *lineWriter) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.rest) > 0 {
		l.emit(string(l.rest))
		l.rest = nil
	}
}
