package lambdasim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Options describe a function. Only Command must be set.
type Options struct {
	Command    []string // the function's program and arguments
	Extensions []string // programs started as external extensions, before the function
	Env        []string // "K=V", in addition to what Lambda sets; nothing is inherited from this process

	Name     string // default "function"
	Handler  string // _HANDLER; default "bootstrap"
	Region   string // default "us-east-1"
	MemoryMB int    // told to the function, not enforced; default 128
	TaskRoot string // LAMBDA_TASK_ROOT and working directory; default: the program's folder

	Timeout         time.Duration // of an invocation; default 3 s
	InitTimeout     time.Duration // default 10 s
	MaxEnvironments int           // default 10

	TempDir string // holds one folder an environment, its /tmp; default: made, and removed by Close
	// Log gets each line a process prints, in order; several processes call it at
	// once. A line may come a little after the response it was printed for.
	Log func(LogLine)
}

// LogLine is a line of output.
type LogLine struct {
	Environment string
	Process     string // "runtime", or the extension's name
	Text        string
}

// Response is what an invocation gave.
type Response struct {
	RequestID   string
	Environment string // id of the environment that ran it
	Payload     []byte
	// FunctionError is "" when the handler returned a value, else "Unhandled";
	// the payload then is AWS's error document.
	FunctionError string
	Cold          bool          // the environment was initialized for it
	Init          time.Duration // that took so long; 0 when not cold
	Duration      time.Duration // from the event to the response
}

// Status is where an environment stands.
type Status string

// The statuses.
const (
	Starting Status = "starting" // initializing, or reset and not yet initialized again
	Busy     Status = "busy"     // an event is being handled, or extensions have not come back
	Frozen   Status = "frozen"   // idle: its processes are stopped
)

// Environment is a look at one execution environment.
type Environment struct {
	ID          string
	Status      Status
	PID         int // of the runtime process; 0 when there is none
	Temp        string
	Invocations int
	Starts      int // initializations; more than one after a crash or timeout
}

// Function is a deployed function with its environments.
type Function struct {
	opts     Options
	ownsTemp bool
	running  sync.WaitGroup // invocations and provisioning in progress

	mu       sync.Mutex
	closed   bool
	envs     []*environment
	idle     []*environment // the longest idle first
	created  int
	settling int           // environments that have answered and are not idle yet
	freed    chan struct{} // closed and replaced when an environment becomes idle
}

// settleGrace is how long an invocation waits for an environment that has given
// its last answer already before it starts another: on AWS the way there takes
// longer than a runtime needs to come back, so a caller that invokes in turn
// meets the same environment. At the limit it waits on, rather than be throttled
// by an environment that is as good as idle.
const settleGrace = 100 * time.Millisecond

// New checks the options. It starts nothing: environments come with
// [Function.Invoke] or [Function.Provision].
func New(opts Options) (*Function, error) {
	if len(opts.Command) == 0 {
		return nil, fault.Newf(fault.Invalid, "make function", opts.Name, "no command")
	}
	for _, p := range append([]string{opts.Command[0]}, opts.Extensions...) {
		info, err := os.Stat(p)
		if err == nil && (info.IsDir() || info.Mode()&0o111 == 0) {
			err = errors.New("not a program")
		}
		if err != nil {
			return nil, fault.New(fault.Invalid, "make function", p, err).
				WithHint("build the function first and give the path of its binary")
		}
	}
	f := &Function{opts: opts.withDefaults(), freed: make(chan struct{})}
	if f.opts.TempDir == "" {
		dir, err := os.MkdirTemp("", "lambdasim-")
		if err != nil {
			return nil, fault.New(fault.Exhausted, "make function", opts.Name, err)
		}
		f.opts.TempDir, f.ownsTemp = dir, true
	}
	return f, nil
}

func (o Options) withDefaults() Options {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&o.Name, "function")
	def(&o.Handler, "bootstrap")
	def(&o.Region, "us-east-1")
	def(&o.TaskRoot, filepath.Dir(o.Command[0]))
	if o.MemoryMB == 0 {
		o.MemoryMB = 128
	}
	if o.Timeout == 0 {
		o.Timeout = 3 * time.Second
	}
	if o.InitTimeout == 0 {
		o.InitTimeout = 10 * time.Second
	}
	if o.MaxEnvironments == 0 {
		o.MaxEnvironments = 10
	}
	if o.Log == nil {
		o.Log = func(LogLine) {}
	}
	return o
}

// ARN is the function's made-up name in AWS.
func (f *Function) ARN() string {
	return "arn:aws:lambda:" + f.opts.Region + ":123456789012:function:" + f.opts.Name
}

// Invoke sends an event and waits for the response. What the function does
// wrong is in the response; an error means that it was not tried (throttled:
// kind exhausted; closed: denied) or that ctx ended first, in which case
// the invocation goes on without its caller, as on AWS.
func (f *Function) Invoke(ctx context.Context, payload []byte) (Response, error) {
	if len(payload) > maxPayload {
		return Response{}, fault.Newf(fault.Invalid, "invoke", f.opts.Name, "event of %d bytes is larger than %d", len(payload), maxPayload)
	}
	env, err := f.acquire()
	if err != nil {
		return Response{}, err
	}
	result := make(chan Response, 1)
	f.running.Go(func() {
		env.invoke(payload, result)
		f.release(env)
	})
	select {
	case r := <-result:
		return r, nil
	case <-ctx.Done():
		return Response{}, fault.New(fault.Canceled, "invoke", f.opts.Name, ctx.Err())
	}
}

