package agent

import (
	"context"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelfleet/modelfleet/agent/effect"
	"github.com/modelfleet/modelfleet/agent/host"
	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/agent/relay"
	"github.com/modelfleet/modelfleet/agent/scrub"
	"github.com/modelfleet/modelfleet/agent/share"
	"github.com/modelfleet/modelfleet/agent/slot"
	"github.com/modelfleet/modelfleet/agent/standby"
	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/agent/uplink"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/gossip"
	"github.com/modelfleet/modelfleet/pkg/identity"
	"github.com/modelfleet/modelfleet/pkg/registry/web"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// agent is the parts of a running agent.
type agent struct {
	o        Options
	me       *identity.Member
	loop     *loop
	uplink   *uplink.Uplink
	relay    *relay.Relay
	reporter *reporter
	server   *local.Server
	fetcher  *delivery.Fetcher
	bucket   delivery.Source
	standby  *standby.Standby // nil: it has a source of its own
	heard    chan struct{}    // the coordinator answered
	away     chan struct{}    // it cannot be asked for packs
	site     *share.Site      // nil: no neighbours
	pool     atomic.Pointer[gossip.Pool]
	rekey    chan uint64 // number of a newer cell key
}

// Run runs an agent until ctx ends. An error means that it could not start:
// what stands in the way, and what to do.
func Run(ctx context.Context, o Options) error {
	if err := o.complete(); err != nil {
		return err
	}
	d, err := openDisk(o.State)
	if err != nil {
		return err
	}
	defer d.close()
	if o.write != nil {
		d.write = o.write
	}
	me, first, err := o.member(ctx)
	if err != nil {
		return err
	}
	mem, pack, err := o.remember(d, me.Identity(), first)
	if err != nil {
		return err
	}
	a, err := assemble(o, d, me, mem)
	if err != nil {
		return err
	}
	return a.run(ctx, pack)
}

// remember reads the agent's memory and begins a new epoch. Without a memory the
// pinned root is in what the enrolment gave or in the pack on disk.
func (o *Options) remember(d *disk, id identity.Identity, first identity.Enrolment) (memory, []byte, error) {
	pack, err := d.loadPack()
	if err != nil {
		return memory{}, nil, err
	}
	if pack == nil {
		pack = first.Pack
	}
	mem, found, err := d.load()
	if err != nil {
		if !fault.Is(err, fault.Invalid) {
			return mem, nil, err
		}
		o.Logger.Error("state is damaged", "err", err)
	}
	if !found {
		mem.Trust = first.Trust
		if len(mem.Trust.Root) == 0 {
			if mem.Trust, err = trust.NewState(id.Root, id.RootPin); err != nil {
				return mem, nil, err
			}
		}
	}
	mem.Epoch = telemetry.NextEpoch(mem.Epoch, time.Now())
	if err := d.save(mem); err != nil {
		o.Logger.Error("state not written", "err", err) // what is there is served all the same
	}
	return mem, pack, nil
}

// assemble makes the parts and ties them together.
func assemble(o Options, d *disk, me *identity.Member, mem memory) (*agent, error) {
	a := &agent{o: o, me: me, rekey: make(chan uint64, 1), heard: make(chan struct{}, 1), away: make(chan struct{}, 1)}
	store, err := cas.Open(filepath.Join(o.State, "store"))
	if err != nil {
		return nil, err
	}
	slots, err := slot.Open(slot.Options{Dir: filepath.Join(o.State, "models"), Failpoint: o.Failpoint})
	if err != nil {
		return nil, err
	}
	facts := me.Identity().Facts
	facts.Agent = o.Version
	ask := func(ctx context.Context, n trust.Nonce) (trust.SignedTime, error) { return me.Client().Time(ctx, n) }
	l := &loop{
		o: o, facts: facts, disk: d, store: store, slots: slots,
		progress: newProgress(), witness: newWitness(), keeper: newTimekeeper(ask),
		outlets: outlets{announce: a.announce, gossiped: a.gossipCheckpoint, liars: a.liars, seek: make(chan struct{}, 1)},
		inbox:   newInbox(),
		mem:     mem, timed: time.Now(), clock: newClock(o.Clock, mem.Trust.Floor, mem.Told),
	}
	a.loop = l
	a.adopt(slots)
	if err := a.network(); err != nil {
		return nil, err
	}
	if err := a.openStandby(d); err != nil {
		return nil, err
	}
	source, err := a.source()
	if err != nil {
		return nil, err
	}
	a.bucket = source
	keep := func() []fleet.Digest { return append(slices.Clone(*l.keep.Load()), a.inUse()...) }
	l.keep.Store(new([]fleet.Digest))
	l.whole.Store(new([]fleet.Digest))
	l.scrub = scrub.New(scrub.Options{
		Store: store, Releases: func() []fleet.Digest { return *l.whole.Load() }, Found: l.found, Every: o.Scrub, Logger: o.Logger,
	})
	if a.site, err = a.neighbours(store); err != nil {
		return nil, err
	}
	peers, spare := a.peers()
	a.fetcher, err = delivery.New(delivery.Options{
		Store: store, Source: source, Peers: peers, Spare: spare, LowMemory: o.LowMemory, Rate: o.Rate,
		Windows: o.Download, Metered: o.Metered, Keep: keep, Logger: o.Logger,
	})
	if err != nil {
		return nil, err
	}
	l.wire = a.fetcher.Wire
	l.run = effect.New(effect.Options{
		Store: store, Slots: slots, Source: source, Fetcher: a.fetcher, Meet: a.meet, Probe: o.Probe,
		Trusted: l.trusted.Load, Keep: keep, Older: o.Older, Answer: l.send, Progress: l.progress.told, Failpoint: o.Failpoint, Dead: l.dead, Logger: o.Logger,
	})
	return a, a.telemetry()
}

// adopt takes over what the slots give applications where the memory does not
// know of it: it was lost, and what is served must go on being served.
func (a *agent) adopt(slots *slot.Slots) {
	models, err := slots.Models()
	if err != nil {
		a.o.Logger.Error("slots not read", "err", err)
		return
	}
	for _, m := range models {
		if _, known := a.loop.mem.Models[m]; known {
			continue
		}
		if d, ok := a.loop.current(m); ok && !d.IsZero() {
			o := update.Offer{Ref: string(m) + "@unknown", Bundle: d}
			a.loop.mem.Models[m] = update.State{Model: m, Want: o, Running: update.Held{Offer: o, Good: true}}
		}
	}
}

// network makes the ways to the coordinator.
func (a *agent) network() error {
	codec, err := telemetry.NewCodec()
	if err != nil {
		return err
	}
	a.uplink = uplink.New(uplink.Options{
		Member: a.me, Logger: a.o.Logger,
		OnPack: func(ctx context.Context, pack []byte) error {
			_, err := a.loop.offerPack(ctx, pack, "coordinator")
			return err
		},
		OnRenew:    a.renewed,
		Heard:      func() { nudge(a.heard) },
		Away:       func() { nudge(a.away) },
		GossipAddr: a.gossipAddr,
		Listed: func() []*x509.Certificate {
			if t := a.loop.trusted.Load(); t != nil {
				return t.DeviceCA
			}
			return nil
		},
		Idle: func() bool { return a.relay.Duty() == relay.Rest && a.pool.Load() != nil },
	})
	a.relay, err = relay.New(relay.Options{
		Member: a.me.Identity().Facts.ID, Period: a.o.Report, Uplink: a.uplink, Codec: codec, Logger: a.o.Logger,
		Delivered: func(seq uint64) { a.reporter.rec.Acked(seq) },
		Replied: func(r api.RowsReply) {
			if p := a.pool.Load(); p != nil && len(r.Seeds) > 0 {
				p.SetSeeds(r.Seeds)
			}
			a.needCellKey(r.CellKey)
			select {
			case a.loop.times <- r.Time:
			default: // the next answer tells it again
			}
		},
	})
	return err
}

// telemetry makes the recorder, what applications see, and the reporter.
func (a *agent) telemetry() error {
	keyID, err := telemetry.KeyIDOf(a.me.Key().ECDSA())
	if err != nil {
		return err
	}
	rec, err := telemetry.NewRecorder(telemetry.RecorderOptions{
		Key: keyID, Epoch: a.loop.mem.Epoch, Window: a.o.Window, Sketch: max(a.o.Report, time.Second), Agent: a.o.Version,
	})
	if err != nil {
		return err
	}
	h := host.New(rec, a.o.Logger)
	a.loop.host, a.loop.rec = h, rec
	a.server = local.New(local.Options{Socket: a.o.Socket, TTL: a.o.Lease, Host: h, Logger: a.o.Logger})
	a.loop.changed = a.server.Changed
	a.reporter = &reporter{
		log: a.o.Logger, rec: rec, key: a.me.Key(), fleet: a.me.Identity().Fleet, relay: a.relay,
		idle: a.o.Report, busy: a.o.Busy, look: a.loop.look, status: h.Listing,
	}
	return nil
}

// source is where model files are read from.
func (a *agent) source() (delivery.Source, error) {
	switch s := a.o.Source; {
	case s == "":
		return web.Open(web.Options{Sign: a.presign})
	case strings.HasPrefix(s, "https://"), strings.HasPrefix(s, "http://"):
		return web.Open(web.Options{BaseURL: s})
	default:
		return medium(strings.TrimPrefix(s, "dir:")), nil // as a bucket is written
	}
}

// presign asks the coordinator for URLs. One whose bucket has none says that it
// will never have.
func (a *agent) presign(ctx context.Context, keys []string) ([]string, time.Time, error) {
	urls, until, err := a.uplink.Presign(ctx, keys)
	if fault.Is(err, fault.Invalid) {
		err = fmt.Errorf("%w: %w", effect.ErrNoSource, err)
	}
	return urls, until, err
}

func (a *agent) inUse() []fleet.Digest {
	var bundles []fleet.Digest
	for _, path := range a.server.InUse() {
		if d, err := fleet.ParseDigest(filepath.Base(path)); err == nil {
			bundles = append(bundles, d)
		}
	}
	return bundles
}

func (a *agent) gossipAddr() string {
	if p := a.pool.Load(); p != nil {
		return p.Addr()
	}
	return ""
}

func (a *agent) renewed(id identity.Identity, back bool) {
	if back {
		nudge(a.loop.back)
	}
	p := a.pool.Load()
	if p == nil {
		return
	}
	if err := p.SetCertificate(id.Certificate); err != nil {
		a.o.Logger.Warn("cell was not given the new certificate", "err", err)
	}
	p.SetSeeds(id.Cell.Seeds)
	if err := a.turnCellKey(id.Cell); err != nil {
		a.o.Logger.Warn("cell key not taken over", "err", err)
	}
}

// run serves until ctx ends or a failpoint cuts it short.
func (a *agent) run(ctx context.Context, pack []byte) error {
	ln, err := a.server.Listen()
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	id := a.me.Identity()
	a.loop.host.Tell(func(m fleet.ModelName, ev update.Event) { a.loop.send(ctx, m, ev) })
	if err := a.loop.start(ctx, pack); err != nil {
		ln.Close()
		return err
	}
	var wg sync.WaitGroup
	errs := make(chan error, 2)
	wg.Go(func() { errs <- a.server.Serve(ctx, ln) })
	wg.Go(func() { errs <- a.loop.serve(ctx) })
	shared := a.listenShare()
	pool := a.openCell(ctx, id, sharePort(shared))
	if pool != nil {
		a.pool.Store(pool)
		a.see()
		a.resumeCellKey()
		if known := a.loop.witness.known.Load(); known != nil {
			pool.SetCheckpoint(known.Head.Note)
		}
	}
	if shared != nil {
		wg.Go(func() { a.serveShare(ctx, shared) })
	}
	wg.Go(func() { a.carry(ctx, pool) })
	wg.Go(func() { a.uplink.Run(ctx) })
	wg.Go(func() { a.loop.keeper.run(ctx) })
	wg.Go(func() { a.seekPacks(ctx) })
	wg.Go(func() { a.keepStandby(ctx) })
	wg.Go(func() { a.watchBucket(ctx) })
	wg.Go(func() { a.watch(ctx) })
	wg.Go(func() { a.reporter.run(ctx) })
	wg.Go(func() { a.watchPackFile(ctx) })
	wg.Go(func() { a.keepCellKey(ctx) })
	wg.Go(func() { a.loop.scrub.Run(ctx) })
	a.o.Logger.Info("serving", "device", id.Facts.ID, "fleet", id.Fleet, "socket", a.o.Socket, "gossip", a.gossipAddr(), "share", sharePort(shared))
	if a.o.Ready != nil {
		a.o.Ready(Info{Member: id.Facts.ID, Fleet: id.Fleet, Socket: a.o.Socket, Gossip: a.gossipAddr()})
	}
	err = <-errs // the first to end ends all
	stop()
	a.loop.run.Await(10 * time.Second)
	if pool != nil {
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := pool.Leave(bye); err != nil {
			a.o.Logger.Debug("cell not left in good order", "err", err)
		}
	}
	wg.Wait()
	if a.site != nil {
		a.site.Close()
	}
	if err == nil {
		err = <-errs
	}
	return err
}

// carry runs the relay; a nil pool must reach it as a nil interface.
func (a *agent) carry(ctx context.Context, pool *gossip.Pool) {
	var p relay.Pool
	if pool != nil {
		p = pool
	}
	if err := a.relay.Run(ctx, p); err != nil {
		a.o.Logger.Error("relay ended", "err", err)
	}
}
