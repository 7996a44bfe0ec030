package intake

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/analysis"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// Bins is how many equal parts of [0, 1] predictions are counted in.
const Bins = 10

// Standing is what is remembered of one member in one rollout, besides its rows:
// when it began to count, and what it had counted by the end of its burn-in. It
// is persisted with the decision that used it.
type Standing struct {
	Arm      fleet.Arm         `json:"arm"`
	Since    time.Time         `json:"since"`
	Ran      bool              `json:"ran,omitempty"` // ever ran the rollout's release
	Failed   time.Time         `json:"failed,omitzero"`
	Settled  time.Time         `json:"settled,omitzero"`
	Alarm    bool              `json:"alarm,omitempty"`
	Pre      analysis.Counters `json:"pre,omitzero"`     // under the stable release before Since
	Primed   bool              `json:"primed,omitempty"` // Pre was taken
	Based    bool              `json:"based,omitempty"`  // Base was taken
	Base     analysis.Counters `json:"base,omitzero"`    // at the end of the burn-in
	Slow     [3]uint64         `json:"slow,omitzero"`    // from latency windows after the burn-in
	Bins     []uint64          `json:"bins,omitempty"`   // from score windows after the burn-in
	PreBins  []uint64          `json:"preBins,omitempty"`
	Counted  uint64            `json:"counted,omitempty"`  // end of the newest window counted, Unix seconds
	Measured uint64            `json:"measured,omitempty"` // requests in the latency windows counted
}

// Watch follows one rollout: it turns rows into evidence. It belongs to the loop
// and is not safe for concurrent use.
type Watch struct {
	in       *Intake
	id       fleet.RolloutID
	prefix   telemetry.Prefix
	model    telemetry.Prefix
	roots    map[telemetry.Prefix]bool // of the release
	digests  map[telemetry.Prefix]fleet.Digest
	stable   map[telemetry.Prefix]bool // of the releases it began from
	burnIn   time.Duration
	started  time.Time
	edges    [3]uint64 // latency in microseconds
	metrics  bool      // a gate asks for them
	retry    bool      // members lift the quarantines of earlier rollouts
	standing map[fleet.MemberID]Standing
	dirty    map[fleet.MemberID]bool
}

// WatchOptions say which rollout to follow.
type WatchOptions struct {
	ID        fleet.RolloutID
	Release   fleet.Release
	Stable    []fleet.Release // what members outside it run; empty: the model had none
	BurnIn    time.Duration
	Started   time.Time
	Metrics   bool      // a gate watches metrics
	Retry     bool      // members lift the quarantines of earlier rollouts
	Edges     [3]uint64 // as [Watch.Edges] said when the rollout began; zero: worked out anew
	Standings []store.Standing
}

// Watch begins to follow a rollout, from what is remembered of it.
func (in *Intake) Watch(o WatchOptions) (*Watch, error) {
	w := &Watch{
		in: in, id: o.ID, prefix: telemetry.RolloutPrefix(o.ID), model: telemetry.ModelPrefix(o.Release.Model),
		roots: prefixes(o.Release), stable: prefixes(o.Stable...), burnIn: o.BurnIn, metrics: o.Metrics, retry: o.Retry, started: o.Started, digests: map[telemetry.Prefix]fleet.Digest{},
		standing: map[fleet.MemberID]Standing{}, dirty: map[fleet.MemberID]bool{},
	}
	for _, v := range o.Release.Variants {
		w.digests[telemetry.ReleasePrefix(v.Root)] = v.Root
	}
	for _, st := range o.Standings {
		var s Standing
		if err := json.Unmarshal(st.Body, &s); err != nil {
			return nil, fault.New(fault.Internal, "read standing", string(st.Member), err)
		}
		w.standing[st.Member] = s
	}
	in.mu.RLock()
	defer in.mu.RUnlock()
	if w.edges = o.Edges; w.edges == [3]uint64{} {
		w.edges = in.edgesOf(w.stable)
	}
	return w, nil
}

// Edges are the latencies that requests are counted beyond: what is counted stays
// comparable only as long as they stay the same, so they are to be kept.
func (w *Watch) Edges() [3]uint64 { return w.edges }

func prefixes(releases ...fleet.Release) map[telemetry.Prefix]bool {
	out := map[telemetry.Prefix]bool{}
	for _, r := range releases {
		for _, v := range r.Variants {
			out[telemetry.ReleasePrefix(v.Root)] = true
		}
	}
	return out
}

