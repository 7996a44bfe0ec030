package relay_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/relay"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/gossip"
	"github.com/modelfleet/modelfleet/pkg/gossip/gossiptest"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

const (
	fleetName = "acme"
	period    = 10 * time.Second
)

// coordinator takes batches as the real one does: verify, merge, answer.
type coordinator struct {
	t     testing.TB
	codec *telemetry.Codec

	mu      sync.Mutex
	keys    map[telemetry.KeyID]*ecdsa.PublicKey
	table   *telemetry.Table
	batches map[fleet.MemberID]int // by who handed them over
	down    bool
	refuse  string
	// noWindows refuses every window.
	noWindows bool
}

// link is one member's way to the coordinator.
type link struct {
	c    *coordinator
	name fleet.MemberID

	mu  sync.Mutex
	cut bool
}

func (l *link) set(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
}

func (l *link) SendRows(_ context.Context, batch []byte) (api.RowsReply, error) {
	l.mu.Lock()
	cut := l.cut
	l.mu.Unlock()
	c := l.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if cut || c.down {
		return api.RowsReply{}, fault.New(fault.Transient, "send rows", "", errors.New("connection refused"))
	}
	msgs, err := c.codec.Decode(batch)
	if err != nil {
		return api.RowsReply{}, err
	}
	c.batches[l.name]++
	for _, raw := range msgs {
		c.take(raw)
	}
	var reply api.RowsReply
	for _, raw := range msgs {
		if m, err := telemetry.ParseMessage(raw); err == nil && m.Window != nil && c.noWindows {
			id := gossip.IDOf(raw)
			reply.Refused = append(reply.Refused, api.RefusedRow{Member: m.Key().String(), Message: hex.EncodeToString(id[:]), Reason: "too old"})
		}
	}
	if c.refuse != "" {
		reply.Refused = []api.RefusedRow{{Member: c.refuse, Reason: "revoked"}}
	}
	return reply, nil
}

// take verifies and merges one message, whichever way it came.
func (c *coordinator) take(raw []byte) {
	m, err := telemetry.ParseMessage(raw)
	if err != nil {
		c.t.Error(err)
		return
	}
	if err := m.Verify(fleetName, c.keys[m.Key()]); err != nil {
		c.t.Error(err)
		return
	}
	c.table.Insert(m)
}

func (c *coordinator) total() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.table.Total(telemetry.ModelPrefix("m"), telemetry.SeriesKey{Release: telemetry.Prefix{1}}).Requests
}

func (c *coordinator) from(name fleet.MemberID) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.batches[name]
}

// device is a member with its pool and relay.
type device struct {
	name   fleet.MemberID
	key    *ecdsa.PrivateKey
	id     telemetry.KeyID
	link   *link
	relay  *relay.Relay
	pool   *gossip.Pool
	cancel context.CancelFunc
	ended  chan struct{}

	seq, requests uint64
	mu            sync.Mutex
	delivered     uint64
}

func (d *device) done() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.delivered
}

type world struct {
	t   *testing.T
	net *gossiptest.Network
	c   *coordinator
	ds  []*device
}

func newWorld(t *testing.T) *world {
	codec, err := telemetry.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, net: gossiptest.New(1), c: &coordinator{
		t: t, codec: codec, keys: map[telemetry.KeyID]*ecdsa.PublicKey{}, table: telemetry.NewTable(), batches: map[fleet.MemberID]int{},
	}}
}

