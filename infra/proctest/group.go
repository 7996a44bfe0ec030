package proctest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Group is the programs of one test, or of the demo.
type Group struct {
	mu  sync.Mutex
	all []*Program // in the order they were started
}

// Start starts a program, for the first time, and remembers it.
func (g *Group) Start(p *Program) error {
	if err := p.Start(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all = append(g.all, p)
	return nil
}

// Logs are the last lines of what each program said, for a test that failed.
func (g *Group) Logs(lines int) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var b strings.Builder
	for _, p := range g.all {
		fmt.Fprintf(&b, "--- %s said, lately:\n%s\n", p.Name, p.Tail(lines))
	}
	return b.String()
}

// End ends all by a signal, and those that have not ended after so long each by
// SIGKILL.
func (g *Group) End(sig syscall.Signal, patience time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.all {
		p.newest().signal(sig) // all begin to end; each is waited for below
	}
	for _, p := range slices.Backward(g.all) {
		_ = p.End(sig, patience) // one that had to be killed has ended too
	}
}
