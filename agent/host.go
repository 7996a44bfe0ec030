package agent

import (
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/agent/probe"
	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// host is what applications see and say: the loop's newest listing, and the
// watch over each release that is not proven yet.
type host struct {
	log     *slog.Logger
	rec     *telemetry.Recorder
	send    func(event)
	listing atomic.Pointer[local.Listing]

	mu      sync.Mutex
	watches map[fleet.ModelName]*watched
	counts  map[counted]local.Counts
}

// counted is what observations are counted by.
type counted struct {
	model fleet.ModelName
	root  fleet.Digest
}

type watched struct {
	root  fleet.Digest
	watch *probe.Watch
	told  bool // the loop knows that it is sick
}

// moved follows a model's state: a release is watched from its switch until it
// is proven or gone.
func (h *host) moved(old, next update.State, limits probe.Limits) {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.watches[next.Model]
	switch run := next.Running; {
	case run.IsZero() || run.Good:
		delete(h.watches, next.Model)
	case w == nil || w.root != run.Root:
		h.watches[next.Model] = &watched{root: run.Root, watch: probe.NewWatch(limits)}
	}
	for _, q := range next.Quarantined[min(len(old.Quarantined), len(next.Quarantined)):] {
		switch q.Code {
		case "revoked", update.CodeGate: // it did not fail here
		case "crash-loop": // each crash was counted when it happened
		default:
			h.fatal(next.Model, q.Root, now)
		}
	}
}

func (h *host) fatal(m fleet.ModelName, root fleet.Digest, now time.Time) {
	if err := h.rec.Fatal(m, now, root); err != nil {
		h.log.Debug("fatal event not counted", "model", m, "err", err)
	}
}

// Observe counts what an application observed, and tells the loop when a release
// under watch did too badly.
func (h *host) Observe(m fleet.ModelName, root fleet.Digest, obs []local.Observation) {
	now := time.Now()
	for _, o := range obs {
		err := h.rec.Observe(m, now, telemetry.Observation{
			Release: root, Latency: time.Duration(max(o.Micros, 0)) * time.Microsecond, Err: o.Error, Score: o.Score, Right: o.Right,
		})
		if err != nil {
			h.log.Debug("observation not counted", "model", m, "err", err)
			break
		}
	}
	h.count(counted{m, root}, obs)
	h.check(m, root, func(w *probe.Watch) (v probe.Verdict, bad bool) {
		for _, o := range obs {
			if v, bad = w.Used(o.Error, 0); bad {
				return v, bad
			}
		}
		return v, false
	})
}

// count keeps what the local API shows, of the releases that run or ran here.
func (h *host) count(k counted, obs []local.Observation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, known := h.counts[k]
	if !known && len(h.counts) >= maxCounted {
		clear(h.counts)
	}
	for _, o := range obs {
		c.Requests++
		if o.Error {
			c.Errors++
		}
		switch {
		case o.Right == nil:
		case *o.Right:
			c.Right++
		default:
			c.Wrong++
		}
	}
	h.counts[k] = c
}

// maxCounted bounds what a confused application can make the agent keep.
const maxCounted = 256

func (h *host) counted(m fleet.ModelName, root fleet.Digest) local.Counts {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.counts[counted{m, root}]
}

// Listing is how things stand: what the loop published last, with the newest
// counts.
func (h *host) Listing() local.Listing {
	l := *h.listing.Load()
	l.Models = slices.Clone(l.Models)
	for i, m := range l.Models {
		if m.Serving != nil {
			l.Models[i].Counts = h.counted(m.Name, m.Serving.Root)
		}
	}
	return l
}

// Lost counts an application that lost a release.
func (h *host) Lost(l local.Loss) {
	h.log.Warn("application lost a release", "model", l.Model, "app", l.App, "why", l.Why)
	h.fatal(l.Model, l.Root, time.Now())
	h.check(l.Model, l.Root, func(w *probe.Watch) (probe.Verdict, bool) {
		if l.Fatal {
			return w.Refused(l.Why), true
		}
		return w.Lost(l.Why)
	})
}

// Lift takes a release out of quarantine.
func (h *host) Lift(m fleet.ModelName, root fleet.Digest) {
	h.log.Warn("quarantine lifted", "model", m, "root", root.Short())
	h.send(event{model: m, ev: update.Event{Kind: update.Lifted, Root: root}})
}

// check asks the watch over a release, if there is one, and passes on its verdict.
func (h *host) check(m fleet.ModelName, root fleet.Digest, ask func(*probe.Watch) (probe.Verdict, bool)) {
	h.mu.Lock()
	w := h.watches[m]
	if w == nil || w.root != root || w.told {
		h.mu.Unlock()
		return
	}
	v, bad := ask(w.watch)
	w.told = bad
	h.mu.Unlock()
	if bad {
		h.send(event{model: m, ev: update.Event{
			Kind: update.Sick, Root: root, Failure: update.Failure{Class: fleet.ReleaseFailure, Code: v.Code, Text: v.Text},
		}})
	}
}

// limits is what a release may do while it is watched.
func (l *loop) limits(st update.State) probe.Limits {
	return probe.Limits{Health: st.Terms.Health, ErrorRate: l.o.ErrorRate, MinUses: 50}
}

// publish tells applications, and the recorder, how things stand.
func (l *loop) publish() {
	out := local.Listing{
		Member: l.facts.ID, Agent: l.o.Version, Directive: l.mem.Trust.Sequence,
		Freshness: l.freshness().String(), Refused: l.refused, Models: []local.Model{},
	}
	now := time.Now()
	for _, m := range slices.Sorted(maps.Keys(l.mem.Models)) {
		st := l.mem.Models[m]
		out.Models = append(out.Models, l.view(st))
		if err := l.host.rec.SetModel(m, now, l.report(st)); err != nil {
			l.o.Logger.Debug("model not reported", "model", m, "kind", fault.KindOf(err).String(), "err", err)
		}
	}
	l.host.rec.SetMember(telemetry.MemberState{Directive: l.mem.Trust.Sequence, Freshness: l.freshness(), RSS: telemetry.ResidentKiB()})
	l.host.listing.Store(&out)
	l.changed()
}

func (l *loop) freshness() telemetry.Freshness {
	switch {
	case l.trusted.Load() == nil:
		return telemetry.NoPack
	case l.fresh(time.Now()):
		return telemetry.Fresh
	}
	return telemetry.Stale
}

func (l *loop) view(st update.State) local.Model {
	p := l.run.done(st.Model)
	v := local.Model{
		Name: st.Model, Phase: st.Phase, Since: st.Since, Why: st.Why, Want: st.Want.Ref, Reason: l.reasons[st.Model],
		Arm: st.Terms.Arm.String(), Rollout: st.Terms.Rollout,
		Failure: st.Failure.Class, FailureCode: st.Failure.Code, FailureText: st.Failure.Text,
	}
	v.BytesReused = p.Resume + p.From[delivery.Copy]
	if st.Phase == fleet.Downloading {
		v.BytesDone, v.BytesTotal = p.Done, st.Target.Size
	}
	// What is served is what the disk says, not what was meant to be.
	if d, ok := l.current(st.Model); ok && !d.IsZero() {
		if h, known := heldAs(st, d); known {
			v.Serving = &local.Release{Ref: h.Ref, Root: h.Root, Path: l.run.store.ReleaseDir(d)}
		}
	}
	if f := st.Fallback; !f.IsZero() {
		v.Previous = &local.Release{Ref: f.Ref, Root: f.Root, Path: l.run.store.ReleaseDir(f.Bundle)}
	}
	for _, q := range st.Quarantined {
		v.Quarantined = append(v.Quarantined, local.Refused{Ref: q.Ref, Root: q.Root, Code: q.Code, Text: q.Text, At: q.At})
	}
	return v
}

// heldAs names the release that a folder on the disk holds.
func heldAs(st update.State, bundle fleet.Digest) (update.Offer, bool) {
	for _, o := range []update.Offer{st.Running.Offer, st.Target, st.Fallback.Offer} {
		if o.Bundle == bundle {
			return o, true
		}
	}
	return update.Offer{}, false
}

// report is a model's state as rows tell it. A device that refuses what it is
// told to run says so, whatever it does instead.
func (l *loop) report(st update.State) telemetry.ModelState {
	r := telemetry.ModelState{
		Target: st.Target.Root, Rollout: st.Terms.Rollout, Arm: st.Terms.Arm, Phase: st.Phase,
		Failure: st.Failure.Class, Code: codeOf(st.Failure.Code), Total: uint64(max(st.Target.Size, 0)),
	}
	if d, ok := l.current(st.Model); ok && !d.IsZero() {
		if o, known := heldAs(st, d); known {
			r.Running = o.Root
		}
	}
	if p := l.run.done(st.Model); st.Phase >= fleet.Downloading && st.Phase <= fleet.Soaking {
		r.Done = uint64(max(p.Done, 0))
	}
	if r.Phase == fleet.Quarantined { // perhaps what is not wanted any more
		r.Target = st.Failure.Root
	}
	if st.IsQuarantined(st.Want.Root) && !st.Leaving {
		r.Target, r.Phase, r.Failure = st.Want.Root, fleet.Quarantined, fleet.ReleaseFailure
		for _, q := range st.Quarantined {
			if q.Root == st.Want.Root {
				r.Code = codeOf(q.Code)
			}
		}
	}
	if r.Target.IsZero() {
		r.Target = st.Failure.Root
	}
	return r
}

// codeOf is a failure's code on the wire; those that only the device tells apart
// are sent as what they come to.
func codeOf(code string) telemetry.FailureCode {
	switch code {
	case "boot-loop":
		return telemetry.CodeCrashLoop
	case "revoked":
		return telemetry.CodeUntrusted
	case update.CodeGone:
		return telemetry.CodeIO
	}
	return telemetry.ParseFailureCode(code)
}
