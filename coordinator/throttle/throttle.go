// Package throttle slows down who guesses: it counts failed sign-ins by address
// and in all, and says when there were too many. What is guessed here is 192
// bits of chance, so this is about noise and the work it makes, for this
// coordinator and for the issuer it asks.
//
// Nobody is turned away for what others did: when many fail, each network may fail
// less often, and one that has not failed may try. What is remembered is bounded. Only
// when thousands of sites fail within a minute do those wait that nobody signed in
// from before: together they may fail as often as all may before that.
package throttle

import (
	"cmp"
	"net"
	"net/http"
	"net/netip"
	"slices"
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

// most bounds the networks remembered in a window, and the known ones.
const most = 4096

// Throttle counts failures. It is safe for concurrent use.
type Throttle struct {
	o Options

	mu        sync.Mutex
	since     time.Time
	all       int
	by        map[netip.Prefix]int
	strangers int                       // failures of networks that there was no room for
	known     map[netip.Prefix]struct{} // that somebody signed in from
}

// New returns a throttle that has counted nothing.
func New(o Options) *Throttle {
	o.PerAddress, o.Overall, o.Window = cmp.Or(o.PerAddress, 10), cmp.Or(o.Overall, 200), cmp.Or(o.Window, time.Minute)
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Throttle{o: o, by: map[netip.Prefix]int{}, known: map[netip.Prefix]struct{}{}}
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
	nets := networks(from)
	_, known := t.known[nets[0].Prefix]
	waits := !known && t.full() && t.by[nets[len(nets)-1].Prefix] == 0 && t.strangers >= t.o.Overall
	for i, n := range nets {
		waits = waits || t.by[n.Prefix] >= n.share*limit && (i == 0 || !known)
	}
	if !waits {
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
	counted := false
	for _, n := range slices.Backward(networks(from)) { // the widest first: it stands for many
		if t.by[n.Prefix] > 0 || !t.full() {
			t.by[n.Prefix]++
			counted = true
		}
	}
	if !counted {
		t.strangers++
	}
}

// Succeeded has a network be known: what others do never keeps it out.
func (t *Throttle) Succeeded(from string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	near := networks(from)[0].Prefix
	if _, ok := t.known[near]; ok {
		return
	}
	for k := range t.known { // any: there are few, and one that is forgotten is a stranger again
		if len(t.known) < most {
			break
		}
		delete(t.known, k)
	}
	t.known[near] = struct{}{}
}

func (t *Throttle) full() bool { return len(t.by) >= most }

// turn begins a new window when the last is over.
func (t *Throttle) turn() {
	if now := t.o.Now(); now.Sub(t.since) >= t.o.Window || now.Before(t.since) {
		t.since, t.all, t.strangers = now, 0, 0
		clear(t.by)
	}
}

// network is what one guesser may have, and how many times what one address may fail
// it may fail.
type network struct {
	netip.Prefix
	share int
}

// networks is those that an address is of, the narrowest first: of IPv6, a person has
// a /64 or a /56, a firm a /48 with 65,536 of the former in it.
func networks(from string) []network {
	addr, err := netip.ParseAddr(from)
	if err != nil {
		return []network{{share: 1}}
	}
	of := func(bits, share int) network {
		p, _ := addr.Prefix(bits) // they fit the address
		return network{p, share}
	}
	if addr = addr.Unmap().WithZone(""); addr.Is4() {
		return []network{of(32, 1)}
	}
	return []network{of(64, 1), of(56, 2), of(48, 10)}
}

// Address is where a request comes from, without the port.
func Address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
