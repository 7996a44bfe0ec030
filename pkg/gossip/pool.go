package gossip

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// Pool is a member's part in its cell. Its methods are safe for concurrent use.
type Pool struct {
	opts  Options
	self  Identity
	key   telemetry.KeyID
	addr  netip.AddrPort
	list  *memberlist.Memberlist
	ring  *memberlist.Keyring
	count counters

	inbox   chan []byte   // copies of messages, for the worker
	changed chan struct{} // nodes changed
	stop    chan struct{}
	closing sync.Once
	workers sync.WaitGroup
	sends   chan struct{} // a slot for each body being sent
	view    atomic.Pointer[view]
	turn    atomic.Pointer[turn] // nil: the keys are as they should be

	packets memberlist.TransmitLimitedQueue

	mu    sync.Mutex // guards the rest; memberlist's callbacks take it, so it is held briefly and never around a call into memberlist
	meta  []byte
	cert  []byte
	seeds []string
	nodes map[string]memberlist.Node // alive, by name
	peers map[telemetry.KeyID]*peer
	packs map[fleet.Group]held
	// checkpoint of the audit log that the member was shown; "": none
	checkpoint string

	worker workerState // the worker goroutine's own
}

// Open starts a member's part in its cell: it listens, joins by the seeds, and
// goes on trying to while it is alone. Close it with [Pool.Leave].
func Open(o Options) (*Pool, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	pub, ok := o.Signer.Public().(*ecdsa.PublicKey)
	if !ok {
		return nil, fault.Newf(fault.Invalid, "open gossip pool", "", "want an ECDSA P-256 key")
	}
	key, err := telemetry.KeyIDOf(pub)
	if err != nil {
		return nil, err
	}
	self, err := o.Identify(o.Certificate)
	if err != nil {
		return nil, fault.New(fault.KindOf(err), "open gossip pool", "certificate", err)
	}
	if self.Member != o.Member || !pub.Equal(self.Key) {
		return nil, fault.Newf(fault.Invalid, "open gossip pool", "certificate", "it is not of member %s and its key", o.Member)
	}
	p := &Pool{
		opts: o, self: self, key: key, cert: o.Certificate, seeds: o.Seeds,
		inbox: make(chan []byte, inboxDepth), changed: make(chan struct{}, 1),
		stop: make(chan struct{}), sends: make(chan struct{}, maxSends),
		nodes: map[string]memberlist.Node{}, peers: map[telemetry.KeyID]*peer{}, packs: map[fleet.Group]held{},
		worker: newWorkerState(),
	}
	p.peers[key] = &peer{identity: self, cert: o.Certificate}
	p.view.Store(&view{})
	if err := p.start(); err != nil {
		return nil, err
	}
	p.workers.Go(p.work)
	p.workers.Go(p.join)
	return p, nil
}

// start opens the transport, learns the member's own address, signs metadata
// for it and starts memberlist.
func (p *Pool) start() error {
	c, err := p.config()
	if err != nil {
		return err
	}
	ip, port, err := c.Transport.FinalAdvertiseAddr(c.AdvertiseAddr, c.AdvertisePort)
	if err == nil {
		p.addr, err = addrPort(ip, uint16(port))
	}
	if err == nil {
		m := meta{uplink: p.opts.Uplink, metered: p.opts.Metered, weight: p.opts.Weight, key: p.key, share: p.opts.Share}
		p.meta, err = m.sign(p.opts.Fleet, p.opts.Signer, p.where(string(p.opts.Member), p.addr))
	}
	if err != nil {
		return fault.New(fault.Internal, "open gossip pool", "address", closing(c.Transport, err))
	}
	c.AdvertiseAddr, c.AdvertisePort = p.addr.Addr().String(), int(p.addr.Port())
	p.packets = memberlist.TransmitLimitedQueue{NumNodes: p.size, RetransmitMult: c.RetransmitMult}
	if p.list, err = memberlist.Create(c); err != nil {
		return fault.New(fault.Internal, "open gossip pool", "", closing(c.Transport, err))
	}
	return nil
}

func closing(t memberlist.Transport, err error) error {
	_ = t.Shutdown() // err says why; a transport that does not close adds nothing to it
	return err
}

