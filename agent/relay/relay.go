package relay

import (
	"cmp"
	"context"
	"encoding/hex"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/gossip"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// Uplink hands a batch to the coordinator. Without an error the coordinator has
// every message of it, except those of the members it names as refused. It may
// be given the same messages again.
type Uplink interface {
	SendRows(ctx context.Context, batch []byte) (api.RowsReply, error)
}

// Pool is the member's cell; *gossip.Pool is one.
type Pool interface {
	Send(msg []byte) (relays int, err error)
	Ack(msgs ...telemetry.Message)
	Relays() []fleet.MemberID
}

// Options says who the member is and how often it reports.
type Options struct {
	Member fleet.MemberID
	Period time.Duration // between the member's rows; default 60 s
	Uplink Uplink
	Codec  *telemetry.Codec
	// Delivered is told the sequence of an own row that the coordinator has.
	Delivered func(seq uint64)
	// Replied is told what the coordinator answered to a batch.
	Replied func(api.RowsReply)
	Logger  *slog.Logger // default: none
}

// Relay carries rows. Its methods are safe for concurrent use. Give [Relay.Take]
// and [Relay.Acked] to the pool as handlers, and run [Relay.Run].
type Relay struct {
	opts Options
	kick chan struct{}

	mu       sync.Mutex // guards the rest
	pool     Pool
	hold     hold
	sent     map[gossip.MessageID]uint64 // own rows -> sequence, or 0 for windows
	facts    Facts
	primary  fleet.MemberID
	duty     Duty
	failures int
	retryAt  time.Time
}

// New returns a relay that carries nothing yet.
func New(o Options) (*Relay, error) {
	if o.Uplink == nil || o.Codec == nil || o.Member == "" {
		return nil, fault.Newf(fault.Invalid, "make relay", string(o.Member), "a member, an uplink and a codec are needed")
	}
	o.Period = cmp.Or(o.Period, time.Minute)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Relay{
		opts: o, kick: make(chan struct{}, 1),
		hold: hold{}, sent: map[gossip.MessageID]uint64{},
	}, nil
}

// Duty is what the member hands over by itself just now. While it is not [Rest]
// the member is also the one to hold a long poll for packs.
func (r *Relay) Duty() Duty {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.duty
}

// Take keeps a verified message of a member of the cell; it is the pool's
// OnMessage. It acks only what the coordinator has.
func (r *Relay) Take(m telemetry.Message, from gossip.Identity) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hold.put(m, from.Member, false, time.Now())
}

// Acked notes what a relay brought to the coordinator; it is the pool's OnAck.
func (r *Relay) Acked(a gossip.Ack) {
	now := time.Now()
	r.mu.Lock()
	var delivered uint64
	mine := false
	for _, id := range a.Messages {
		seq, ok := r.sent[id]
		if !ok {
			continue
		}
		mine = true
		delivered = max(delivered, seq)
		for _, it := range r.hold {
			if it.own && !it.handed && gossip.IDOf(it.msg.Raw) == id {
				it.hand(now)
			}
		}
	}
	if mine {
		r.facts.Acked = now
		if a.Relay == r.primary {
			r.facts.Beat = now
		}
	}
	r.mu.Unlock()
	if delivered > 0 && r.opts.Delivered != nil {
		r.opts.Delivered(delivered)
	}
}

// Send takes the member's own signed rows and windows: it addresses them to the
// relays and keeps them until the coordinator has them. Windows that nobody
// acked are addressed again, three times at most.
func (r *Relay) Send(msgs ...[]byte) error {
	now := time.Now()
	r.mu.Lock()
	if r.facts.Started.IsZero() {
		r.facts.Started = now
	}
	var out [][]byte
	for _, it := range r.hold {
		if it.own && !it.handed && it.msg.Window != nil && it.retries < patience {
			it.retries++
			out = append(out, it.msg.Raw)
		}
	}
	for _, raw := range msgs {
		m, err := telemetry.ParseMessage(raw)
		if err != nil {
			r.mu.Unlock()
			return err
		}
		r.hold.put(m, r.opts.Member, true, now)
		r.remember(m)
		out = append(out, raw)
	}
	pool := r.pool
	r.mu.Unlock()
	if pool != nil {
		for _, raw := range out {
			if _, err := pool.Send(raw); err != nil {
				return err
			}
		}
	}
	r.wake()
	return nil
}

// maxSent bounds the own messages that an ack is recognised for.
const maxSent = 256

func (r *Relay) remember(m telemetry.Message) {
	if len(r.sent) >= maxSent {
		newest := uint64(0)
		for _, seq := range r.sent {
			newest = max(newest, seq)
		}
		for id, seq := range r.sent {
			if seq+maxSent/4 < newest {
				delete(r.sent, id)
			}
		}
	}
	seq := uint64(0)
	if m.Row != nil {
		seq = m.Row.Seq
	}
	r.sent[gossip.IDOf(m.Raw)] = seq
}

