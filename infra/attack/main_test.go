package attack_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/modelfleet/modelfleet/agent/command"
	"github.com/modelfleet/modelfleet/coordinator"
	"github.com/modelfleet/modelfleet/coordinator/cli"
	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/infra/devs3"
	"github.com/modelfleet/modelfleet/infra/proctest"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

const version = "v1.2.3"

// TestMain makes this binary every program of the fleet, each under its own name
// on PATH, so that nothing else is built.
func TestMain(m *testing.M) {
	testscript.Main(world{m}, map[string]func(){
		"modelfleet": proctest.Entry(func(ctx context.Context, args []string) int {
			return cli.Run(ctx, cli.Options{Args: args, Streams: console.System(), Env: os.Getenv, Version: version})
		}),
		"modelfleet-coordinator": proctest.Entry(coordinate),
		"modelfleet-agent": proctest.Entry(func(ctx context.Context, args []string) int {
			return command.Main(ctx, version, args, os.Stdout, os.Stderr)
		}),
		"devs3": proctest.Entry(func(_ context.Context, args []string) int { return devs3.Main(args[1:], os.Stdout, os.Stderr) }),
	})
}

// timestampLife is the variable that has a coordinator sign timestamps that live
// so long only: nobody waits a day for a fleet to go stale.
const timestampLife = "ATTACK_TIMESTAMP_LIFE"

// coordinate is modelfleet-coordinator's main, but for timestampLife.
func coordinate(ctx context.Context, args []string) int {
	life := os.Getenv(timestampLife)
	if life == "" {
		return coordinator.Main(ctx, version, args, os.Stderr)
	}
	o, err := coordinator.Parse(args, os.Stderr)
	if err == nil {
		o.Lifetimes.Timestamp, err = time.ParseDuration(life)
	}
	if err == nil {
		err = coordinator.Run(ctx, o)
	}
	if err == nil || errors.Is(err, coordinator.ErrHelp) {
		return 0
	}
	fmt.Fprintln(os.Stderr, "modelfleet-coordinator:", err)
	return fault.KindOf(err).Exit()
}

// world is the tests with the S3 server that all of them attack.
type world struct{ tests *testing.M }

// Run runs the tests.
func (w world) Run() int {
	if !flag.Parsed() {
		flag.Parse()
	}
	dir, err := os.MkdirTemp("", "modelfleet-attack")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	shared().dir = dir
	code := w.tests.Run()
	if s := shared(); s.process != nil {
		if err := s.process.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "S3 server:", err)
		}
	}
	return code
}

// s3server is the one S3 server; each fleet has a prefix of its own in its bucket.
type s3server struct {
	dir     string
	once    sync.Once
	process *devs3.Process
	err     error
	fleets  atomic.Int32
}

var shared = sync.OnceValue(func() *s3server { return &s3server{} })

func startS3() (*devs3.Process, error) {
	s := shared()
	s.once.Do(func() {
		var exe string
		if exe, s.err = exec.LookPath("devs3"); s.err == nil {
			s.process, s.err = devs3.Start(context.Background(), exe, devs3.Options{Dir: filepath.Join(s.dir, "s3")})
		}
	})
	return s.process, s.err
}

// freeAddr is a loopback address for who asks, and nobody else.
func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := proctest.FreeAddr()
	sure(t, err)
	return addr
}
