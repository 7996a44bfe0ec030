package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/modelfleet/modelfleet/agent/effect"
	"github.com/modelfleet/modelfleet/agent/host"
	"github.com/modelfleet/modelfleet/agent/scrub"
	"github.com/modelfleet/modelfleet/agent/slot"
	"github.com/modelfleet/modelfleet/agent/standby"
	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/gossip"
	"github.com/modelfleet/modelfleet/pkg/guard"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// loop is the one goroutine that owns the agent's memory. Everybody else talks
// to it by its inbox and reads only what it shows.
type loop struct {
	// what it is given, and leaves as it is
	o        Options
	facts    fleet.Facts
	disk     *disk
	store    *cas.Store
	slots    *slot.Slots
	run      *effect.Runner
	host     *host.Host
	rec      *telemetry.Recorder
	scrub    *scrub.Scrub
	progress *progress // of what the effects bring in
	witness  *witness
	keeper   *timekeeper
	outlets
	// what others may touch
	inbox
	shown
	// what it alone reads and writes
	mem      memory
	timed    time.Time // when mem was last written
	clock    clock
	belief   belief                     // in packs
	reasons  map[fleet.ModelName]string // what the directive says of each model
	unbacked map[fleet.ModelName]string // why what it names is not taken up
	backlog
}

// outlets are how the loop tells the rest of the agent, and asks it. None waits.
type outlets struct {
	announce func(gossip.Pack)            // to the cell, of a pack that was believed
	gossiped func(checkpoint string)      // to the cell, which one this device was shown
	changed  func()                       // to applications that watch
	liars    func() (int, fleet.MemberID) // neighbours that were left out, and the last
	wire     func() int64                 // bytes taken from the bucket since the start
	standby  func() standby.View          // of the way to packs past the coordinator; nil: there is none
	seek     chan struct{}                // another source of packs is wanted
}

// inbox is what others tell the loop.
type inbox struct {
	packs  chan packOffer
	times  chan time.Time // what a coordinator says, unsigned
	back   chan struct{}  // the member came back by its key
	events chan event
	looks  chan chan<- struct{} // publish now, and say so
	dead   chan error           // a failpoint hit by an effect
	rotten chan fleet.Digest    // releases, by bundle, that the disk damaged
}

func newInbox() inbox {
	return inbox{
		packs: make(chan packOffer), times: make(chan time.Time, 1), back: make(chan struct{}, 1), events: make(chan event, 64),
		looks: make(chan chan<- struct{}), dead: make(chan error, 1), rotten: make(chan fleet.Digest),
	}
}

// shown is what any goroutine may read; the loop alone writes it.
type shown struct {
	trusted atomic.Pointer[trust.Trusted]
	keep    atomic.Pointer[[]fleet.Digest] // bundles that no collection may touch
	whole   atomic.Pointer[[]fleet.Digest] // bundles whose verified files should be here
}

// event is something that happened to a model.
type event struct {
	model fleet.ModelName
	ev    update.Event
}

// packOffer is a pack from somewhere; the verdict goes to reply.
type packOffer struct {
	pack    []byte
	from    string
	version uint64 // once it was verified
	reply   chan<- verdict
}

// verdict is what came of a pack: its version when it was believed.
type verdict struct {
	version uint64
	err     error
}

// offerPack has the loop judge a pack and waits for the verdict.
func (l *loop) offerPack(ctx context.Context, pack []byte, from string) (version uint64, err error) {
	reply := make(chan verdict, 1)
	select {
	case l.packs <- packOffer{pack: pack, from: from, reply: reply}:
	case <-ctx.Done():
		return 0, fault.New(fault.Canceled, "judge pack", from, ctx.Err())
	}
	select {
	case v := <-reply:
		return v.version, v.err
	case <-ctx.Done():
		return 0, fault.New(fault.Canceled, "judge pack", from, ctx.Err())
	}
}

// send gives the loop an event.
func (l *loop) send(ctx context.Context, m fleet.ModelName, ev update.Event) {
	select {
	case l.events <- event{m, ev}:
	case <-ctx.Done():
	}
}

