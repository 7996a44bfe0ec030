// Package gossiptest is a network in memory for pools of pkg/gossip: packets
// and streams that may be lost, doubled, delayed and cut, with no socket and no
// clock of its own, so that it works inside a testing/synctest bubble. One seed
// gives one sequence of losses.
//
// memberlist does not wait for its goroutines when it is shut down. In a bubble,
// close the pools and then let [Settle] pass the time that they need.
package gossiptest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// Conditions say how well packets travel.
type Conditions struct {
	Loss      float64       // share of packets that are lost
	Duplicate float64       // share of packets that arrive twice
	Delay     time.Duration // at least
	Jitter    time.Duration // up to so much more, which reorders
}

// Network joins the transports it made.
type Network struct {
	mu    sync.Mutex
	rnd   *rand.Rand
	cond  Conditions
	made  int
	ends  map[string]*Transport
	side  map[string]int // of a partition; absent: 0
	bytes map[string]int // sent in packets, by sender
}

// Settle lets the goroutines of pools that were closed come to their end. Call
// it inside the bubble, last.
func Settle() { time.Sleep(time.Minute) }

// New returns a network whose chances come from a seed.
func New(seed uint64) *Network {
	return &Network{
		rnd: rand.New(rand.NewPCG(seed, seed)), cond: Conditions{Delay: time.Millisecond},
		ends: map[string]*Transport{}, side: map[string]int{}, bytes: map[string]int{},
	}
}

// Set changes how well packets travel.
func (n *Network) Set(c Conditions) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cond = c
}

// Partition puts transports on a side: packets and streams pass only between
// transports of the same side. All begin on side 0.
func (n *Network) Partition(side int, ts ...*Transport) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, t := range ts {
		n.side[t.addr] = side
	}
}

// Bytes is how many bytes a transport sent in packets, without headers of IP.
func (n *Network) Bytes(t *Transport) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.bytes[t.addr]
}

// Transport returns a new end of the network, at an address of its own.
func (n *Network) Transport() *Transport {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.made++
	i := n.made
	ip := net.IPv4(10, 0, byte(i>>8), byte(i))
	t := &Transport{
		net: n, ip: ip, addr: fmt.Sprintf("%s:%d", ip, port),
		packets: make(chan *memberlist.Packet, 4096), streams: make(chan net.Conn), done: make(chan struct{}),
	}
	n.ends[t.addr] = t
	return t
}

// At is the open transport of an address, or nil.
func (n *Network) At(addr string) *Transport {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ends[addr]
}

const port = 7946

var errUnreachable = errors.New("no route to host")

// reach is the end at addr, if packets from t get there.
func (n *Network) reach(t *Transport, addr string) *Transport {
	to := n.ends[addr]
	if to == nil || n.side[t.addr] != n.side[addr] {
		return nil
	}
	return to
}

// Transport is one member's end. It implements memberlist.Transport.
type Transport struct {
	net     *Network
	ip      net.IP
	addr    string
	packets chan *memberlist.Packet
	streams chan net.Conn
	once    sync.Once
	done    chan struct{}
}

var _ memberlist.Transport = (*Transport)(nil)

type address string

// Network is the name of the network.
func (address) Network() string { return "gossiptest" }

// String is host:port.
func (a address) String() string { return string(a) }

// Addr is the transport's host:port.
func (t *Transport) Addr() string { return t.addr }

// FinalAdvertiseAddr is the transport's own address, whatever was configured.
func (t *Transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) { return t.ip, port, nil }

// WriteTo sends one packet. As with UDP, that it was sent says nothing about
// its arrival.
func (t *Transport) WriteTo(b []byte, addr string) (time.Time, error) {
	n := t.net
	n.mu.Lock()
	defer n.mu.Unlock()
	n.bytes[t.addr] += len(b)
	times := 1
	if n.rnd.Float64() < n.cond.Duplicate {
		times = 2
	}
	for range times {
		delay := n.cond.Delay
		if n.cond.Jitter > 0 {
			delay += time.Duration(n.rnd.Int64N(int64(n.cond.Jitter)))
		}
		if n.rnd.Float64() < n.cond.Loss {
			continue
		}
		p := &memberlist.Packet{Buf: bytes.Clone(b), From: address(t.addr)}
		time.AfterFunc(delay, func() { n.deliver(t, addr, p) })
	}
	return time.Now(), nil
}

func (n *Network) deliver(from *Transport, addr string, p *memberlist.Packet) {
	n.mu.Lock()
	to := n.reach(from, addr)
	n.mu.Unlock()
	if to == nil {
		return
	}
	p.Timestamp = time.Now()
	select {
	case <-to.done:
	case to.packets <- p:
	default: // a full socket buffer loses packets
	}
}

// PacketCh is where packets arrive.
func (t *Transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh is where streams arrive.
func (t *Transport) StreamCh() <-chan net.Conn { return t.streams }

// DialTimeout opens a stream.
func (t *Transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	t.net.mu.Lock()
	to := t.net.reach(t, addr)
	t.net.mu.Unlock()
	if to == nil {
		return nil, errUnreachable
	}
	here, there := net.Pipe()
	wait := time.NewTimer(timeout)
	defer wait.Stop()
	err := errUnreachable
	select {
	case to.streams <- conn{there, address(t.addr)}:
		return conn{here, address(addr)}, nil
	case <-to.done:
	case <-t.done:
	case <-wait.C:
		err = errors.New("timed out")
	}
	return nil, errors.Join(err, here.Close(), there.Close())
}

// Shutdown ends the transport: nothing reaches it any more.
func (t *Transport) Shutdown() error {
	t.once.Do(func() {
		close(t.done)
		t.net.mu.Lock()
		defer t.net.mu.Unlock()
		delete(t.net.ends, t.addr)
	})
	return nil
}

// conn is a stream that knows whom it leads to.
type conn struct {
	net.Conn
	peer address
}

// RemoteAddr is the other end.
func (c conn) RemoteAddr() net.Addr { return c.peer }
