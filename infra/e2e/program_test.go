package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/modelfleet/modelfleet/functions/lambdasim"
	"github.com/modelfleet/modelfleet/pkg/signer/awskms/kmstest"
)

// patience is how long a script waits for anything. It is long because the
// machine may be loaded; a script that works never waits for it.
const patience = 3 * time.Minute

// stage is what runs in the background of a script.
type stage struct {
	dir      string
	names    []string // of the environment's variables
	programs map[string]*program
	order    []*program
	function *lambdasim.Function
	answered map[string]int // by release: invocations
	kms      *kmstest.Server
}

type stageKey struct{}

func on(ts *testscript.TestScript) *stage { return ts.Value(stageKey{}).(*stage) }

// environ is the script's environment as it is now.
func (s *stage) environ(ts *testscript.TestScript) []string {
	var env []string
	for _, name := range s.names {
		env = append(env, name+"="+ts.Getenv(name))
	}
	return env
}

// program runs in the background, with a log.
type program struct {
	name string
	args []string
	env  []string
	dir  string
	log  string // path: what it prints is appended
	from int64  // where in the log the current run begins
	cmd  *exec.Cmd
	done chan struct{} // closed when the current run has ended
	err  error         // of that end
}

func (p *program) start() error {
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	if p.from, err = out.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	path, err := exec.LookPath(p.args[0])
	if err != nil {
		return err
	}
	cmd := exec.Command(path, p.args[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = p.env, p.dir, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(cmd.SysProcAttr)
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	p.cmd, p.done = cmd, done
	go func() {
		p.err = cmd.Wait()
		close(done)
	}()
	return nil
}

// end signals the program and what it started, and waits.
func (p *program) end(sig syscall.Signal) error {
	_ = syscall.Kill(-p.cmd.Process.Pid, sig) // it may be gone already
	select {
	case <-p.done:
	case <-time.After(patience):
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
		return fmt.Errorf("%s did not end on %s", p.name, sig)
	}
	return nil
}

func (p *program) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *program) tail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.SplitAfter(string(b), "\n")
	return strings.Join(lines[max(0, len(lines)-25):], "")
}

// logs are the ends of all programs' logs.
func (s *stage) logs() string {
	var b strings.Builder
	for _, p := range s.order {
		fmt.Fprintf(&b, "--- %s said, lately:\n%s", p.name, p.tail())
	}
	return b.String()
}

// close ends all, the last started first.
func (s *stage) close() {
	if s.function != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = s.function.Close(ctx) // its processes are gone either way
	}
	for _, p := range slices.Backward(s.order) {
		_ = p.end(syscall.SIGKILL)
	}
}

// named finds a program that was started.
func (s *stage) named(ts *testscript.TestScript, args []string) *program {
	if len(args) == 0 || s.programs[args[0]] == nil {
		ts.Fatalf("%q names no program that was started", args)
	}
	return s.programs[args[0]]
}

// start is "start NAME PROGRAM ARGUMENT...": in the background, until the script
// ends. "start NAME" starts one that ended again, as it was.
func start(ts *testscript.TestScript, _ bool, args []string) {
	s := on(ts)
	p := s.programs[args[0]]
	switch {
	case len(args) > 1 && p == nil:
		p = &program{name: args[0], args: args[1:], dir: ts.MkAbs("."), log: filepath.Join(s.dir, args[0]+".log")}
		s.programs[p.name] = p
		s.order = append(s.order, p)
	case len(args) > 1:
		p.args = args[1:]
	case p == nil:
		ts.Fatalf("usage: start NAME PROGRAM ARGUMENT...")
	}
	if p.cmd != nil && p.running() {
		ts.Fatalf("%s is running", p.name)
	}
	p.env = s.environ(ts)
	ts.Check(p.start())
}

// quit is "quit NAME": a program is asked to end, and must end well.
func quit(ts *testscript.TestScript, _ bool, args []string) {
	p := on(ts).named(ts, args)
	ts.Check(p.end(syscall.SIGTERM))
	if p.err != nil {
		ts.Fatalf("%s: %v\n%s", p.name, p.err, p.tail())
	}
}

// kill9 is "kill9 NAME": as a power cut would.
func kill9(ts *testscript.TestScript, _ bool, args []string) {
	p := on(ts).named(ts, args)
	if !p.running() {
		ts.Fatalf("%s has ended already: %v\n%s", p.name, p.err, p.tail())
	}
	ts.Check(p.end(syscall.SIGKILL))
}

// says is "says NAME REGEXP": the program prints that, sooner or later, since it was
// started last. "! says" is about what it has printed so far.
func says(ts *testscript.TestScript, neg bool, args []string) {
	s := on(ts)
	p := s.named(ts, args)
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	read := func() []byte {
		b, err := os.ReadFile(p.log)
		ts.Check(err)
		return b[p.from:]
	}
	if neg {
		if m := re.Find(read()); m != nil {
			ts.Fatalf("%s said %q", p.name, m)
		}
		return
	}
	if !until(func() bool { return re.Match(read()) }, func() bool { return !p.running() }) {
		ts.Fatalf("%s never said %q\n%s", p.name, args[1], p.tail())
	}
}

// until polls a condition until it holds, patience ends, or there is no hope,
// and reports whether it held.
func until(holds, hopeless func() bool) bool {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		lost := hopeless()
		if holds() {
			return true
		}
		if lost {
			return false
		}
	}
	return false
}

// run is one run of a command to its end.
func (s *stage) run(ts *testscript.TestScript, args []string) (stdout []byte, said string, err error) {
	path, err := exec.LookPath(args[0])
	ts.Check(err)
	cmd := exec.Command(path, args[1:]...)
	cmd.Env, cmd.Dir = s.environ(ts), ts.MkAbs(".")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.Bytes(), errs.String(), err
}