// look has the loop publish how things stand now, and waits for it.
func (l *loop) look(ctx context.Context) {
	done := make(chan struct{})
	select {
	case l.looks <- done:
	case <-ctx.Done():
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// start takes up what the agent before had begun. Effects wait until the pack on
// the disk was judged: without what it proves, a fetch that goes on would fail.
func (l *loop) start(ctx context.Context, pack []byte) error {
	l.starting = true
	boot := bootID()
	for _, m := range slices.Sorted(maps.Keys(l.mem.Models)) {
		if err := l.step(ctx, event{model: m, ev: update.Event{Kind: update.Restarted, Boot: boot}}); err != nil {
			return err
		}
	}
	if len(pack) > 0 {
		// A refusal was logged and is reported; the next pack may do better.
		if _, err := l.judge(ctx, pack, "disk"); err != nil {
			return err
		}
	}
	for _, eff := range l.pending {
		l.run.Do(ctx, eff)
	}
	l.starting, l.pending = false, nil
	l.publish()
	return nil
}

// serve moves models until ctx ends. Its only errors are a failpoint's, and that
// another disk lies where the state was.
func (l *loop) serve(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		err := l.disk.replaced()
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case err = <-l.dead:
			return err
		case p := <-l.packs:
			var v verdict
			v, err = l.judge(ctx, p.pack, p.from)
			p.reply <- v
		case e := <-l.events:
			err = l.step(ctx, e)
		case at := <-l.times:
			if l.doubts(at) {
				l.keeper.doubts()
			} else {
				l.keeper.agrees()
			}
			continue
		case a := <-l.keeper.answers:
			if !l.hear(a) {
				continue
			}
		case <-l.back:
			l.begin(time.Now())
		case signed := <-l.witness.notes:
			l.compare(signed)
		case p := <-l.witness.proofs:
			l.proven(p)
		case bundle := <-l.rotten:
			err = l.damaged(ctx, bundle)
		case done := <-l.looks:
			l.publish()
			close(done)
			continue
		case <-timer.C:
			err = l.ticks(ctx)
		}
		if err != nil {
			return err
		}
		l.publish()
		timer.Reset(l.next())
	}
}

// step moves one model by one event: first its new state is on the disk, then
// what follows is done. Its only error is a failpoint's: a state that cannot be
// written leaves everything as it was, and the event is tried again.
func (l *loop) step(ctx context.Context, e event) error {
	old, known := l.mem.Models[e.model]
	if !known {
		old = update.State{Model: e.model}
	}
	e.ev.At = time.Now()
	e.ev.Current, e.ev.Seen = l.current(e.model)
	next, effects, err := move(l.o.Logger, old, e.ev)
	if err != nil {
		l.o.Logger.Error("state machine refused an event", "model", e.model, "event", e.ev.Kind.String(), "state", old.Phase.String(), "err", err)
		return nil
	}
	if !known || !equal(old, next) {
		mem := l.mem
		mem.Models = maps.Clone(l.mem.Models)
		mem.Models[e.model] = next
		if err := l.save(mem); err != nil {
			l.o.Logger.Error("state not written", "model", e.model, "err", err)
			l.later(e, time.Now())
			return nil
		}
		l.log(old, next)
	}
	if err := l.fail("state " + next.Phase.String()); err != nil {
		return err
	}
	keep, whole := l.keeping(), l.holding()
	l.keep.Store(&keep)
	l.whole.Store(&whole)
	l.host.Moved(old, next, l.limits(next))
	if l.starting {
		l.pending = append(l.pending, effects...)
		return nil
	}
	for _, eff := range effects {
		l.run.Do(ctx, eff)
	}
	return nil
}

// save writes a memory, with how late it is by now, and takes it over.
func (l *loop) save(mem memory) error {
	mem.Trust.Floor, mem.Told = l.clock.least(), l.clock.carried(l.clock.told)
	if err := l.disk.save(mem); err != nil {
		return err
	}
	l.mem, l.timed = mem, time.Now()
	return nil
}

// move is [update.Step] behind a guard: a bug in the machine leaves the model as
// it is instead of ending the agent.
func move(log *slog.Logger, st update.State, ev update.Event) (next update.State, effects []update.Effect, err error) {
	err = guard.Do(log, "move model", string(st.Model), func() error {
		next, effects = update.Step(st, ev)
		return nil
	})
	return next, effects, err
}

// ticks tells each model that waits for a time that it has come.
func (l *loop) ticks(ctx context.Context) error {
	retry := l.retry
	l.retry = nil
	for _, e := range retry {
		if err := l.step(ctx, e); err != nil {
			return err
		}
	}
	if p := l.belief.waiting; p.pack != nil {
		v, err := l.judge(ctx, p.pack, p.from)
		if err != nil {
			return err
		}
		if fault.Is(v.err, fault.Untrusted) {
			l.belief.waiting = packOffer{} // it grew too old meanwhile
		}
	}
	if l.lacking() {
		l.wantPack()
	}
	now := time.Now()
	if now.Sub(l.timed) >= floorEvery {
		l.keepTime()
	}
	for _, m := range slices.Sorted(maps.Keys(l.mem.Models)) {
		st := l.mem.Models[m]
		due := st.Next()
		waits := due.IsZero() || now.Before(due) || l.held(st)
		if waits && l.intact(m, st) {
			continue
		}
		if err := l.step(ctx, event{model: m, ev: update.Event{Kind: update.Tick}}); err != nil {
			return err
		}
	}
	return nil
}

