package coordinator

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/desk"
	"github.com/modelfleet/modelfleet/coordinator/intake"
	"github.com/modelfleet/modelfleet/coordinator/inventory"
	"github.com/modelfleet/modelfleet/coordinator/publish"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// loopStore is what the loop needs of the store.
type loopStore interface {
	store.Rollouts
	store.Decisions
}

// loop decides. One goroutine runs it and owns everything in it; others wake it
// and read the store.
type loop struct {
	group     fleet.Group
	store     loopStore
	inventory *inventory.Inventory
	intake    *intake.Intake
	publisher *publish.Publisher
	events    *desk.Events
	log       *slog.Logger
	tick      time.Duration
	report    time.Duration
	// keepRevoked are the models of which a revoked release is served on when
	// nothing else may run.
	keepRevoked []fleet.ModelName
	// backed says why no member may run a release any more; "" when they may.
	backed func(fleet.Release) string
	// refused says by which rule members refuse a release; nil when they do not.
	refused func(op string, rel fleet.Release) error
	// relisted is a release with the facts it was admitted with last.
	relisted func(fleet.Release) fleet.Release
	wake     <-chan struct{}
	now      func() time.Time
	catchup  func(context.Context) error // takes up admissions that a lost publication took with it

	loaded bool
	runs   []*run          // that live, or still say something in the directive; oldest first
	dir    fleet.Directive // the newest, as decided
	taken  bool            // dir was found in the bucket: the next one repeats it under a new number
	shown  uint64          // sequence of the newest directive that members can see
	gone   map[string]bool // stable releases that were taken back, for which a person was called

	conflicts int // publications in a row that lost against somebody else's
	trouble   atomic.Pointer[error]
}

func newLoop(h *house) *loop {
	l := &loop{
		group: fleet.DefaultGroup, store: h.store, inventory: h.inventory, intake: h.intake, publisher: h.publisher,
		events: h.events, log: h.log, tick: h.o.Tick, report: h.o.Report, wake: h.wake, now: time.Now,
		catchup: h.desk.Catchup, keepRevoked: h.o.KeepRevoked, backed: h.desk.Revoked, refused: h.desk.Refused, relisted: h.desk.Relisted,
	}
	return l
}

const (
	// settle is which part of a tick the loop waits after it was woken, so that a
	// burst of rows makes one turn.
	settle = 10
	// maxConflicts publications lost in a row mean that another coordinator
	// decides for this fleet.
	maxConflicts = 3
)

// run takes turns until ctx ends. It returns an error only when another
// coordinator decides for the same fleet.
func (l *loop) run(ctx context.Context) error {
	ticker := time.NewTicker(l.tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-l.wake:
			t := time.NewTimer(l.tick / settle)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return nil
			}
		}
		err := l.turn(ctx)
		if err == nil {
			l.conflicts = 0
			l.trouble.Store(nil)
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		l.failed(err)
		l.loaded = false // what is in the store is what counts
		if fault.Is(err, fault.Conflict) {
			if l.conflicts++; l.conflicts >= maxConflicts {
				return err
			}
			if err := l.catchup(ctx); err != nil {
				l.log.Error("admissions not taken up again", "err", err)
			}
		}
	}
}

// first takes the turn before anyone is served. What may pass by itself, a heartbeat
// that has not signed yet for instance, is told and tried again by the next turns.
func (l *loop) first(ctx context.Context) error {
	err := l.turn(ctx)
	if err == nil || !fault.KindOf(err).Retry() || ctx.Err() != nil {
		return err
	}
	l.loaded = false
	l.failed(err)
	return nil
}

// failed takes note of a turn that did not do its work; a person is called when
// the one before did, or failed otherwise.
func (l *loop) failed(err error) {
	was := l.trouble.Swap(&err)
	l.log.Error("turn failed", "kind", fault.KindOf(err), "err", err, "hint", fault.Hint(err))
	if was == nil || (*was).Error() != err.Error() {
		l.events.Publish(api.Event{At: l.now().UTC(), Kind: "alarm", Subject: string(l.group), Text: "the coordinator cannot do its work: " + err.Error()})
	}
}

// ready says what kept the last turn from its work.
func (l *loop) ready() error {
	if err := l.trouble.Load(); err != nil {
		return fault.New(fault.Transient, "decide", string(l.group), *err)
	}
	return nil
}