func (r *Relay) wake() {
	select {
	case r.kick <- struct{}{}:
	default: // it is awake
	}
}

// Run carries until ctx ends. A nil pool is a cell of one. It returns nil.
func (r *Relay) Run(ctx context.Context, pool Pool) error {
	r.mu.Lock()
	r.pool = pool
	r.mu.Unlock()
	tick := time.NewTicker(r.quick())
	defer tick.Stop()
	for {
		if duty := r.look(time.Now()); duty != Rest {
			r.carry(ctx, duty)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-r.kick:
		}
	}
}

// quick and slow are how long urgent and other rows wait for company.
func (r *Relay) quick() time.Duration {
	return max(min(r.opts.Period/4, time.Second), time.Millisecond)
}
func (r *Relay) slow() time.Duration { return min(r.opts.Period/2, 10*time.Second) }

// look learns the member's role and decides its duty.
func (r *Relay) look(now time.Time) Duty {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := &r.facts
	f.Now, f.Period = now, r.opts.Period
	role, primary := gossip.NoRelay, fleet.MemberID("")
	f.Relays = 0
	if r.pool != nil {
		relays := r.pool.Relays()
		f.Relays = len(relays)
		for i, name := range relays {
			if i == 0 {
				primary = name
			}
			if name == r.opts.Member {
				role = gossip.Role(i + 1)
			}
		}
	}
	if role != f.Role || primary != r.primary {
		f.Role, f.RoleSince, f.Beat, r.primary = role, now, time.Time{}, primary
	}
	duty := Decide(*f)
	if duty != r.duty {
		r.opts.Logger.Info("relay duty changed", "duty", duty, "role", role)
		r.failures, r.retryAt = 0, time.Time{}
	}
	r.duty = duty
	r.hold.prune(now, max(10*r.opts.Period, 10*time.Minute), duty == Rest)
	return duty
}

// batchSize is how many messages go in one batch.
const batchSize = 256

// carry hands over what waits, when it waited long enough.
func (r *Relay) carry(ctx context.Context, duty Duty) {
	for ctx.Err() == nil {
		r.mu.Lock()
		now := time.Now()
		var items []*item
		if !now.Before(r.retryAt) {
			items = r.hold.waiting(duty == Own, batchSize)
		}
		due := false
		for _, it := range items {
			age := now.Sub(it.since)
			due = due || duty == Own || age >= r.slow() || (it.urgent && age >= r.quick())
		}
		r.mu.Unlock()
		if !due || !r.handOver(ctx, items) {
			return
		}
	}
}

// handOver sends one batch and reports whether to go on.
func (r *Relay) handOver(ctx context.Context, items []*item) bool {
	raws := make([][]byte, len(items))
	for i, it := range items {
		raws[i] = it.msg.Raw
	}
	batch, err := r.opts.Codec.Encode(raws)
	var reply api.RowsReply
	if err == nil {
		reply, err = r.opts.Uplink.SendRows(ctx, batch)
	}
	now := time.Now()
	if err != nil && !fault.Is(err, fault.Invalid) {
		r.mu.Lock()
		r.failures++
		wait := r.quick() << min(r.failures, 12)
		r.retryAt = now.Add(rand.N(min(wait, time.Minute)) + time.Millisecond)
		first := r.failures == 1
		r.mu.Unlock()
		if first && ctx.Err() == nil {
			r.opts.Logger.Warn("rows not handed over", "err", err)
		}
		return false
	}
	if err != nil {
		// The coordinator will never take these bytes: carrying them on would
		// only keep others from being carried.
		r.opts.Logger.Error("batch refused", "messages", len(raws), "err", err)
	}
	r.settle(items, reply, err == nil, now)
	if err == nil && r.opts.Replied != nil {
		r.opts.Replied(reply)
	}
	return true
}

// settle notes what the coordinator has and acks it.
func (r *Relay) settle(items []*item, reply api.RowsReply, took bool, now time.Time) {
	refused := map[string]bool{} // messages; members where it does not say which
	for _, x := range reply.Refused {
		refused[cmp.Or(x.Message, x.Member)] = true
	}
	var acks []telemetry.Message
	var delivered uint64
	r.mu.Lock()
	r.failures, r.retryAt = 0, time.Time{}
	for _, it := range items {
		m := it.msg
		if r.hold[m.Slot()] == it { // nothing took its place meanwhile
			it.hand(now)
		}
		id := gossip.IDOf(m.Raw)
		switch {
		case !took || refused[hex.EncodeToString(id[:])] || refused[string(it.member)] || refused[m.Key().String()]:
		case it.member != r.opts.Member:
			acks = append(acks, m)
		case m.Row != nil:
			delivered = max(delivered, m.Row.Seq)
		}
	}
	pool := r.pool
	r.mu.Unlock()
	if pool != nil && len(acks) > 0 {
		pool.Ack(acks...)
	}
	if delivered > 0 && r.opts.Delivered != nil {
		r.opts.Delivered(delivered)
	}
}
