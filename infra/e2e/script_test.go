package e2e_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/modelfleet/modelfleet/agent/command"
	"github.com/modelfleet/modelfleet/coordinator"
	"github.com/modelfleet/modelfleet/coordinator/cli"
	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/functions/scorer/serve"
	"github.com/modelfleet/modelfleet/infra/demo/device"
	"github.com/modelfleet/modelfleet/infra/devs3"
	"github.com/modelfleet/modelfleet/infra/proctest"
)

const version = "v1.2.3"

// TestMain makes this binary every program of the fleet: testscript puts it on
// PATH under each of these names.
func TestMain(m *testing.M) {
	testscript.Main(shared{m}, map[string]func(){
		"modelfleet": proctest.Entry(func(ctx context.Context, args []string) int {
			return cli.Run(ctx, cli.Options{Args: args, Streams: console.System(), Env: os.Getenv, Version: version})
		}),
		"modelfleet-coordinator": proctest.Entry(func(ctx context.Context, args []string) int { return coordinator.Main(ctx, version, args, os.Stderr) }),
		"modelfleet-agent": proctest.Entry(func(ctx context.Context, args []string) int {
			return command.Main(ctx, version, args, os.Stdout, os.Stderr)
		}),
		"device": proctest.Entry(func(ctx context.Context, args []string) int { return device.Main(ctx, args, os.Stderr) }),
		"devs3":  proctest.Entry(func(_ context.Context, args []string) int { return devs3.Main(args, os.Stdout, os.Stderr) }),
		"scorer": proctest.Entry(func(context.Context, []string) int { return serve.Main(version, os.Getenv, os.Stderr) }),
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
		addr, err := proctest.FreeAddr()
		if err != nil {
			return err
		}
		_, port, _ := strings.Cut(addr, ":")
		env.Setenv(fmt.Sprintf("PORT%d", i+1), port)
	}
	s := &stage{dir: env.WorkDir, programs: map[string]*proctest.Program{}, answered: map[string]int{}}
	for _, v := range env.Vars {
		name, _, _ := strings.Cut(v, "=")
		s.names = append(s.names, name)
	}
	env.Values[stageKey{}] = s
	env.Defer(func() {
		if f, ok := env.T().(interface{ Failed() bool }); ok && f.Failed() {
			env.T().Log(s.group.Logs(tailLines))
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
