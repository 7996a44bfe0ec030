package devs3

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Arg is the first argument that makes a program which supports it be the server.
const Arg = "devs3"

const listening = "listening on "

// Main runs the server as a process: args are the arguments after [Arg], or all
// of them in cmd/devs3. It prints one line "listening on ADDR" when it is ready,
// ends on SIGINT, SIGTERM or when standard input is closed with -tied, and
// returns the exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	var o Options
	var tied bool
	fs := flag.NewFlagSet("devs3", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.Dir, "dir", "", "`folder` that holds the buckets (absolute path)")
	fs.StringVar(&o.Addr, "addr", "127.0.0.1:0", "`host:port` to listen on; port 0 picks a free one")
	fs.StringVar(&o.Bucket, "bucket", "", "bucket that is made when it is missing (default modelfleet)")
	fs.StringVar(&o.Region, "region", "", "region that requests are signed for (default us-east-1)")
	fs.StringVar(&o.AccessKey, "access-key", "", "access key id (default devkey)")
	fs.StringVar(&o.SecretKey, "secret-key", "", "secret access key (default devsecret)")
	fs.BoolVar(&tied, "tied", false, "end when standard input is closed: the server dies with its parent")
	if err := fs.Parse(args); err != nil {
		return fault.Invalid.Exit()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, end := context.WithCancel(ctx)
	defer end()
	if tied {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin) // ends when the parent does, however it does
			end()
		}()
	}
	o.Ready = func(addr string) { fmt.Fprintln(stdout, listening+addr) }
	if err := Run(ctx, o); err != nil {
		fmt.Fprintln(stderr, "devs3:", err)
		if h := fault.Hint(err); h != "" {
			fmt.Fprintln(stderr, "hint:", h)
		}
		return fault.KindOf(err).Exit()
	}
	return 0
}

// Process is a server that runs as a process of its own.
type Process struct {
	Options         // as it runs: with its defaults filled in
	Endpoint string // "http://host:port"
	cmd      *exec.Cmd
	stdin    io.Closer
}

// Start runs the program exe, which calls [Main] when its first argument is
// [Arg], and waits until the server answers. The server ends by [Process.Stop],
// when ctx is done, and with this process however that ends.
func Start(ctx context.Context, exe string, o Options) (*Process, error) {
	o = o.Defaults()
	cmd := exec.CommandContext(ctx, exe, Arg, "-tied", "-dir", o.Dir, "-addr", o.Addr, "-bucket", o.Bucket,
		"-region", o.Region, "-access-key", o.AccessKey, "-secret-key", o.SecretKey)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 15 * time.Second
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fault.New(fault.Internal, "start S3 server", exe, err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fault.New(fault.Internal, "start S3 server", exe, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fault.New(fault.Internal, "start S3 server", exe, err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), listening)
	if !ok {
		_ = stdin.Close()
		return nil, fault.Newf(fault.Internal, "start S3 server", exe, "it said %q and ended: %v", line, cmdEnd(cmd, err))
	}
	o.Addr = addr
	return &Process{Options: o, Endpoint: "http://" + addr, cmd: cmd, stdin: stdin}, nil
}

func cmdEnd(cmd *exec.Cmd, readErr error) error {
	if err := cmd.Wait(); err != nil {
		return err
	}
	return readErr
}

// Stop ends the server after the requests under way.
func (p *Process) Stop() error {
	_ = p.stdin.Close() // an error means that it is closed already
	return p.cmd.Wait()
}
