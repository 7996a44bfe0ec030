package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Options says how a device tests a release before it serves it.
type Options struct {
	// Command is run by /bin/sh with the release in MODELFLEET_PATH,
	// MODELFLEET_MODEL, MODELFLEET_RELEASE and MODELFLEET_ROOT, and with the
	// path as $1. Exit status 0 passes, 75 (EX_TEMPFAIL) says that the device
	// could not test now, 126 and 127 that the command is missing, anything else
	// that the release is bad.
	Command string
	// URL is posted the same facts as JSON ([Request]). A 2xx answer passes, 503
	// says not now, any other that the release is bad.
	URL string
	// Timeout of each; default 2 min. A test that takes longer fails the release.
	Timeout time.Duration
	// Client is used for URL; default one of our own.
	Client *http.Client
}

// Subject is the release under test.
type Subject struct {
	Model fleet.ModelName
	Ref   string
	Root  fleet.Digest
	Path  string // absolute folder of its files
}

// Request is the JSON body that [Options.URL] is posted.
type Request struct {
	Model string `json:"model"`
	Ref   string `json:"release"`
	Root  string `json:"root"`
	Path  string `json:"path"`
}

// maxOutput is how much of a test's output is kept: its end, where the error is.
const maxOutput = 4 << 10

// Test runs the self-test. Its error is Invalid when the release is bad, with
// the end of the test's output; Transient when the device could not run the
// test now; Canceled when ctx ended.
func Test(ctx context.Context, o Options, s Subject) error {
	if o.Timeout <= 0 {
		o.Timeout = 2 * time.Minute
	}
	if err := readable(ctx, s); err != nil {
		return err
	}
	if o.Command != "" {
		if err := o.run(ctx, s); err != nil {
			return err
		}
	}
	if o.URL != "" {
		return o.post(ctx, s)
	}
	return nil
}

// readable opens every file and reads its first and last bytes: enough to find
// a folder that is not there or a disk that gives up, without reading it all
// again (every byte was verified on its way in).
func readable(ctx context.Context, s Subject) error {
	files := 0
	err := filepath.WalkDir(s.Path, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		if err := ctx.Err(); err != nil {
			return err
		}
		return ends(path)
	})
	switch {
	case ctx.Err() != nil:
		return fault.New(fault.Canceled, "test release", s.Ref, ctx.Err())
	case err != nil:
		return fault.New(fault.Transient, "test release", s.Ref, err)
	case files == 0:
		return fault.Newf(fault.Invalid, "test release", s.Ref, "it has no files")
	}
	return nil
}

func ends(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size() == 0 {
		return err
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], 0); err != nil {
		return err
	}
	_, err = f.ReadAt(b[:], fi.Size()-1)
	return err
}

func (o Options) run(ctx context.Context, s Subject) error {
	ctx2, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx2, "/bin/sh", "-c", o.Command, "selftest", s.Path)
	cmd.Dir = s.Path
	cmd.Env = append(os.Environ(),
		"MODELFLEET_PATH="+s.Path, "MODELFLEET_MODEL="+string(s.Model),
		"MODELFLEET_RELEASE="+s.Ref, "MODELFLEET_ROOT="+s.Root.String())
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	// The command may have started others: the whole group goes.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	exit, _ := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fault.New(fault.Canceled, "self-test", s.Ref, ctx.Err())
	case ctx2.Err() != nil:
		return fault.Newf(fault.Invalid, "self-test", s.Ref, "no end after %s%s", o.Timeout, out.said())
	case exit == nil:
		return fault.New(fault.Transient, "self-test", s.Ref, err)
	case exit.ExitCode() == 75, exit.ExitCode() == 126, exit.ExitCode() == 127:
		return fault.Newf(fault.Transient, "self-test", s.Ref, "could not run, exit status %d%s", exit.ExitCode(), out.said()).
			WithHint("check the agent's -selftest on this device")
	}
	return fault.Newf(fault.Invalid, "self-test", s.Ref, "%s%s", exit.ProcessState, out.said())
}

func (o Options) post(ctx context.Context, s Subject) error {
	ctx2, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	body, err := json.Marshal(Request{Model: string(s.Model), Ref: s.Ref, Root: s.Root.String(), Path: s.Path})
	if err != nil {
		return fault.New(fault.Internal, "self-test", s.Ref, err)
	}
	req, err := http.NewRequestWithContext(ctx2, http.MethodPost, o.URL, bytes.NewReader(body))
	if err != nil {
		return fault.New(fault.Transient, "self-test", s.Ref, err).WithHint("check the agent's -selftest-url on this device")
	}
	req.Header.Set("Content-Type", "application/json")
	client := o.Client
	if client == nil {
		client = &http.Client{}
	}
	resp, err := client.Do(req)
	switch {
	case ctx.Err() != nil:
		return fault.New(fault.Canceled, "self-test", s.Ref, ctx.Err())
	case ctx2.Err() != nil:
		return fault.Newf(fault.Invalid, "self-test", s.Ref, "no answer after %s", o.Timeout)
	case err != nil: // nobody listens: the application is not up yet
		return fault.New(fault.Transient, "self-test", s.Ref, err)
	}
	defer resp.Body.Close()
	var out tail
	// An answer cut short is judged by its status.
	_, _ = io.Copy(&out, io.LimitReader(resp.Body, 1<<20))
	switch {
	case resp.StatusCode/100 == 2:
		return nil
	case resp.StatusCode == http.StatusServiceUnavailable:
		return fault.Newf(fault.Transient, "self-test", s.Ref, "answered %s%s", resp.Status, out.said())
	}
	return fault.Newf(fault.Invalid, "self-test", s.Ref, "answered %s%s", resp.Status, out.said())
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

// Write keeps the last maxOutput bytes.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if n := len(t.buf) - maxOutput; n > 0 {
		t.buf = append(t.buf[:0], t.buf[n:]...)
	}
	return len(p), nil
}

// said is the output's last 200 printable bytes on one line, as a reason's end.
func (t *tail) said() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := strings.Join(strings.FieldsFunc(strings.ToValidUTF8(string(t.buf), "?"), func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
	if s == "" {
		return ""
	}
	if len(s) > 200 {
		s = "..." + strings.ToValidUTF8(s[len(s)-200:], "")
	}
	return ": " + s
}
