package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/gossip"
	"github.com/modelfleet/modelfleet/pkg/guard"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// judge decides whether a pack is to be believed and, if so, acts on it. A
// refusal changes nothing but what the agent says of itself; a pack that brings
// the code to panic is refused too. The error is a failpoint's.
func (l *loop) judge(ctx context.Context, pack []byte, from string) (v verdict, dead error) {
	err := guard.Do(l.o.Logger, "judge pack", from, func() error {
		v, dead = l.weigh(ctx, pack, from)
		return nil
	})
	if err == nil {
		return v, dead
	}
	if bytes.Equal(pack, l.belief.waiting.pack) {
		l.belief.waiting = packOffer{}
	}
	l.doubt(fleet.DigestOf(pack), err, from)
	return verdict{err: err}, nil
}

// weigh is judge without its guard.
func (l *loop) weigh(ctx context.Context, pack []byte, from string) (verdict, error) {
	digest := fleet.DigestOf(pack)
	if t := l.trusted.Load(); t != nil && digest == l.belief.pack && l.fresh() {
		l.belief.confirm(from)
		return verdict{version: packVersion(*t)}, nil // known and acted on
	}
	have := l.mem.Trust
	have.Floor = l.clock.least()
	t, st, err := l.o.verify(pack, have, l.facts, l.clock.wall())
	if err != nil {
		l.audited(l.mem.Trust.Audit.Refused(err))
		l.doubt(digest, err, from)
		return verdict{err: err}, nil
	}
	news := !bytes.Equal(st.Timestamp, have.Timestamp)
	if t.Freshness == trust.Stale || !news && !l.clock.now().Before(t.Expires) {
		t.Freshness = trust.Stale
		return verdict{err: l.stale(t, digest, from)}, nil
	}
	if known := l.trusted.Load(); !news && known != nil && lost(*known, t) {
		// One timestamp vouches for one state of things: whoever brought this pack
		// took a publisher's word out of it.
		err := trust.Violated(trust.RuleFormat, "judge pack", string(l.facts.Group), errors.New("it holds less than the pack of the same timestamp that was believed"))
		l.belief.refuse(l.o.Logger, err, from)
		return verdict{err: err}, nil
	}
	if !st.Equal(have) || l.belief.pack != digest {
		if err := l.believe(pack, have, st); err != nil {
			l.stuck = time.Now().Add(writeAgain)
			l.belief.postpone(l.o.Logger, packOffer{pack: pack, from: from, version: packVersion(t)}, err)
			return verdict{err: err}, nil
		}
	}
	l.belief.accept(digest)
	was := l.trusted.Swap(&t)
	if t.Behind > clockOff {
		l.o.Logger.Warn("clock is behind", "by", t.Behind.String())
		if was != nil && was.Behind <= clockOff {
			l.keeper.doubts() // it was put back: how late is it, really?
		}
	}
	l.o.Logger.Info("directive believed", "sequence", t.Directive.Sequence, "from", from, "refused", len(t.Refused))
	l.announce(gossip.Pack{Group: l.facts.Group, Version: packVersion(t), Body: pack})
	return verdict{version: packVersion(t)}, l.assign(ctx, t)
}

// lost reports whether a pack lacks a publisher's role that one of the same
// timestamp held and that is still in force.
func lost(known, t trust.Trusted) bool {
	for team, role := range known.Teams {
		if _, ok := t.Teams[team]; !ok && role.Expires.After(t.At) {
			return true
		}
	}
	return false
}

// packVersion orders the packs of a group: each has a newer timestamp.
func packVersion(t trust.Trusted) uint64 { return uint64(t.Versions["timestamp"]) }

// believe writes down a pack and what it proved. The pack first: one that is
// newer than the state verifies after a crash, an older one would not.
func (l *loop) believe(pack []byte, have, st trust.State) error {
	if err := l.disk.savePack(pack); err != nil {
		return err
	}
	mem, was := l.mem, l.clock
	mem.Trust = st
	if !bytes.Equal(st.Timestamp, have.Timestamp) {
		// Earlier than before only when root changed the keys that speak of time.
		l.clock.prove(st.Floor)
	}
	if err := l.save(mem); err != nil {
		l.clock = was
		return err
	}
	return nil
}

