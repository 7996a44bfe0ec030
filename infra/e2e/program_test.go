package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/modelfleet/modelfleet/functions/lambdasim"
	"github.com/modelfleet/modelfleet/infra/proctest"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/signer/awskms/kmstest"
)

// patience is how long a script waits for anything.
const patience = proctest.Patience

// stage is what runs in the background of a script.
type stage struct {
	dir      string
	names    []string // of the environment's variables
	programs map[string]*proctest.Program
	group    proctest.Group
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

// tailLines is how much of a log is told of a script that failed.
const tailLines = 25

// close ends all.
func (s *stage) close() {
	if s.function != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = s.function.Close(ctx) // its processes are gone either way
	}
	s.group.End(syscall.SIGKILL, patience)
}

// named finds a program that was started.
func (s *stage) named(ts *testscript.TestScript, args []string) *proctest.Program {
	if len(args) == 0 || s.programs[args[0]] == nil {
		ts.Fatalf("%q names no program that was started", args)
	}
	return s.programs[args[0]]
}

// start is "start NAME PROGRAM ARGUMENT...": in the background, until the script
// ends. "start NAME" starts one that ended again, as it was.
func start(ts *testscript.TestScript, _ bool, args []string) {
	s := on(ts)
	p, begin := s.programs[args[0]], (*proctest.Program).Start
	switch {
	case len(args) > 1 && p == nil:
		p = &proctest.Program{Name: args[0], Dir: ts.MkAbs("."), Log: filepath.Join(s.dir, args[0]+".log")}
		s.programs[p.Name], begin = p, s.group.Start
	case p == nil:
		ts.Fatalf("usage: start NAME PROGRAM ARGUMENT...")
	case p.Running():
		ts.Fatalf("%s is running", p.Name)
	}
	if len(args) > 1 {
		p.Args = args[1:]
	}
	p.Env = s.environ(ts)
	ts.Check(begin(p))
}

// quit is "quit NAME": a program is asked to end, and must end well.
func quit(ts *testscript.TestScript, _ bool, args []string) {
	p := on(ts).named(ts, args)
	ts.Check(p.End(syscall.SIGTERM, patience))
	if err := p.Err(); err != nil {
		ts.Fatalf("%s: %v\n%s", p.Name, err, p.Tail(tailLines))
	}
}

// kill9 is "kill9 NAME": as a power cut would.
func kill9(ts *testscript.TestScript, _ bool, args []string) {
	p := on(ts).named(ts, args)
	if !p.Running() {
		ts.Fatalf("%s has ended already: %v\n%s", p.Name, p.Err(), p.Tail(tailLines))
	}
	ts.Check(p.End(syscall.SIGKILL, patience))
}

// says is "says NAME REGEXP": the program prints that, sooner or later, since it was
// started last. "! says" is about what it has printed so far.
func says(ts *testscript.TestScript, neg bool, args []string) {
	s := on(ts)
	p := s.named(ts, args)
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	if neg {
		if m := re.FindString(p.SaidNow()); m != "" {
			ts.Fatalf("%s said %q", p.Name, m)
		}
		return
	}
	ts.Check(proctest.Until(context.Background(), patience, fmt.Sprintf("%s says %q", p.Name, args[1]), func() (bool, error) {
		running := p.Running() // what it says at its end counts
		if re.MatchString(p.SaidNow()) {
			return true, nil
		}
		if !running {
			return false, fault.Newf(fault.Internal, "run program", p.Name, "it ended, and never said %q\n%s", args[1], p.Tail(tailLines))
		}
		return false, errors.New(p.Tail(tailLines))
	}))
}

// until waits until a condition holds, and reports whether it came to that.
func until(holds func() bool) bool {
	return proctest.Until(context.Background(), patience, "", func() (bool, error) { return holds(), nil }) == nil
}

// run is one run of a command to its end; the error says what the command did.
func (s *stage) run(ts *testscript.TestScript, args []string) ([]byte, error) {
	out, _, err := proctest.Run(context.Background(), ts.MkAbs("."), s.environ(ts), args...)
	return out, err
}