// intact reports whether applications are given what the state says; someone may
// have removed the link.
func (l *loop) intact(m fleet.ModelName, st update.State) bool {
	d, seen := l.current(m)
	return !seen || d == st.Running.Bundle || st.Phase == fleet.Activating || st.Leaving
}

// held reports whether a model must not begin anything because what the agent
// believes is past its expiry. What was begun, and going back, go on.
func (l *loop) held(st update.State) bool {
	if l.fresh() {
		return false
	}
	return st.Phase == fleet.Offered || st.Phase == fleet.Staged || st.Phase == fleet.Failed && !st.Leaving
}

// showEvery is how often those who watch see how far a fetch is.
const showEvery = 2 * time.Second

// next is how long until a model wants its tick.
func (l *loop) next() time.Duration {
	now := time.Now()
	if wait := l.stuck.Sub(now); wait > 0 {
		return wait
	}
	wait := time.Minute
	if len(l.retry) > 0 || l.belief.waiting.pack != nil {
		wait = writeAgain
	}
	for _, st := range l.mem.Models {
		if st.Phase == fleet.Downloading {
			wait = min(wait, showEvery)
		}
		if at := st.Next(); !at.IsZero() && !l.held(st) {
			wait = min(wait, at.Sub(now))
		}
	}
	return max(wait, 10*time.Millisecond)
}

// current reads from the disk which release applications are given.
func (l *loop) current(m fleet.ModelName) (bundle fleet.Digest, seen bool) {
	dir, err := l.slots.Current(m)
	if err != nil {
		l.o.Logger.Error("slot not read", "model", m, "err", err)
		return fleet.Digest{}, false
	}
	if dir == "" {
		return fleet.Digest{}, true
	}
	d, err := fleet.ParseDigest(filepath.Base(dir))
	return d, err == nil
}

// keeping is every bundle whose files must stay, over all models.
func (l *loop) keeping() []fleet.Digest {
	var keep []fleet.Digest
	for m, st := range l.mem.Models {
		keep = append(keep, st.Keep()...)
		if d, ok := l.current(m); ok && !d.IsZero() {
			keep = append(keep, d)
		}
	}
	return keep
}

// holding is every bundle whose verified files should be on the disk.
func (l *loop) holding() []fleet.Digest {
	var all []fleet.Digest
	for _, st := range l.mem.Models {
		for _, b := range st.Whole() {
			if !slices.Contains(all, b) {
				all = append(all, b)
			}
		}
	}
	return all
}

// found tells the loop of a release that the disk damaged.
func (l *loop) found(ctx context.Context, bundle fleet.Digest) {
	select {
	case l.rotten <- bundle:
	case <-ctx.Done():
	}
}

// damaged tells every model that has the release.
func (l *loop) damaged(ctx context.Context, bundle fleet.Digest) error {
	for _, m := range slices.Sorted(maps.Keys(l.mem.Models)) {
		if !slices.Contains(l.mem.Models[m].Whole(), bundle) {
			continue
		}
		if err := l.step(ctx, event{model: m, ev: update.Event{Kind: update.Damaged, Bundle: bundle}}); err != nil {
			return err
		}
	}
	return nil
}

func (l *loop) fail(point string) error {
	if l.o.Failpoint == nil {
		return nil
	}
	return l.o.Failpoint(point)
}

func (l *loop) log(old, next update.State) {
	if next.Running.Damaged && !old.Running.Damaged {
		l.o.Logger.Error("what is served is damaged on the disk; it is put right", "model", next.Model, "release", next.Running.Ref)
	}
	if next.Running.Mended.After(old.Running.Mended) {
		l.o.Logger.Info("what is served was put right; applications are told to load it again", "model", next.Model, "release", next.Running.Ref)
	}
	if old.Phase == next.Phase && len(old.Quarantined) == len(next.Quarantined) {
		return
	}
	level := l.o.Logger.Info
	if len(next.Quarantined) > len(old.Quarantined) {
		level = l.o.Logger.Error // a person should know that a release failed here
	}
	level("model moved", "model", next.Model, "state", next.Phase.String(), "from", old.Phase.String(),
		"release", next.Target.Ref, "rollout", string(next.Terms.Rollout), "why", next.Why, "code", next.Failure.Code)
}

// equal compares two states by what would be written of them.
func equal(a, b update.State) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

func describe(a fleet.Assignment, refused []trust.Refusal) string {
	for _, r := range refused {
		if r.Model == a.Model {
			return fmt.Sprintf("%s; %s refused: %v", a.Reason, r.Release, r.Err)
		}
	}
	return a.Reason
}