// Evidence is the input of the gates at now: the members that count, by id. The
// caller adds what the rollout's status says: the stage, who was told, its soak.
func (w *Watch) Evidence(facts []fleet.Facts, now time.Time) analysis.Evidence {
	ev := analysis.Evidence{At: now.UTC()}
	w.in.mu.RLock()
	defer w.in.mu.RUnlock()
	for _, f := range facts {
		m, ok := w.in.o.Directory.Member(f.ID)
		if !ok {
			continue
		}
		l, ok := w.in.newest[m.KeyID]
		if !ok || (f.Kind == fleet.Function && !w.in.reach(l.row, l.received, now)) {
			continue // a function that is silent is frozen or gone: that is its nature
		}
		if em, ok := w.member(f, m.KeyID, l); ok {
			ev.Members = append(ev.Members, em)
		}
	}
	slices.SortFunc(ev.Members, func(a, b analysis.Member) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return ev
}

// member is one member's part in the evidence; ok is false when it has none. The
// caller holds the intake's lock.
func (w *Watch) member(f fleet.Facts, key telemetry.KeyID, l latest) (analysis.Member, bool) {
	now, has := l.row.Model(w.model)
	st, known := w.standing[f.ID]
	if has && now.Rollout == w.prefix {
		st, known = w.advance(f.ID, st, known, now, l)
	}
	if !known {
		return analysis.Member{}, false
	}
	total, pre := w.sum(key, st.Arm)
	fresh := w.count(key, &st)
	if !st.Primed { // kept: a member that went back counts under stable again
		st.Pre, st.Primed, fresh = pre, true, true
	}
	pre = st.Pre
	post := minus(total, st.Base)
	if !st.Based {
		post = analysis.Counters{}
		if l.received.Sub(st.Since) >= w.burnIn {
			st.Based, fresh = true, true
			if w.burnIn > 0 {
				st.Base = total
			} else {
				post = total
			}
		}
	}
	if fresh {
		w.set(f.ID, st)
	}
	post.Slow, post.Bins, pre.Bins = st.Slow, st.Bins, st.PreBins
	if w.metrics {
		post.Metrics, pre.Metrics = metricsOf(post), metricsOf(pre)
	}
	return analysis.Member{
		ID: f.ID, Arm: st.Arm, Stratum: f.Class(), Since: st.Since, Seen: l.received.UTC(),
		Failed: !st.Failed.IsZero(), FailedAt: st.Failed, Settled: st.Settled, Alarm: st.Alarm,
		Pre: pre, Post: post,
	}, true
}

func (w *Watch) set(id fleet.MemberID, st Standing) {
	w.standing[id] = st
	w.dirty[id] = true
}

// advance moves a member's standing on by its newest row, which is about this
// rollout.
func (w *Watch) advance(id fleet.MemberID, st Standing, known bool, m telemetry.Model, l latest) (Standing, bool) {
	before := st
	runs := w.roots[m.Running]
	// What the gates failed did not fail on the member.
	failed := m.Failure == fleet.ReleaseFailure && m.Code != telemetry.CodeGate && w.roots[m.Target]
	switch {
	case m.Arm == fleet.Exposed && st.Arm != fleet.Exposed && (runs || failed || m.Phase == fleet.Activating):
		st = Standing{Arm: fleet.Exposed, Since: w.since(m, fleet.Exposed, l), Counted: st.Counted}
	case m.Arm == fleet.Control && !known:
		st = Standing{Arm: fleet.Control, Since: w.since(m, fleet.Control, l)}
	case !known:
		return st, false // told, but not there yet
	}
	if st.Arm == fleet.Exposed {
		st.Ran = st.Ran || runs
		if failed && st.Failed.IsZero() {
			st.Failed = l.received.UTC()
		}
		if st.Settled.IsZero() && (failed || (runs && m.Phase == fleet.Healthy)) {
			st.Settled = l.received.UTC()
		}
	} else if m.Failure == fleet.ReleaseFailure && w.stable[m.Target] && st.Failed.IsZero() {
		st.Failed = l.received.UTC()
	}
	for _, s := range m.Series {
		if s.Rollout == w.prefix && s.Arm == st.Arm && s.Alarm && w.ofArm(s.Release, st.Arm) {
			st.Alarm = true
		}
	}
	if !known || st.Since != before.Since || st.Failed != before.Failed || st.Settled != before.Settled || st.Alarm != before.Alarm || st.Ran != before.Ran {
		w.set(id, st)
	}
	return st, true
}

// since is when a member began to count. Its own clock is believed between the
// rollout's start and the row's arrival.
func (w *Watch) since(m telemetry.Model, arm fleet.Arm, l latest) time.Time {
	at := l.received
	for _, s := range m.Series {
		if s.Rollout == w.prefix && s.Arm == arm && w.ofArm(s.Release, arm) {
			at = time.Unix(s.Since, 0)
		}
	}
	if at.After(l.received) {
		at = l.received
	}
	if at.Before(w.started) {
		at = w.started
	}
	return at.UTC()
}

func (w *Watch) ofArm(release telemetry.Prefix, arm fleet.Arm) bool {
	return w.roots[release] == (arm == fleet.Exposed)
}

// sum adds up what a member counted in the rollout in its arm, and before that
// under the stable release.
func (w *Watch) sum(key telemetry.KeyID, arm fleet.Arm) (total, pre analysis.Counters) {
	for _, epoch := range w.in.epochs[key] {
		for _, s := range w.in.table.Series(key, epoch, w.model) {
			switch {
			case s.Rollout == w.prefix && s.Arm == arm && w.ofArm(s.Release, arm):
				add(&total, s.Counters)
			case w.stable[s.Release] && (s.Rollout != w.prefix || arm == fleet.Exposed):
				add(&pre, s.Counters)
			}
		}
	}
	return total, pre
}

// add adds a series, with what cannot be clamped to what can.
func add(c *analysis.Counters, s telemetry.Counters) {
	c.Windows += s.Windows
	c.Errored += min(s.ErrWindows, s.Windows)
	c.Requests += s.Requests
	c.Errors += min(s.Errors, s.Requests)
	c.Right += s.Right
	c.Wrong += s.Wrong
}

// The metrics that a metric gate may watch, sorted.
const (
	MetricErrorRate = "error_rate" // errors of all requests
	MetricWrongRate = "wrong_rate" // wrong answers of all labelled
)

func metricsOf(c analysis.Counters) []analysis.Metric {
	return []analysis.Metric{
		{Name: MetricErrorRate, Sum: float64(c.Errors), N: c.Requests},
		{Name: MetricWrongRate, Sum: float64(c.Wrong), N: c.Right + c.Wrong},
	}
}

// minus is a - b for each counter, never below zero.
func minus(a, b analysis.Counters) analysis.Counters {
	sub := func(x, y uint64) uint64 { return x - min(x, y) }
	return analysis.Counters{
		Windows: sub(a.Windows, b.Windows), Errored: sub(a.Errored, b.Errored),
		Requests: sub(a.Requests, b.Requests), Errors: sub(a.Errors, b.Errors),
		Right: sub(a.Right, b.Right), Wrong: sub(a.Wrong, b.Wrong),
	}
}

// count adds the sketch windows that closed since the last time: latency beyond
// the edges, and predictions by bin. A window that comes after a later one was
// counted is left out, so that nothing is counted twice after a restart.
func (w *Watch) count(key telemetry.KeyID, st *Standing) bool {
	newest := st.Counted
	from := uint64(max(0, st.Since.Add(w.burnIn).Unix()))
	for _, win := range w.in.windows[key] {
		begin, end := win.Index*win.Width, (win.Index+1)*win.Width
		if end <= st.Counted {
			continue
		}
		mine := win.Rollout == w.prefix && win.Arm == st.Arm && w.ofArm(win.Release, st.Arm)
		switch {
		case mine && begin >= from && win.Metric == telemetry.Latency && w.edges[2] > 0:
			for i, edge := range w.edges {
				st.Slow[i] += win.Sketch.Above(edge)
			}
			st.Measured += win.Sketch.Count()
		case mine && begin >= from && win.Metric == telemetry.Score:
			st.Bins = addBins(st.Bins, win.Sketch)
		case !mine && win.Metric == telemetry.Score && w.stable[win.Release] && win.Rollout != w.prefix:
			st.PreBins = addBins(st.PreBins, win.Sketch)
		}
		newest = max(newest, end)
	}
	changed := newest != st.Counted
	st.Counted = newest
	return changed
}

// addBins counts a sketch of scores by equal parts of [0, 1].
func addBins(bins []uint64, s *telemetry.Sketch) []uint64 {
	out := make([]uint64, Bins)
	copy(out, bins)
	s.Buckets(func(lo, hi, count uint64) {
		middle := lo + (hi-lo)/2 // millionths
		out[min(middle*Bins/1_000_000, Bins-1)] += count
	})
	return out
}

// edgesOf are the 50th, 95th and 99th percentile of the latency of releases, as
// the upper bounds of their buckets so that counting beyond them is exact. The
// caller holds the lock.
func (in *Intake) edgesOf(releases map[telemetry.Prefix]bool) [3]uint64 {
	var all telemetry.Sketch
	for k, s := range in.sketches {
		if k.Metric == telemetry.Latency && releases[k.Release] {
			all.Merge(s)
		}
	}
	var out [3]uint64
	if all.Count() == 0 {
		return out
	}
	for i, q := range []float64{0.5, 0.95, 0.99} {
		_, out[i] = telemetry.BucketBounds(telemetry.Bucket(all.Quantile(q)))
	}
	return out
}

// Changed are the standings that changed since the last call, to be persisted
// with the decision.
func (w *Watch) Changed() ([]store.Standing, error) {
	var out []store.Standing
	for id := range w.dirty {
		b, err := json.Marshal(w.standing[id])
		if err != nil {
			return nil, fault.New(fault.Internal, "write standing", string(id), err)
		}
		out = append(out, store.Standing{Rollout: w.id, Member: id, Body: b})
	}
	slices.SortFunc(out, func(a, b store.Standing) int {
		if a.Member < b.Member {
			return -1
		}
		return 1
	})
	clear(w.dirty)
	return out, nil
}

// EverRan counts the members that ever ran the rollout's release.
func (w *Watch) EverRan() int {
	n := 0
	for _, st := range w.standing {
		if st.Ran {
			n++
		}
	}
	return n
}