// Provision starts environments until n are there and initialized (or ctx ends),
// as provisioned concurrency does.
func (f *Function) Provision(ctx context.Context, n int) error {
	var started []*environment
	f.mu.Lock()
	for len(f.envs) < n {
		env, err := f.add()
		if err != nil {
			f.mu.Unlock()
			return err
		}
		env.provisioned = true
		started = append(started, env)
	}
	f.mu.Unlock()
	errs := make(chan error, len(started))
	for _, env := range started {
		f.running.Go(func() {
			_, ferr := env.start(f.opts.InitTimeout)
			f.release(env)
			if ferr != nil {
				errs <- ferr
				return
			}
			errs <- nil
		})
	}
	for range started {
		select {
		case err := <-errs:
			if err != nil {
				return fault.New(fault.Internal, "provision function", f.opts.Name, err)
			}
		case <-ctx.Done():
			return fault.New(fault.Canceled, "provision function", f.opts.Name, ctx.Err())
		}
	}
	return nil
}

// Environments is a look at all environments, oldest first.
func (f *Function) Environments() []Environment {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]Environment, len(f.envs))
	for i, e := range f.envs {
		out[i] = e.look()
	}
	return out
}

// ReleaseIdle shuts down every environment that is idle now, as AWS does after
// some minutes without events, and reports how many there were.
func (f *Function) ReleaseIdle() int {
	f.mu.Lock()
	idle := f.idle
	f.idle = nil
	for _, e := range idle {
		f.envs = slices.DeleteFunc(f.envs, func(x *environment) bool { return x == e })
	}
	f.mu.Unlock()
	shutdownAll(idle)
	return len(idle)
}

func shutdownAll(envs []*environment) {
	var wg sync.WaitGroup
	for _, e := range envs {
		wg.Go(e.shutdown)
	}
	wg.Wait()
}

// Settle waits until no invocation is in progress: every environment is then
// frozen or, after a crash or timeout, reset.
func (f *Function) Settle(ctx context.Context) error {
	finished := make(chan struct{})
	go func() {
		f.running.Wait()
		close(finished)
	}()
	select {
	case <-finished:
		return nil
	case <-ctx.Done():
		return fault.New(fault.Canceled, "settle function", f.opts.Name, ctx.Err())
	}
}

// Close refuses further invocations, lets those in progress finish until ctx
// ends, and shuts every environment down.
func (f *Function) Close(ctx context.Context) error {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	if f.Settle(ctx) != nil {
		f.mu.Lock()
		envs := slices.Clone(f.envs)
		f.mu.Unlock()
		for _, e := range envs {
			e.kill()
		}
		f.running.Wait()
	}
	f.ReleaseIdle()
	if f.ownsTemp {
		return os.RemoveAll(f.opts.TempDir)
	}
	return nil
}

// acquire takes the environment that was idle longest, or adds one.
func (f *Function) acquire() (*environment, error) {
	grace := time.NewTimer(settleGrace)
	defer grace.Stop()
	for patient := true; ; {
		f.mu.Lock()
		switch {
		case f.closed:
			f.mu.Unlock()
			return nil, fault.Newf(fault.Denied, "invoke", f.opts.Name, "the function was closed")
		case len(f.idle) > 0:
			e := f.idle[0]
			f.idle = f.idle[1:]
			f.mu.Unlock()
			return e, nil
		case f.settling == 0, !patient && len(f.envs) < f.opts.MaxEnvironments:
			e, err := f.add()
			f.mu.Unlock()
			return e, err
		}
		freed := f.freed
		f.mu.Unlock()
		select {
		case <-freed:
		case <-grace.C:
			patient = false
		}
	}
}

// answered says that e's caller has its response but e is not idle yet.
func (f *Function) answered(e *environment) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e.settling = true
	f.settling++
}

func (f *Function) release(e *environment) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e.settling {
		e.settling = false
		f.settling--
	}
	f.idle = append(f.idle, e)
	close(f.freed)
	f.freed = make(chan struct{})
}

// add makes an environment; the caller holds f.mu and owns the environment.
func (f *Function) add() (*environment, error) {
	if len(f.envs) >= f.opts.MaxEnvironments {
		return nil, fault.Newf(fault.Exhausted, "invoke", f.opts.Name, "throttled: all %d environments are busy", len(f.envs))
	}
	f.created++
	id := fmt.Sprintf("env-%d", f.created)
	temp := filepath.Join(f.opts.TempDir, id)
	if err := os.MkdirAll(temp, 0o700); err != nil {
		return nil, fault.New(fault.Exhausted, "start environment", temp, err)
	}
	e := &environment{f: f, id: id, temp: temp}
	f.envs = append(f.envs, e)
	return e, nil
}
