package proctest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Patience is how long anything is waited for. It is long because the machine may
// be loaded; what works never waits for it.
const Patience = 3 * time.Minute

// Until looks again and again until a condition holds; ctx ends or the limit passes
// before: then the error names the condition and is what it last said. An Internal
// fault of the condition ends the wait at once: what broke will not mend by waiting.
func Until(ctx context.Context, limit time.Duration, what string, holds func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := holds()
		if ok {
			return nil
		}
		if broke, is := errors.AsType[*fault.Error](err); is && broke.Kind == fault.Internal {
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

// Failure is a program that ended badly.
type Failure struct {
	Args []string
	Said string // on its standard error
	Err  error  // an [exec.ExitError], or why it did not run
}

// Error names the program and what it said.
func (f *Failure) Error() string {
	return fmt.Sprintf("%s %s: %v: %s", filepath.Base(f.Args[0]), strings.Join(f.Args[1:], " "), f.Err, f.Said)
}

// Unwrap is how the program ended.
func (f *Failure) Unwrap() error { return f.Err }

// Run runs a program to its end, in a folder and an environment ("" and nil: ours),
// and returns its standard output and standard error. The error is a [Failure].
func Run(ctx context.Context, dir string, env []string, args ...string) (out []byte, said string, err error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env, cmd.Dir = env, dir
	var results, told bytes.Buffer
	cmd.Stdout, cmd.Stderr = &results, &told
	if err := cmd.Run(); err != nil {
		return results.Bytes(), told.String(), &Failure{Args: args, Said: strings.TrimSpace(told.String()), Err: err}
	}
	return results.Bytes(), told.String(), nil
}

// Entry makes a program of a test binary, for testscript.Main: it runs with the
// arguments until it ends or is interrupted.
func Entry(run func(ctx context.Context, args []string) int) func() {
	return func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		code := run(ctx, os.Args[1:])
		stop()
		os.Exit(code)
	}
}
