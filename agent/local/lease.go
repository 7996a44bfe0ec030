package local

import (
	"crypto/rand"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// lease is one application's use of one release.
type lease struct {
	id      string
	app     string
	model   fleet.ModelName
	root    fleet.Digest
	path    string
	mended  time.Time
	expires time.Time
	watches int // connections that carry it
}

// leases is who uses what. A lease ends by unload, or is lost: its connection
// drops, it is not heard of for a TTL, or its application loads the same
// release again.
type leases struct {
	ttl time.Duration

	mu   sync.Mutex
	byID map[string]*lease // under mu
}

// maxLeases bounds what an application that loads under ever new names can take.
const maxLeases = 1024

// take gives app a lease and reports whether it held one of the same release.
func (l *leases) take(app string, model fleet.ModelName, r Release, now time.Time) (got lease, reloaded bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, old := range l.byID {
		if old.app == app && old.model == model && old.root == r.Root && old.mended.Equal(r.Mended) {
			delete(l.byID, id)
			reloaded = true
		}
	}
	if len(l.byID) >= maxLeases {
		return lease{}, reloaded, fault.Newf(fault.Exhausted, "load model", string(model), "%d leases are out", len(l.byID)).
			WithHint("give leases back with unload; those nobody renews end by themselves")
	}
	n := &lease{id: rand.Text(), app: app, model: model, root: r.Root, path: r.Path, mended: r.Mended, expires: now.Add(l.ttl)}
	l.byID[n.id] = n
	return *n, reloaded, nil
}

// touch renews a lease and reports whether it is known.
func (l *leases) touch(id string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, ok := l.byID[id]
	if ok {
		n.expires = now.Add(l.ttl)
	}
	return ok
}

// attach ties a lease to a connection.
func (l *leases) attach(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, ok := l.byID[id]
	if ok {
		n.watches++
	}
	return ok
}

// detach unties it; the last connection to drop takes the lease with it.
func (l *leases) detach(id string) (lost lease, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, known := l.byID[id]
	if !known {
		return lease{}, false
	}
	if n.watches--; n.watches > 0 {
		return lease{}, false
	}
	delete(l.byID, id)
	return *n, true
}

// give ends a lease in good order.
func (l *leases) give(id string) (lease, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, ok := l.byID[id]
	if !ok {
		return lease{}, false
	}
	delete(l.byID, id)
	return *n, true
}

// expire removes and returns the leases not heard of in time, by id.
func (l *leases) expire(now time.Time) []lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lost []lease
	for id, n := range l.byID {
		if n.watches == 0 && now.After(n.expires) {
			lost = append(lost, *n)
			delete(l.byID, id)
		}
	}
	slices.SortFunc(lost, func(a, b lease) int { return strings.Compare(a.id, b.id) })
	return lost
}

// paths is the folders in use.
func (l *leases) paths() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []string
	for _, n := range l.byID {
		if !slices.Contains(all, n.path) {
			all = append(all, n.path)
		}
	}
	return all
}