// stale takes note of a pack that is authentic but past its expiry. It is kept in
// mind only when there is nothing better: after a restart it still says by whom
// the releases on disk are backed.
func (l *loop) stale(t trust.Trusted, digest fleet.Digest, from string) error {
	l.belief.lapse(digest, t.Expired)
	cause := "role " + t.Expired
	if t.Expired == "" {
		cause = "by what the coordinator says of the time"
	}
	err := fault.Newf(fault.Untrusted, "believe pack", from, "it expired at %s (%s)", t.Expires.Format(time.RFC3339), cause)
	if l.trusted.Load() == nil {
		l.trusted.Store(&t)
		l.belief.pack = digest
	}
	l.belief.refuse(l.o.Logger, err, from)
	return err
}

// assign tells every model what the directive wants of it. A model that it does
// not name keeps what it has, so that an empty directive, signed by mistake,
// does not stop a fleet; but what only a rollout brought here goes when that
// rollout is gone.
func (l *loop) assign(ctx context.Context, t trust.Trusted) error {
	l.reasons, l.unbacked = map[fleet.ModelName]string{}, map[fleet.ModelName]string{}
	if err := l.revoke(ctx, t); err != nil {
		return err
	}
	for _, m := range slices.Sorted(maps.Keys(l.mem.Models)) {
		if !l.orphaned(m, t) {
			continue
		}
		terms := update.Terms{Sequence: t.Directive.Sequence, Reason: "the rollout that brought it is gone"}
		if err := l.step(ctx, event{model: m, ev: update.Event{Kind: update.Assigned, Terms: terms}}); err != nil {
			return err
		}
	}
	for _, r := range t.Refused {
		l.reasons[r.Model] = fmt.Sprintf("%s refused: %v", r.Release, r.Err)
		if r.Held {
			l.unbacked[r.Model] = l.reasons[r.Model]
		}
	}
	for _, p := range t.Directive.Models {
		a := p.Assign(l.facts)
		l.reasons[p.Model] = describe(a, t.Refused)
		if a.Arm != fleet.Exposed && heldBack(p.Model, t) {
			continue // what it should run nobody backs: it keeps what it has
		}
		ev := update.Event{Kind: update.Assigned, Terms: l.terms(a, t.Directive.Sequence), Failed: gateFailed(p)}
		if a.Release != nil {
			ev.Offer = offerOf(*a.Release, a.Variant)
		}
		if a.Fallback != nil {
			ev.Stable = offerOf(*a.Fallback, a.FallbackVariant)
		}
		if _, known := l.mem.Models[p.Model]; !known && ev.Offer.IsZero() {
			continue // nothing of it runs here, nor should
		}
		if err := l.step(ctx, event{model: p.Model, ev: ev}); err != nil {
			return err
		}
	}
	return nil
}

// orphaned reports whether a model was brought here by a rollout of which the
// directive knows nothing any more.
func (l *loop) orphaned(m fleet.ModelName, t trust.Trusted) bool {
	_, named := t.Directive.Placement(m)
	return !named && !heldBack(m, t) && l.mem.Models[m].Terms.Arm == fleet.Exposed
}

// heldBack reports whether what the directive has members of no rollout run is
// not backed by its publisher.
func heldBack(m fleet.ModelName, t trust.Trusted) bool {
	return slices.ContainsFunc(t.Refused, func(r trust.Refusal) bool { return r.Model == m && r.Held })
}

func offerOf(r fleet.Release, v fleet.Variant) update.Offer {
	return update.Offer{
		Ref: r.Ref(), Root: v.Root, Bundle: v.Bundle, Path: r.BundlePath(v.Name), Size: v.Size, Counter: r.Counter,
	}
}

// gateFailed is what the gates of rollouts failed, root by root.
func gateFailed(p fleet.Placement) []update.GateFailed {
	var out []update.GateFailed
	for _, f := range p.Failed {
		for _, root := range f.Roots {
			out = append(out, update.GateFailed{Root: root, Rollout: f.Rollout, Text: f.Reason})
		}
	}
	return out
}

func (l *loop) terms(a fleet.Assignment, seq uint64) update.Terms {
	t := update.Terms{
		Rollout: a.Rollout, Arm: a.Arm, Sequence: seq, Reason: a.Reason, Soak: l.o.Soak, Health: l.o.Health, Retry: l.o.Retry,
	}
	if x := a.Exposure; x != nil && a.Arm == fleet.Exposed {
		t.NotBefore, t.Windows, t.Soak, t.Health, t.Lifts = x.NotBefore, x.Windows, x.Soak.D(), x.Health, x.Retry
	}
	return t
}
