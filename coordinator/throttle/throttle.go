// Package throttle slows down who guesses: it counts failed sign-ins by address
// and in all, and says when there were too many. What is guessed here is 192
// bits of chance, so this is about noise and the work it makes, for this
// coordinator and for the issuer it asks.
//
// Nobody is turned away for what others did: when many fail, each address may
// fail less often, and one that has not failed may always try.
package throttle

import (
	"cmp"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Options are the limits. The zero value is useful.
type Options struct {
	PerAddress int           // failures of one address in a window; default 10
	Overall    int           // of all addresses, from which on each has a fifth of that; default 200
	Window     time.Duration // default 1 minute
	Now        func() time.Time
}

// most bounds the addresses remembered in a window; more are counted in all, and
// not held back.
const most = 4096

// Throttle counts failures. It is safe for concurrent use.
type Throttle struct {
	o Options

	mu    sync.Mutex
	since time.Time
	all   int
	by    map[netip.Prefix]int
}

// New returns a throttle that has counted nothing.
func New(o Options) *Throttle {
	o.PerAddress, o.Overall, o.Window = cmp.Or(o.PerAddress, 10), cmp.Or(o.Overall, 200), cmp.Or(o.Window, time.Minute)
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Throttle{o: o, by: map[netip.Prefix]int{}}
}

// Check says whether an address may try; it is Transient when it has to wait.
func (t *Throttle) Check(from string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turn()
	limit := t.o.PerAddress
	if t.all >= t.o.Overall {
		limit = max(1, limit/5)
	}
	if t.by[network(from)] < limit {
		return nil
	}
	return fault.Newf(fault.Transient, "sign in", from, "too many attempts failed").
		WithHint("wait %s, then try again", t.o.Window)
}

// Failed counts a failure.
func (t *Throttle) Failed(from string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.turn()
	t.all++
	if n := network(from); t.by[n] > 0 || len(t.by) < most {
		t.by[n]++
	}
}

// turn begins a new window when the last is over.
func (t *Throttle) turn() {
	if now := t.o.Now(); now.Sub(t.since) >= t.o.Window || now.Before(t.since) {
		t.since, t.all = now, 0
		clear(t.by)
	}
}

// network is what one guesser has: an IPv4 address, or an IPv6 /64.
func network(from string) netip.Prefix {
	addr, err := netip.ParseAddr(from)
	if err != nil {
		return netip.Prefix{}
	}
	addr = addr.Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits) // bits fit the address
	return p
}

// Address is where a request comes from, without the port.
func Address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
