package device

import (
	"context"
	"io"
	"log/slog"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/modelfleet/modelfleet/infra/proctest"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Supervisor starts a program again whenever it ends.
type Supervisor struct {
	Command []string
	Env     []string      // of the program; nil: ours
	Delay   time.Duration // before it is started again; default 250 ms
	Output  io.Writer     // of the program; nil: dropped
	Logger  *slog.Logger
	// Ended is told of each end, with the exit status in words; may be nil.
	Ended func(how string)
}

// stopPatience is how long a program may take to end after SIGTERM.
const stopPatience = 2 * time.Second

// Supervise runs the program until ctx ends, then has it end by SIGTERM, or by
// SIGKILL when it takes too long. A program that cannot be started is an error.
func Supervise(ctx context.Context, s Supervisor) error {
	if s.Delay <= 0 {
		s.Delay = 250 * time.Millisecond
	}
	done := make(chan error)
	go func() {
		// The parent-death signal follows the thread that starts the program, so
		// that thread must last.
		runtime.LockOSThread()
		done <- s.loop(ctx)
	}()
	return <-done
}

func (s Supervisor) loop(ctx context.Context) error {
	for ctx.Err() == nil {
		cmd := exec.CommandContext(ctx, s.Command[0], s.Command[1:]...)
		cmd.Env, cmd.Stdout, cmd.Stderr = s.Env, s.Output, s.Output
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = stopPatience
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		proctest.DieWithParent(cmd.SysProcAttr)
		if err := cmd.Start(); err != nil {
			return fault.New(fault.Invalid, "start application", s.Command[0], err)
		}
		err := cmd.Wait()
		if ctx.Err() != nil {
			return nil
		}
		how := "exit status 0"
		if err != nil {
			how = err.Error()
		}
		s.Logger.Warn("application ended, it is started again", "err", how)
		if s.Ended != nil {
			s.Ended(how)
		}
		if !wait(ctx, s.Delay) {
			return nil
		}
	}
	return nil
}