// turn looks at everything once: it decides, commits, publishes.
func (l *loop) turn(ctx context.Context) error {
	now := l.now().UTC()
	if err := l.publisher.CheckClock(ctx, now); err != nil {
		return err
	}
	if !l.loaded {
		if err := l.load(ctx); err != nil {
			return err
		}
	}
	if err := l.adopt(ctx); err != nil {
		return err
	}
	steps, err := l.decide(ctx, now)
	if err != nil {
		return err
	}
	d, err := l.draft(steps, now)
	if err != nil {
		return err
	}
	if !empty(d.Decision) {
		if err := l.store.Commit(ctx, d.Decision); err != nil {
			return err
		}
	}
	l.accept(d, steps)
	l.alarm(now)
	return l.publish(ctx, now)
}

func empty(d store.Decision) bool {
	return len(d.Rollouts) == 0 && len(d.Standings) == 0 && len(d.Samples) == 0 && d.Directive == nil && len(d.Notes) == 0
}

// load reads the newest directive and forgets the runs, which adopt reads anew.
func (l *loop) load(ctx context.Context) error {
	l.taken = false
	l.runs, l.dir, l.shown = nil, fleet.Directive{Schema: fleet.DirectiveSchema, Group: l.group, Models: []fleet.Placement{}}, 0
	s, err := l.store.Directive(ctx, l.group)
	switch {
	case fault.Is(err, fault.NotFound):
		// A new fleet, or a store made anew: go on from what members have.
		if d, ok, err := l.publisher.Directive(l.group); err != nil {
			return err
		} else if ok {
			l.log.Warn("directive taken from the bucket, the store has none", "directive", d.Sequence)
			l.dir, l.taken = d, true
		}
	case err != nil:
		return err
	default:
		if l.dir, err = trust.ParseDirective(s.Body); err != nil {
			return err
		}
		if p, ok := l.publisher.Pack(l.group); ok {
			l.shown = p.Sequence
		}
	}
	recs, err := l.store.Rollouts(ctx, false)
	if err != nil {
		return err
	}
	for i := len(recs) - 1; i >= 0; i-- { // oldest first
		if err := l.add(ctx, recs[i]); err != nil {
			return err
		}
	}
	l.prune()
	l.loaded = true
	return nil
}

// adopt takes up rollouts that operators started since.
func (l *loop) adopt(ctx context.Context) error {
	recs, err := l.store.Rollouts(ctx, true)
	if err != nil {
		return err
	}
	known := map[fleet.RolloutID]bool{}
	for _, r := range l.runs {
		known[r.rec.ID] = true
	}
	for i := len(recs) - 1; i >= 0; i-- {
		if !known[recs[i].ID] {
			if err := l.add(ctx, recs[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// publish brings the newest directive to members, or renews what expires.
func (l *loop) publish(ctx context.Context, now time.Time) error {
	if l.shown >= l.dir.Sequence {
		done, refused, err := l.publisher.Refresh(ctx, now)
		if err == nil && done {
			l.log.Info("trust pack renewed", "directive", l.dir.Sequence)
			l.warn(refused)
		}
		return err
	}
	s, err := l.store.Directive(ctx, l.group)
	if err != nil {
		return err
	}
	refused, err := l.publisher.Publish(ctx, s.Body, now)
	if err != nil {
		return err
	}
	l.shown = s.Sequence
	p, _ := l.publisher.Pack(l.group)
	note := audit.Note{
		At: now, Actor: audit.Coordinator, Action: audit.PackPublished, Subject: string(l.group), Reason: "directive is in the bucket",
		Detail: map[string]any{"sequence": s.Sequence, "pack": p.Digest, "expires": p.Expires},
	}
	if err := l.store.MarkPublished(ctx, l.group, s.Sequence, now, note); err != nil {
		return err
	}
	l.log.Info("directive published", "directive", s.Sequence, "bytes", len(p.Body))
	l.warn(refused)
	return nil
}

// warn tells of releases that the directive names and members will refuse.
func (l *loop) warn(refused []trust.Refusal) {
	for _, r := range refused {
		l.log.Warn("release is not backed by its publisher", "model", r.Model, "release", r.Release, "err", r.Err)
		if !r.Revoked { // for that, a person was called already
			l.events.Publish(api.Event{At: l.now().UTC(), Kind: "alarm", Subject: r.Release, Text: "members will refuse it: " + r.Err.Error()})
		}
	}
}

// note makes the audit note of something the coordinator decided.
func note(at time.Time, action, subject, reason string, detail any) audit.Note {
	return audit.Note{At: at, Actor: audit.Coordinator, Action: action, Subject: subject, Reason: reason, Detail: detail}
}

// encode marshals what is ours to marshal.
func encode(what string, v any) (json.RawMessage, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fault.New(fault.Internal, "write "+what, "", err)
	}
	return b, nil
}
