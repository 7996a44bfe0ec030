// Package intake takes in what members say of themselves, by whatever way it
// comes: over HTTPS by the member itself or by its cell's relays, or straight
// from gossip. It believes a row or a window only when the member's own key
// signed it, counts it once however often it comes, and sums it up into what
// the rollout engine and the gates want to know.
//
//	batch ──▶ Add: parse, drop known, verify, merge ──▶ Observe, Evidence, Status
//	                                  └──▶ Flush: the store
//
// Rows are cumulative and the highest sequence wins, so a row lost, doubled or
// late changes no total. Failures of transport never count against a release.
package intake

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"errors"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// Directory finds members by the key they sign with; inventory is one.
type Directory interface {
	ByKey(telemetry.KeyID) (store.Member, *ecdsa.PublicKey, bool)
	Member(fleet.MemberID) (store.Member, bool)
}

// Options are what an intake needs.
type Options struct {
	Fleet     string
	Store     store.Messages
	Directory Directory
	Logger    *slog.Logger

	// Report is how often members in a rollout report, Idle how often the others
	// do; three such periods without a row make one unreachable. Default 10 s,
	// and six times Report.
	Report, Idle time.Duration
	// Retention is how long sketch windows are kept, and how old one may be to
	// be counted. Default 1 h.
	Retention time.Duration
	// Witnessed is told when a member was shown another checkpoint of the audit log,
	// with the row that says so as it was signed; nil: nobody.
	Witnessed func(member fleet.MemberID, row telemetry.Row, msg []byte)
	// Changed is told of members whose state changed, after Add; nil: nobody.
	Changed func(member fleet.MemberID, before, now telemetry.Row)
}

// The ways a message can come.
const (
	ViaGossip = "gossip"
	ViaRelay  = "relay"
	ViaDirect = "direct"
)

// Intake knows what members said. It is safe for concurrent use.
type Intake struct {
	o Options

	accepted, duplicate, refused atomic.Uint64

	flushing sync.Mutex

	mu       sync.RWMutex // guards the following
	table    *telemetry.Table
	newest   map[telemetry.KeyID]latest
	recent   map[telemetry.KeyID]*recent
	epochs   map[telemetry.KeyID][]uint64
	windows  map[telemetry.KeyID][]*telemetry.Window // in order of arrival
	sketches map[sketchKey]*telemetry.Sketch         // merged over members
	fetches  map[fetchKey]fetch                      // under way
	counted  telemetry.Delivery                      // by all members, since the start
	pending  []store.Message
}

// latest is a member's newest row and how it came.
type latest struct {
	row      *telemetry.Row
	raw      []byte
	received time.Time
	via      string
	stood    time.Time // since when its trust stands as it does
}

type sketchKey struct {
	telemetry.SeriesKey
	telemetry.Metric
}

