package crash

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

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Member is an agent's state folder in a world, and the agent that runs on it.
type Member struct {
	World  *World
	State  string   // the folder
	Agent  []string // the program and what comes before its flags
	Source string   // where it reads files from; default the world's bucket
	Wrap   []string // a program that runs the agent, such as strace with its flags

	sockets string
	client  *local.Client
	cmd     *exec.Cmd
	log     logbook
	ended   chan struct{} // closed when the process has
	err     error         // of that end
}

// Fresh makes the state of a device that has enrolled and nothing else.
func Fresh(w *World, state string, agent ...string) (*Member, error) {
	return &Member{World: w, State: state, Agent: agent}, w.enrol(filepath.Join(state, "identity"), "device-1")
}

// Enrol makes the state of a device that serves the second release of the world,
// with the first as the one to go back to.
func Enrol(ctx context.Context, w *World, state string, agent ...string) (*Member, error) {
	m, err := Fresh(w, state, agent...)
	if err != nil {
		return nil, err
	}
	for n := range 2 {
		if err := m.Start(ctx, n); err != nil {
			return nil, err
		}
		if err := m.Until(ctx, Healthy(w.Releases[n])); err != nil {
			return nil, err
		}
		if err := m.Stop(); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Copy is the same device with a copy of the folder, at rest.
func (m *Member) Copy(state string) (*Member, error) {
	return m.copy(state, "-a")
}

// Link is [Member.Copy] by hard links, quicker for large models: no file of a
// state folder is ever changed in place, that is the promise. Only collections
// find that everything has one name more.
func (m *Member) Link(state string) (*Member, error) { return m.copy(state, "-al") }

func (m *Member) copy(state, how string) (*Member, error) {
	c := &Member{World: m.World, State: state, Agent: m.Agent, Source: m.Source}
	if out, err := exec.Command("cp", how, m.State, state).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("copy the state: %w: %s", err, out)
	}
	return c, nil
}

// Start starts the agent, which is directed to the n-th release.
func (m *Member) Start(_ context.Context, n int) error {
	source := m.Source
	if source == "" {
		source = m.World.Bucket
	}
	var err error
	if m.sockets, err = os.MkdirTemp("", "mf"); err != nil { // a socket's path must be short
		return err
	}
	socket := filepath.Join(m.sockets, "a.sock")
	m.client = local.NewClient(local.ClientOptions{Socket: socket, App: "crash"})
	args := append(append([]string{}, m.Wrap...), m.Agent...)
	args = append(args, "-state", m.State, "-socket", socket, "-source", source, "-pack", m.World.Releases[n].Pack,
		"-report", "100ms", "-window", "1s", "-soak", "1ms", "-retry", "50ms")
	m.cmd = exec.Command(args[0], args[1:]...)
	m.log.reset()
	m.cmd.Stdout, m.cmd.Stderr = &m.log, &m.log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	m.cmd.WaitDelay = 5 * time.Second
	m.ended = make(chan struct{})
	if err := m.cmd.Start(); err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	go func() {
		m.err = m.cmd.Wait()
		close(m.ended)
	}()
	return nil
}

// Ended is closed when the process has ended.
func (m *Member) Ended() <-chan struct{} { return m.ended }

// Healthy is the condition that a release runs and was found good.
func Healthy(r Release) func(local.Model) bool {
	return func(l local.Model) bool {
		return l.Phase == fleet.Healthy && l.Serving != nil && l.Serving.Ref == r.Ref()
	}
}

// ErrEnded says that the agent ended before it came to what was waited for.
var ErrEnded = errors.New("the agent ended")

// Until waits until the model is as wanted.
func (m *Member) Until(ctx context.Context, want func(local.Model) bool) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	var last local.Model
	for {
		if l, err := m.client.Describe(ctx, Model); err == nil {
			if last = l; want(l) {
				return nil
			}
		}
		select {
		case <-m.ended:
			return fmt.Errorf("%w: %w: %s", ErrEnded, m.err, m.log.String())
		case <-ctx.Done():
			return fmt.Errorf("it never came to that: %w; last %+v: %s", ctx.Err(), last, m.log.String())
		case <-tick.C:
		}
	}
}

// Stop asks the agent to end and waits.
func (m *Member) Stop() error {
	// The signal is for the agent, not for what wraps it.
	if err := syscall.Kill(-m.cmd.Process.Pid, syscall.SIGTERM); err != nil {
		return err
	}
	return m.wait()
}

// Kill ends the agent as a power cut would, but for what the kernel holds.
func (m *Member) Kill() error {
	_ = syscall.Kill(-m.cmd.Process.Pid, syscall.SIGKILL) // it may be gone already
	<-m.ended
	return errors.Join(os.RemoveAll(m.sockets), cleanEnd(m.err))
}

// cleanEnd is nil for a process that was killed or ended well.
func cleanEnd(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return nil
	}
	return err
}

func (m *Member) wait() error {
	select {
	case <-m.ended:
	case <-time.After(2 * time.Minute):
		_ = syscall.Kill(-m.cmd.Process.Pid, syscall.SIGKILL)
		<-m.ended
	}
	if err := os.RemoveAll(m.sockets); err != nil {
		return err
	}
	if m.err != nil {
		return fmt.Errorf("the agent ended: %w: %s", m.err, m.log.String())
	}
	return nil
}

// Said is what the agent logged.
func (m *Member) Said() string { return m.log.String() }

// logbook is what a process said, to be read while it runs.
type logbook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logbook) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Reset()
}

// String is the end of it.
func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buf.Bytes()
	return string(b[max(0, len(b)-8000):])
}