// add starts a device. In a pool of its own it is a cell of one.
func (w *world) add(uplink bool, pooled bool) *device {
	w.t.Helper()
	d := &device{name: fleet.MemberID(fmt.Sprintf("d%02d", len(w.ds))), ended: make(chan struct{})}
	sum := sha256.Sum256([]byte(d.name))
	var err error
	check := func() {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	d.key, err = ecdsa.ParseRawPrivateKey(elliptic.P256(), sum[:])
	check()
	d.id, err = telemetry.KeyIDOf(&d.key.PublicKey)
	check()
	w.c.mu.Lock()
	w.c.keys[d.id] = &d.key.PublicKey
	w.c.mu.Unlock()
	d.link = &link{c: w.c, name: d.name, cut: !uplink}
	d.relay, err = relay.New(relay.Options{
		Member: d.name, Period: period, Uplink: d.link, Codec: w.c.codec,
		Delivered: func(seq uint64) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.delivered = max(d.delivered, seq)
		},
	})
	check()
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	if !pooled {
		go func() { defer close(d.ended); _ = d.relay.Run(ctx, nil) }()
		w.ds = append(w.ds, d)
		return d
	}
	raw, err := d.key.PublicKey.Bytes()
	check()
	o := gossip.Options{
		Fleet: fleetName, Cell: "a/0", Member: d.name, Group: "default", Signer: d.key, Certificate: append([]byte(d.name), raw...), Uplink: uplink,
		Identify: func(cert []byte) (gossip.Identity, error) {
			pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), cert[3:])
			return gossip.Identity{Member: fleet.MemberID(cert[:3]), Key: pub, Coordinator: string(cert[:3]) == "hub"}, err
		},
		Keys: [][]byte{make([]byte, 32)}, Transport: w.net.Transport(),
		Handlers: gossip.Handlers{OnMessage: d.relay.Take, OnAck: d.relay.Acked},
	}
	if len(w.ds) > 0 {
		o.Seeds = []string{w.ds[0].pool.Addr()}
	}
	d.pool, err = gossip.Open(o)
	check()
	go func() { defer close(d.ended); _ = d.relay.Run(ctx, d.pool) }()
	w.ds = append(w.ds, d)
	return d
}

// hub joins the coordinator itself to the cell.
func (w *world) hub() *gossip.Pool {
	w.t.Helper()
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), slices.Repeat([]byte{9}, 32))
	if err != nil {
		w.t.Fatal(err)
	}
	raw, err := key.PublicKey.Bytes()
	if err != nil {
		w.t.Fatal(err)
	}
	p, err := gossip.Open(gossip.Options{
		Fleet: fleetName, Cell: "a/0", Member: "hub", Signer: key, Certificate: append([]byte("hub"), raw...), Uplink: true,
		Identify: func(cert []byte) (gossip.Identity, error) {
			pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), cert[3:])
			return gossip.Identity{Member: fleet.MemberID(cert[:3]), Key: pub, Coordinator: string(cert[:3]) == "hub"}, err
		},
		Keys: [][]byte{make([]byte, 32)}, Transport: w.net.Transport(), Seeds: []string{w.ds[0].pool.Addr()},
		Handlers: gossip.Handlers{OnMessage: func(m telemetry.Message, _ gossip.Identity) bool {
			w.c.mu.Lock()
			defer w.c.mu.Unlock()
			w.c.table.Insert(m)
			return true
		}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// kill ends a device as a power cut does.
func (w *world) kill(d *device) {
	d.cancel()
	<-d.ended
	if d.pool != nil {
		if err := d.pool.Close(); err != nil {
			w.t.Error(err)
		}
	}
	w.ds = slices.DeleteFunc(w.ds, func(x *device) bool { return x == d })
}

func (w *world) end() {
	for len(w.ds) > 0 {
		w.kill(w.ds[0])
	}
	gossiptest.Settle()
}

func (w *world) truth() uint64 {
	sum := uint64(0)
	for _, d := range w.ds {
		sum += d.requests
	}
	return sum
}

// primary and standby, as the first device sees them.
func (w *world) role(r gossip.Role) *device {
	w.t.Helper()
	for _, d := range w.ds {
		if d.pool.Role() == r {
			return d
		}
	}
	w.t.Fatalf("nobody is %s", r)
	return nil
}

// transport is the device's end of the network.
func (w *world) transport(d *device) *gossiptest.Transport { return w.net.At(d.pool.Addr()) }