func (p *Pool) config() (*memberlist.Config, error) {
	o := &p.opts
	c := memberlist.DefaultLANConfig()
	c.Name, c.Label = string(o.Member), Label(o.Fleet, o.Cell)
	c.GossipInterval, c.ProbeInterval, c.ProbeTimeout, c.PushPullInterval = o.Timing.Gossip, o.Timing.Probe, o.Timing.Timeout, o.Timing.PushPull
	c.TCPTimeout = 5 * time.Second
	c.EnableCompression = false // LZW costs 60 us a packet; what is large here is compressed already
	c.DeadNodeReclaimTime = time.Second
	c.UDPBufferSize = 1400
	c.CIDRsAllowed = o.CIDRs
	c.Logger = newLog(o.Logger)
	c.Delegate, c.Events, c.Alive = (*delegate)(p), (*delegate)(p), (*delegate)(p)
	ring, err := memberlist.NewKeyring(o.Keys, o.Keys[0])
	if err != nil {
		return nil, fault.New(fault.Invalid, "open gossip pool", "keys", err)
	}
	c.Keyring, p.ring = ring, ring
	c.Transport, c.AdvertiseAddr = o.Transport, o.Advertise
	if c.Transport != nil {
		return c, nil
	}
	host, portText, err := net.SplitHostPort(o.Bind)
	port, err2 := strconv.ParseUint(portText, 10, 16)
	if err != nil || err2 != nil {
		return nil, fault.Newf(fault.Invalid, "open gossip pool", o.Bind, "not host:port").WithHint("write for example 0.0.0.0:7946")
	}
	if host == "" {
		host = "0.0.0.0"
	}
	nt, err := listen(&memberlist.NetTransportConfig{BindAddrs: []string{host}, BindPort: int(port), Logger: c.Logger})
	if err != nil {
		return nil, err
	}
	c.Transport, c.BindAddr, c.BindPort, c.AdvertisePort = nt, host, nt.GetAutoBindPort(), nt.GetAutoBindPort()
	return c, nil
}

// listen opens UDP and TCP on one port. With port 0 the port that one of them
// got may be taken for the other, so it tries again.
func listen(c *memberlist.NetTransportConfig) (*memberlist.NetTransport, error) {
	tries := 1
	if c.BindPort == 0 {
		tries = 10
	}
	var err error
	for range tries {
		var nt *memberlist.NetTransport
		if nt, err = memberlist.NewNetTransport(c); err == nil {
			return nt, nil
		}
	}
	return nil, fault.New(fault.Conflict, "listen for gossip", c.BindAddrs[0]+":"+strconv.Itoa(c.BindPort), err).
		WithHint("another program may use the port; choose another, or 0 for any")
}

// Label is the label of a cell's packets: members of different cells do not
// even try each other's keys.
func Label(fleetName, cell string) string {
	sum := sha256.Sum256([]byte(fleetName + "\x00" + cell))
	return base64.RawURLEncoding.EncodeToString(sum[:6])
}

func addrPort(ip net.IP, port uint16) (netip.AddrPort, error) {
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return netip.AddrPort{}, fault.Newf(fault.Invalid, "read address", "", "%d bytes", len(ip))
	}
	return netip.AddrPortFrom(a.Unmap(), port), nil
}

func (p *Pool) where(name string, at netip.AddrPort) where {
	return where{cell: p.opts.Cell, name: name, addr: at}
}

// Addr is the host:port that others reach the member by.
func (p *Pool) Addr() string { return p.addr.String() }

// size is the number of members that memberlist takes for alive.
func (p *Pool) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(len(p.nodes), 1)
}

// SetSeeds replaces the members to join by when the member is alone.
func (p *Pool) SetSeeds(seeds []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seeds = seeds
}

// join joins by the seeds while the member is alone; some times more at first,
// because members that join all at once miss some of each other's news until
// they exchange everything; and now and then later, so that a cell that fell
// apart finds itself again.
func (p *Pool) join() {
	wait := p.opts.Timing.Tick
	for turn := 0; ; turn++ {
		if p.size() == 1 || turn < 4 || turn%4 == 3 {
			p.mu.Lock()
			seeds := slices.Clone(p.seeds)
			p.mu.Unlock()
			rand.Shuffle(len(seeds), func(i, j int) { seeds[i], seeds[j] = seeds[j], seeds[i] })
			for _, s := range seeds {
				if s == p.Addr() || p.stopped() {
					continue
				}
				if n, _ := p.list.Join([]string{s}); n > 0 && p.size() > 1 {
					break // memberlist logged the seeds that did not answer
				}
			}
		}
		select {
		case <-p.stop:
			return
		case <-time.After(wait/2 + rand.N(wait)):
		}
		wait = min(wait*2, 30*p.opts.Timing.Tick)
	}
}

func (p *Pool) stopped() bool {
	select {
	case <-p.stop:
		return true
	default:
		return false
	}
}

// Leave tells the others that the member goes, waits until ctx ends at most,
// and closes the pool.
func (p *Pool) Leave(ctx context.Context) error {
	wait := time.Second
	if at, ok := ctx.Deadline(); ok {
		wait = max(time.Until(at), time.Millisecond)
	}
	if err := p.list.Leave(wait); err != nil {
		p.opts.Logger.Debug("gossip pool left without farewell", "err", err)
	}
	return p.Close()
}

// Close stops at once and waits until everything the pool started has ended.
// Others will find the member dead after a while.
func (p *Pool) Close() error {
	var err error
	p.closing.Do(func() {
		close(p.stop)
		err = p.list.Shutdown()
		p.workers.Wait()
	})
	if err != nil {
		return fault.New(fault.Internal, "close gossip pool", p.opts.Cell, err)
	}
	return nil
}
