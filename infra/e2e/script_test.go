package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/modelfleet/modelfleet/agent/command"
	"github.com/modelfleet/modelfleet/coordinator"
	"github.com/modelfleet/modelfleet/coordinator/cli"
	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/functions/scorer/serve"
	"github.com/modelfleet/modelfleet/infra/demo/device"
	"github.com/modelfleet/modelfleet/infra/devs3"
)

const version = "v1.2.3"

// TestMain makes this binary every program of the fleet: testscript puts it on
// PATH under each of these names.
func TestMain(m *testing.M) {
	program := func(run func(context.Context, []string) int) func() {
		return func() {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			code := run(ctx, os.Args[1:])
			stop()
			os.Exit(code)
		}
	}
	testscript.Main(shared{m}, map[string]func(){
		"modelfleet": program(func(ctx context.Context, args []string) int {
			return cli.Run(ctx, cli.Options{Args: args, Streams: console.System(), Env: os.Getenv, Version: version})
		}),
		"modelfleet-coordinator": program(func(ctx context.Context, args []string) int { return coordinator.Main(ctx, version, args, os.Stderr) }),
		"modelfleet-agent": program(func(ctx context.Context, args []string) int {
			return command.Main(ctx, version, args, os.Stdout, os.Stderr)
		}),
		"device": program(func(ctx context.Context, args []string) int { return device.Main(ctx, args, os.Stderr) }),
		"devs3":  program(func(_ context.Context, args []string) int { return devs3.Main(args, os.Stdout, os.Stderr) }),
		"scorer": program(func(context.Context, []string) int { return serve.Main(version, os.Getenv, os.Stderr) }),
	})
}

// shared are the tests, which clean up what they shared.
type shared struct{ tests *testing.M }

// Run runs them.
func (s shared) Run() int {
	code := s.tests.Run()
	if dir, err := scratch(); err == nil {
		_ = os.RemoveAll(dir) // it is in the temporary folder in any case
	}
	return code
}

// inherited are the variables of this process that programs also get.
var inherited = []string{"GOCOVERDIR", "GOMAXPROCS"}

// TestScripts runs testdata: each script says why it is there.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, scripts("testdata"))
}

// scripts are those of a folder, with what they may say.
func scripts(dir string) testscript.Params {
	return testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setUp,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"start":    start,
			"quit":     quit,
			"kill9":    kill9,
			"says":     says,
			"wait-for": waitFor,
			"get":      get,
			"exits":    exits,
			"blob":     blob,
			"flip":     flip,
			"train":    trainReleases,
			"function": startFunction,
			"invoke":   invoke,
			"counted":  counted,
			"kms":      keysInKMS,
		},
	}
}

// setUp gives a script its environment, and ends what it started.
func setUp(env *testscript.Env) error {
	for _, name := range inherited {
		if v, ok := os.LookupEnv(name); ok {
			env.Setenv(name, v)
		}
	}
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("AWS_ACCESS_KEY_ID", "devkey")
	env.Setenv("AWS_SECRET_ACCESS_KEY", "devsecret")
	for i := range 3 {
		port, err := freePort()
		if err != nil {
			return err
		}
		env.Setenv(fmt.Sprintf("PORT%d", i+1), port)
	}
	s := &stage{dir: env.WorkDir, programs: map[string]*program{}, answered: map[string]int{}}
	for _, v := range env.Vars {
		name, _, _ := strings.Cut(v, "=")
		s.names = append(s.names, name)
	}
	env.Values[stageKey{}] = s
	env.Defer(func() {
		if f, ok := env.T().(interface{ Failed() bool }); ok && f.Failed() {
			env.T().Log(s.logs())
		}
		s.close()
		if s.kms != nil {
			if err := s.kms.Close(); err != nil {
				env.T().Fatal(err)
			}
		}
	})
	return nil
}

// Ports are taken from below those that the kernel gives to outgoing connections,
// in turn, so that a port is free for as long as its script runs. Other runs of
// these tests are on this machine: each has a block of ports for itself, whose first
// it listens on to say so.
const firstPort, blocks, block = 12000, 80, 250

type ports struct {
	sign  net.Listener // on the block's first port, until the process ends
	first int
	given atomic.Int32
}

var own = sync.OnceValues(func() (*ports, error) {
	for _, n := range rand.Perm(blocks) {
		first := firstPort + n*block
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(first))); err == nil {
			return &ports{sign: l, first: first}, nil
		}
	}
	return nil, errors.New("no block of ports is free")
})

// another is the next port of the block, from its beginning again after the last.
func (p *ports) another() string { return strconv.Itoa(p.first + 1 + int(p.given.Add(1))%(block-1)) }

// freePort is a loopback port that nobody listens on, or will but who asked for it.
func freePort() (string, error) {
	p, err := own()
	if err != nil {
		return "", err
	}
	for range block {
		port := p.another()
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			continue // taken
		}
		return port, l.Close()
	}
	return "", errors.New("no port of the block is free")
}