// New reads what was kept and returns an intake.
func New(ctx context.Context, o Options) (*Intake, error) {
	if o.Report == 0 {
		o.Report = 10 * time.Second
	}
	if o.Idle == 0 {
		o.Idle = 6 * o.Report
	}
	if o.Retention == 0 {
		o.Retention = time.Hour
	}
	if o.Witnessed == nil {
		o.Witnessed = func(fleet.MemberID, telemetry.Row, []byte) {}
	}
	if o.Changed == nil {
		o.Changed = func(fleet.MemberID, telemetry.Row, telemetry.Row) {}
	}
	in := &Intake{
		o: o, table: telemetry.NewTable(),
		newest: map[telemetry.KeyID]latest{}, recent: map[telemetry.KeyID]*recent{}, epochs: map[telemetry.KeyID][]uint64{},
		windows: map[telemetry.KeyID][]*telemetry.Window{}, sketches: map[sketchKey]*telemetry.Sketch{},
		fetches: map[fetchKey]fetch{},
	}
	kept, err := o.Store.Messages(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range kept { // verified when they came
		m, err := telemetry.ParseMessage(k.Bytes)
		if err != nil {
			o.Logger.Warn("kept message does not parse", "err", err)
			continue
		}
		in.insert(m, k.Received, k.Via)
	}
	in.pending, in.counted = nil, telemetry.Delivery{}
	return in, nil
}

// Result says what became of a batch.
type Result struct {
	Accepted, Duplicate int
	Refused             []api.RefusedRow
	Acked               map[string]uint64 // member -> newest sequence known, for the members of the batch
}

// verdict is what became of one message.
type verdict struct {
	msg    telemetry.Message
	member fleet.MemberID
	fresh  bool
	err    error
}

// Add takes messages that via brought; by is the member that sent the batch, ""
// for gossip. What is refused is said, the rest is taken. It is kept for good
// only after [Intake.Flush].
func (in *Intake) Add(msgs [][]byte, by fleet.MemberID, now time.Time) Result {
	vs := make([]verdict, len(msgs))
	if len(msgs) == 1 {
		vs[0] = in.judge(msgs[0], now)
	} else {
		var g errgroup.Group // signatures cost most: spread them over the cores
		g.SetLimit(runtime.GOMAXPROCS(0))
		const chunk = 32
		for from := 0; from < len(msgs); from += chunk {
			g.Go(func() error {
				for i := from; i < min(from+chunk, len(msgs)); i++ {
					vs[i] = in.judge(msgs[i], now)
				}
				return nil
			})
		}
		_ = g.Wait() // judge returns no errors of its own
	}
	res := Result{Acked: map[string]uint64{}}
	for i, v := range vs {
		switch {
		case v.err != nil:
			res.Refused = append(res.Refused, refusal(msgs[i], v))
			continue
		case v.fresh && in.take(v, by, now):
			res.Accepted++
		default:
			res.Duplicate++
		}
	}
	in.mu.RLock()
	for _, v := range vs {
		if v.err == nil {
			if l, ok := in.newest[v.msg.Key()]; ok {
				res.Acked[string(v.member)] = l.row.Seq
			}
		}
	}
	in.mu.RUnlock()
	in.accepted.Add(uint64(res.Accepted))
	in.duplicate.Add(uint64(res.Duplicate))
	in.refused.Add(uint64(len(res.Refused)))
	return res
}

func refusal(raw []byte, v verdict) api.RefusedRow {
	name := string(v.member)
	if name == "" && v.msg.Raw != nil {
		name = v.msg.Key().String()
	}
	id := fleet.DigestOf(raw)
	return api.RefusedRow{Member: name, Message: id.String()[:16], Reason: v.err.Error()}
}

// judge parses a message, recognises what is known already and checks the
// signature of what is not.
func (in *Intake) judge(raw []byte, now time.Time) verdict {
	m, err := telemetry.ParseMessage(raw)
	if err != nil {
		return verdict{err: err}
	}
	v := verdict{msg: m}
	member, pub, ok := in.o.Directory.ByKey(m.Key())
	if !ok {
		v.err = errUnknown
		return v
	}
	v.member = member.Facts.ID
	switch {
	case member.Revoked:
		v.err = errRevoked
	case member.Locked != "":
		v.err = errLocked
	case m.Window != nil && m.Window.Width > uint64(in.o.Retention/time.Second):
		v.err = errLong
	case m.Window != nil && in.tooOld(m.Window, now):
		v.err = errOld
	case m.Window != nil && windowEnd(m.Window).After(now.Add(in.o.Retention)):
		v.err = errAhead
	case in.known(m):
	default:
		v.fresh = true
		v.err = m.Verify(in.o.Fleet, pub)
	}
	return v
}

var (
	errUnknown = errors.New("no member signs with this key")
	errRevoked = errors.New("the member's identity is revoked")
	errLocked  = errors.New("the member's identity is locked")
	errOld     = errors.New("the window is older than what is kept")
	errLong    = errors.New("the window is longer than anything is kept")
	errAhead   = errors.New("the window is of a time to come: the member's clock is wrong")
)

// What is kept of one member is bounded, so that one that makes things up costs
// no more than itself. An honest one comes near it in no way but restarts: of
// one that restarts without end the starts longest ago are forgotten.
const (
	maxEpochs  = 256
	maxWindows = 1 << 15
)

func (in *Intake) tooOld(w *telemetry.Window, now time.Time) bool {
	return windowEnd(w).Before(now.Add(-in.o.Retention))
}

func windowEnd(w *telemetry.Window) time.Time {
	return time.Unix(int64((w.Index+1)*w.Width), 0)
}

// known recognises a message that was taken before, without looking at its
// signature: it is the same bytes.
func (in *Intake) known(m telemetry.Message) bool {
	id := recentID(m.Raw)
	in.mu.RLock()
	defer in.mu.RUnlock()
	r := in.recent[m.Key()]
	return r != nil && slices.Contains(r.ids[:], id)
}

// recent is the last few messages of a member: two relays bring the same ones
// within seconds of each other.
type recent struct {
	ids  [8][16]byte
	next int
}

func recentID(raw []byte) [16]byte {
	sum := fleet.DigestOf(raw)
	return [16]byte(sum[:16])
}

// take merges a verified message.
func (in *Intake) take(v verdict, by fleet.MemberID, now time.Time) bool {
	via := ViaRelay
	switch by {
	case "":
		via = ViaGossip
	case v.member:
		via = ViaDirect
	}
	m := v.msg
	m.Raw = bytes.Clone(m.Raw) // the batch's memory is larger than the row
	before, news := in.insertLocked(m, now, via)
	if news && m.Row != nil {
		in.o.Changed(v.member, before, *m.Row)
		if before.Log != m.Row.Log {
			in.o.Witnessed(v.member, *m.Row, m.Raw)
		}
	}
	return news
}

func (in *Intake) insertLocked(m telemetry.Message, received time.Time, via string) (telemetry.Row, bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	var before telemetry.Row
	if l, ok := in.newest[m.Key()]; ok {
		before = *l.row
	}
	return before, in.insert(m, received, via)
}

// insert merges a message; the caller holds mu, or is alone.
func (in *Intake) insert(m telemetry.Message, received time.Time, via string) bool {
	key := m.Key()
	r := in.recent[key]
	if r == nil {
		r = new(recent)
		in.recent[key] = r
	}
	r.ids[r.next] = recentID(m.Raw)
	r.next = (r.next + 1) % len(r.ids)
	before, _ := in.table.Row(key, m.Epoch())
	if !in.room(m) || !in.table.Insert(m) {
		return false
	}
	in.pending = append(in.pending, store.Message{Received: received, Via: via, Bytes: m.Raw})
	if w := m.Window; w != nil {
		in.windows[key] = append(in.windows[key], w)
		k := sketchKey{w.SeriesKey, w.Metric}
		if in.sketches[k] == nil {
			in.sketches[k] = new(telemetry.Sketch)
		}
		in.sketches[k].Merge(w.Sketch)
		return true
	}
	after, _ := in.table.Row(key, m.Row.Epoch)
	in.counted.Add(after.Delivery.Since(before.Delivery))
	if i, ok := slices.BinarySearch(in.epochs[key], m.Row.Epoch); !ok {
		in.epochs[key] = slices.Insert(in.epochs[key], i, m.Row.Epoch)
	}
	if l, ok := in.newest[key]; !ok || m.Row.Epoch > l.row.Epoch || (m.Row.Epoch == l.row.Epoch && m.Row.Seq >= l.row.Seq) {
		stood := received
		if ok && l.row.Freshness == m.Row.Freshness {
			stood = l.stood
		}
		in.newest[key] = latest{row: m.Row, raw: m.Raw, received: received, via: via, stood: stood}
		in.follow(m.Row)
	}
	return true
}

// room makes room for a message among those of its member, if it deserves it.
func (in *Intake) room(m telemetry.Message) bool {
	key := m.Key()
	if m.Window != nil {
		return len(in.windows[key]) < maxWindows
	}
	epochs := in.epochs[key] // sorted
	if _, known := slices.BinarySearch(epochs, m.Row.Epoch); known || len(epochs) < maxEpochs {
		return true
	}
	if m.Row.Epoch < epochs[0] {
		return false
	}
	in.table.Remove(telemetry.Slot{Key: key, Epoch: epochs[0]})
	in.epochs[key] = slices.Delete(epochs, 0, 1)
	return true
}

// Flush keeps for good what was taken. Callers that come together share one
// transaction.
func (in *Intake) Flush(ctx context.Context) error {
	in.flushing.Lock()
	defer in.flushing.Unlock()
	in.mu.Lock()
	batch := in.pending
	in.pending = nil
	in.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	if err := in.o.Store.SaveMessages(ctx, batch); err != nil {
		in.mu.Lock()
		in.pending = append(batch, in.pending...) // for the next turn
		in.mu.Unlock()
		return err
	}
	return nil
}

// Thin drops old windows, and from the store whatever no longer counts. Call it
// now and then.
func (in *Intake) Thin(ctx context.Context, now time.Time) error {
	if err := in.Flush(ctx); err != nil {
		return err
	}
	horizon := now.Add(-in.o.Retention)
	in.mu.Lock()
	in.table.Forget(func(s telemetry.Slot) bool {
		w := s.Window
		return w.Width != 0 && time.Unix(int64((w.Index+1)*w.Width), 0).Before(horizon)
	})
	for key, ws := range in.windows {
		kept := ws[:0:0]
		for _, w := range ws {
			if !windowEnd(w).Before(horizon) {
				kept = append(kept, w)
			}
		}
		in.windows[key] = kept
	}
	in.forgetSketches()
	keep := map[fleet.Digest]bool{}
	for _, m := range in.table.Messages() {
		keep[fleet.DigestOf(m.Raw)] = true
	}
	for _, m := range in.pending {
		keep[m.ID()] = true
	}
	in.mu.Unlock()
	_, err := in.o.Store.KeepMessages(ctx, keep)
	return err
}

// forgetSketches drops those that no window is left of. The caller holds mu.
func (in *Intake) forgetSketches() {
	left := map[sketchKey]bool{}
	for _, ws := range in.windows {
		for _, w := range ws {
			left[sketchKey{w.SeriesKey, w.Metric}] = true
		}
	}
	maps.DeleteFunc(in.sketches, func(k sketchKey, _ *telemetry.Sketch) bool { return !left[k] })
}

// Stats counts messages since the start, and the members heard of.
type Stats struct {
	Accepted, Duplicate, Refused uint64
	Members                      int
}

// Stats is what was taken so far.
func (in *Intake) Stats() Stats {
	in.mu.RLock()
	n := len(in.newest)
	in.mu.RUnlock()
	return Stats{Accepted: in.accepted.Load(), Duplicate: in.duplicate.Load(), Refused: in.refused.Load(), Members: n}
}
