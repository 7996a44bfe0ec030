package lambdasim

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"
)

// box is one life of an environment's processes, from their start to their end.
// Everything that happens (a call to an API, an exit, an event from the
// function) changes the state under mu and calls bump; whoever waits for a state
// looks again.
type box struct {
	env    *environment
	server *http.Server
	api    string // host:port

	mu         sync.Mutex
	changed    chan struct{} // closed and replaced by bump
	runtime    *process
	extensions []*extension
	waiting    bool        // the runtime is in Next
	event      *invocation // for the runtime to take
	current    *invocation // taken or about to be
	frozen     bool
	closing    bool
	dead       *functionError // why nothing more can come of this box
}

// invocation is one event on its way through a box; the box's mu guards answer,
// errorKind and done.
type invocation struct {
	id       string
	payload  []byte
	trace    string
	deadline time.Time

	answer    []byte
	errorKind string // Response.FunctionError
	done      bool
}

type outcome int

const (
	reached outcome = iota // the awaited state came
	late                   // the deadline came first
	died                   // a process ended first
)

type shutdownReason string

const (
	reasonSpindown shutdownReason = "spindown"
	reasonTimeout  shutdownReason = "timeout"
	reasonFailure  shutdownReason = "failure"
)

// Shutdown times of AWS. With external extensions the runtime gets the first
// part of the whole.
const (
	internalShutdown = 500 * time.Millisecond
	externalShutdown = 2 * time.Second
	runtimeShare     = 600 * time.Millisecond
)

// newBox starts the API and the processes, extensions first.
func newBox(e *environment) (*box, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &box{env: e, api: ln.Addr().String(), changed: make(chan struct{})}
	b.server = &http.Server{Handler: b.routes()}
	go b.server.Serve(ln) // ends when shutdown or kill closes the server
	environ := e.environ(b.api)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, path := range e.f.opts.Extensions {
		name := filepath.Base(path)
		p, err := b.spawn(name, []string{path}, environ)
		if err != nil {
			b.killLocked()
			return nil, err
		}
		b.extensions = append(b.extensions, &extension{name: name, external: true, process: p})
	}
	b.runtime, err = b.spawn("runtime", e.f.opts.Command, environ)
	if err != nil {
		b.killLocked()
		return nil, err
	}
	return b, nil
}

func (b *box) spawn(name string, command, environ []string) (*process, error) {
	log := func(line string) {
		b.env.f.opts.Log(LogLine{Environment: b.env.id, Process: name, Text: line})
	}
	return startProcess(command, environ, b.env.f.opts.TaskRoot, log, func(how string) { b.exited(name, how) })
}

// bump tells all who wait that the state changed; the caller holds mu.
func (b *box) bump() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// await waits until state holds (asked under mu), something ended, or the deadline.
func (b *box) await(deadline time.Time, state func() bool) outcome {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	for {
		b.mu.Lock()
		holds, dead, changed := state(), b.dead != nil, b.changed
		b.mu.Unlock()
		switch {
		case holds:
			return reached
		case dead:
			return died
		}
		select {
		case <-changed:
		case <-timer.C:
			return late
		}
	}
}

// States to await; the caller of each holds mu.

func (b *box) answered() bool { return b.current != nil && b.current.done }

func (b *box) settled() bool { return b.frozen }

// initialize waits until the runtime and all extensions wait for their first event.
func (b *box) initialize(limit time.Duration) *functionError {
	switch b.await(time.Now().Add(limit), b.settled) {
	case late:
		return &functionError{"Sandbox.Timedout", fmt.Sprintf("initialization did not finish within %.2f seconds", limit.Seconds())}
	case died:
		return b.cause()
	}
	return nil
}

func (b *box) cause() *functionError {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dead
}

// begin hands an event to a settled box: it thaws the processes first.
func (b *box) begin(inv *invocation) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.thaw()
	b.event, b.current = inv, inv
	for _, x := range b.extensions {
		if x.invoke {
			x.events = append(x.events, invokeEvent(inv, b.env.f.ARN()))
		}
	}
	b.bump()
}

// freezeIfIdle stops the processes when the runtime and every extension wait
// and there is nothing for them; the caller holds mu.
func (b *box) freezeIfIdle() {
	if b.frozen || b.closing || b.dead != nil || !b.waiting || b.event != nil {
		return
	}
	for _, x := range b.extensions {
		if !x.waiting || len(x.events) > 0 {
			return
		}
	}
	b.each((*process).stop)
	b.frozen = true
}

func (b *box) thaw() {
	if b.frozen {
		b.each((*process).resume)
		b.frozen = false
	}
}

// each calls do for every process; the caller holds mu.
func (b *box) each(do func(*process)) {
	for _, x := range b.extensions {
		if x.process != nil {
			do(x.process)
		}
	}
	if b.runtime != nil {
		do(b.runtime)
	}
}

// exited is called once when a process ended.
func (b *box) exited(name, how string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dead == nil {
		if name == "runtime" {
			b.dead = &functionError{"Runtime.ExitError", "Runtime exited with error: " + how}
		} else {
			b.dead = &functionError{"Extension.Crash", name + " exited with error: " + how}
		}
	}
	b.bump()
}

func (b *box) status() (Status, int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	pid := 0
	if b.runtime != nil {
		pid = b.runtime.pid
	}
	switch {
	case b.frozen:
		return Frozen, pid
	case b.current != nil:
		return Busy, pid
	}
	return Starting, pid
}

// shutdown ends the processes as AWS does for the reason and returns when all
// are gone.
func (b *box) shutdown(reason shutdownReason) {
	b.mu.Lock()
	b.closing = true
	budget := time.Duration(0)
	var told []*process // external extensions that asked to hear of the end
	if len(b.extensions) > 0 {
		budget = internalShutdown
	}
	for _, x := range b.extensions {
		if x.external {
			budget = externalShutdown
		}
		if x.external && x.shutdown {
			told = append(told, x.process)
		}
	}
	deadline := time.Now().Add(budget)
	b.thaw()
	if reason == reasonSpindown && budget > 0 {
		b.runtime.terminate()
		b.mu.Unlock()
		b.runtime.wait(min(budget, runtimeShare))
		b.mu.Lock()
	}
	b.runtime.kill()
	for _, x := range b.extensions {
		if x.external && x.shutdown {
			x.events = append(x.events, shutdownEvent(reason, deadline))
		}
	}
	b.bump()
	b.mu.Unlock()
	for _, p := range told {
		p.wait(time.Until(deadline))
	}
	b.kill()
}

// kill ends everything at once and waits until it is gone.
func (b *box) kill() {
	b.mu.Lock()
	b.killLocked()
	var all []*process
	b.each(func(p *process) { all = append(all, p) })
	b.mu.Unlock()
	for _, p := range all {
		<-p.gone
	}
}

func (b *box) killLocked() {
	b.closing = true
	b.server.Close() // its error is the listener's; nobody can act on it
	b.each((*process).kill)
	if b.dead == nil {
		b.dead = &functionError{"Runtime.ExitError", "the environment was shut down"}
	}
	b.bump()
}
