package proctest_test

import (
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/infra/proctest"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

func shell(t *testing.T, script string) *proctest.Program {
	return &proctest.Program{Name: "sh", Args: []string{"sh", "-c", script}, Log: filepath.Join(t.TempDir(), "log")}
}

func says(t *testing.T, p *proctest.Program, text string) {
	t.Helper()
	if err := proctest.Until(t.Context(), proctest.Patience, "it says "+text, func() (bool, error) { return p.Logged(text), nil }); err != nil {
		t.Fatalf("%v: %s", err, p.Said())
	}
}

// A program's end takes what it started with it, whatever that does about signals,
// and its log goes on over its runs.
func TestAProgramEndsWithWhatItStarted(t *testing.T) {
	t.Parallel()
	p := shell(t, `(trap "" TERM; echo child $$; exec sleep 600) & echo parent; wait`)
	if p.Running() || p.End(syscall.SIGTERM, proctest.Patience) != nil {
		t.Error("it runs before it was started")
	}
	var g proctest.Group
	if err := g.Start(p); err != nil {
		t.Fatal(err)
	}
	says(t, p, "child")
	says(t, p, "parent")
	group := -p.PID()
	g.End(syscall.SIGTERM, proctest.Patience)
	if p.Running() || p.Err() == nil || p.ExitCode() != -1 {
		t.Errorf("it was ended: %v", p.Err())
	}
	err := proctest.Until(t.Context(), proctest.Patience, "its group is gone", func() (bool, error) {
		return errors.Is(syscall.Kill(group, 0), syscall.ESRCH), nil
	})
	if err != nil {
		t.Error(err)
	}
	p.Args = []string{"sh", "-c", "echo again; exit 3"}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	if code := p.ExitCode(); code != 3 || p.SaidNow() != "again\n" || !p.Logged("parent") || p.Tail(1) != "again" || !strings.Contains(g.Logs(1), "sh said") {
		t.Errorf("exit code %d, said %q of %q", code, p.SaidNow(), p.Said())
	}
}

// One that does not end when it is asked is killed, and that is told.
func TestAProgramThatDoesNotEndIsKilled(t *testing.T) {
	t.Parallel()
	p := shell(t, `trap "" TERM; echo up; while :; do read x < /dev/zero; done`)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	says(t, p, "up")
	if err := p.End(syscall.SIGTERM, 10*time.Millisecond); err == nil || p.Running() {
		t.Errorf("it ended: %v", err)
	}
}

// A wait ends with what is wrong in its words, at once when waiting cannot mend it.
func TestAWaitSaysWhatItWaitedFor(t *testing.T) {
	t.Parallel()
	never := func(err error) func() (bool, error) { return func() (bool, error) { return false, err } }
	err := proctest.Until(t.Context(), time.Millisecond, "pigs fly", never(errors.New("they walk")))
	if !fault.Is(err, fault.Transient) || !strings.Contains(err.Error(), "pigs fly") || !strings.Contains(err.Error(), "they walk") {
		t.Errorf("waited in vain: %v", err)
	}
	broken := fault.Newf(fault.Internal, "fly", "pig", "it ended")
	if err := proctest.Until(t.Context(), proctest.Patience, "pigs fly", never(broken)); !errors.Is(err, broken) {
		t.Errorf("it broke: %v", err)
	}
}

// A command that fails is an error with what it said.
func TestAFailureSaysWhatTheProgramSaid(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out, said, err := proctest.Run(t.Context(), dir, []string{"X=1"}, "/bin/sh", "-c", "pwd; echo $X; echo well >&2")
	if err != nil || string(out) != dir+"\n1\n" || said != "well\n" {
		t.Errorf("%q, %q, %v", out, said, err)
	}
	_, _, err = proctest.Run(t.Context(), "", nil, "sh", "-c", "echo bad >&2; exit 4")
	f, is := errors.AsType[*proctest.Failure](err)
	exit, exited := errors.AsType[*exec.ExitError](err)
	if !is || f.Said != "bad" || !exited || exit.ExitCode() != 4 || !strings.HasSuffix(err.Error(), "exit status 4: bad") {
		t.Errorf("it failed: %v", err)
	}
}

// Ports are free, and each is given once, with the one after it: agents serve their
// neighbours there.
func TestPortsAreFreeAndGivenOnce(t *testing.T) {
	t.Parallel()
	seen := map[uint16]bool{}
	for range 20 {
		addr, err := proctest.FreeAddr()
		if err != nil {
			t.Fatal(err)
		}
		port := netip.MustParseAddrPort(addr).Port()
		if seen[port] || seen[port+1] {
			t.Fatalf("%s is given again", addr)
		}
		seen[port], seen[port+1] = true, true
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatalf("%s is taken: %v", addr, err)
		}
		l.Close()
	}
}
