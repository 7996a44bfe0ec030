package telemetry

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// RecorderOptions says how observations become rows and windows.
type RecorderOptions struct {
	Key    KeyID         // of the key the rows will be signed with
	Epoch  uint64        // boot epoch, persisted by the caller before the first row
	Window time.Duration // length of a window of errored-window counting; default 10 s
	Sketch time.Duration // length of a sketch window, whole seconds; default 60 s
	Agent  string        // version, at most MaxAgent bytes
}

// Observation is what an application saw of one request.
type Observation struct {
	Release fleet.Digest // OMS root of the release that served it; zero: the running one
	Latency time.Duration
	Err     bool
	Score   *float64 // in [0, 1]; other values are left out of the sketch
	Right   *bool    // whether the answer was right, where the truth is known at once
}

// ModelState is how the member stands with a model, as the agent knows it.
type ModelState struct {
	Running fleet.Digest // OMS root in service; zero: none
	Target  fleet.Digest // OMS root that Phase is about; zero: Running
	Rollout fleet.RolloutID
	Arm     fleet.Arm
	Phase   fleet.Phase
	Failure fleet.FailureClass
	Code    FailureCode
	Failing time.Time // since when it fails so; zero without a failure
	Fetched Fetched   // of Target, by the newest fetch
	Total   uint64
	Edges   [NumEdges]time.Duration // latency edges of the exceedance counters; zero: not counted
}

// MemberState is how the member itself stands.
type MemberState struct {
	Directive uint64
	Freshness Freshness
	Refusal   uint8  // as in [Row]
	RSS       uint64 // KiB
	Delivery  Delivery
	Log       LogHead
}

// Recorder turns observations into rows and windows. It is told the time, does
// no I/O and is safe for concurrent use.
type Recorder struct {
	opts   RecorderOptions
	urgent chan struct{}

	mu     sync.Mutex // guards the rest
	seq    uint64
	acked  uint64
	member MemberState
	before Delivery // of earlier epochs
	models map[fleet.ModelName]*modelRecord
	closed []Window
}

// NewRecorder returns a recorder that has seen nothing.
func NewRecorder(o RecorderOptions) (*Recorder, error) {
	if o.Epoch == 0 {
		return nil, fault.Newf(fault.Invalid, "record telemetry", "epoch", "it is zero; persist one that grows with each start")
	}
	if len(o.Agent) > MaxAgent {
		o.Agent = o.Agent[:MaxAgent]
	}
	o.Window = cmp.Or(o.Window, 10*time.Second)
	o.Sketch = max(cmp.Or(o.Sketch, time.Minute).Truncate(time.Second), time.Second)
	return &Recorder{opts: o, urgent: make(chan struct{}, 1), models: map[fleet.ModelName]*modelRecord{}}, nil
}

// Begin begins another epoch, as a start of the member does: what was counted so
// far stays in the rows of the earlier one. The caller persisted it.
func (r *Recorder) Begin(epoch uint64, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if epoch <= r.opts.Epoch {
		return
	}
	r.opts.Epoch, r.seq, r.acked, r.before = epoch, 0, 0, r.member.Delivery
	for name, m := range r.models {
		fresh := &modelRecord{state: m.state}
		if c := m.current; c != nil {
			fresh.begin(r.opts.Window, c.SeriesKey, m.state.Edges, now)
		}
		r.models[name] = fresh
	}
	r.flush()
}

// Urgent receives when something happened that should be reported at once: a
// phase, a release or an arm changed, something fatal, or a self-alarm.
func (r *Recorder) Urgent() <-chan struct{} { return r.urgent }

func (r *Recorder) flush() {
	select {
	case r.urgent <- struct{}{}:
	default: // one is pending already
	}
}

// SetMember notes how the member stands.
func (r *Recorder) SetMember(s MemberState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.member
	if s.Directive != old.Directive || s.Freshness != old.Freshness || s.Delivery.Liars != old.Delivery.Liars || s.Delivery.Damaged != old.Delivery.Damaged {
		r.flush()
	}
	r.member = s
}

// SetModel notes how the member stands with a model. A new running release, or
// a rollout that begins or ceases to concern the member, begins a new series. It
// is Exhausted when the model is one too many for a row.
func (r *Recorder) SetModel(name fleet.ModelName, now time.Time, s ModelState) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.models[name]
	if m == nil {
		if len(r.models) == MaxModels {
			return fault.Newf(fault.Exhausted, "report model", string(name), "a row holds %d models", MaxModels)
		}
		m = &modelRecord{}
		r.models[name] = m
	}
	if s.Target.IsZero() {
		s.Target = s.Running
	}
	old := m.state
	m.state = s
	if !s.Running.IsZero() {
		m.begin(r.opts.Window, SeriesKey{ReleasePrefix(s.Running), RolloutPrefix(s.Rollout), s.Arm}, s.Edges, now)
	}
	old.Fetched, old.Total, old.Edges, old.Failing = s.Fetched, s.Total, s.Edges, s.Failing
	if old != s {
		r.flush()
	}
	return nil
}

// Forget drops a model that the member no longer has to do with, and what it
// counted of it: call it only after a row with the final values was acked.
func (r *Recorder) Forget(name fleet.ModelName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.models, name)
}

// Observe counts one request. Observations of a model that [Recorder.SetModel]
// never told of, or of a release that never ran, are NotFound and not counted.
func (r *Recorder) Observe(name fleet.ModelName, now time.Time, o Observation) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, err := r.series(name, o.Release)
	if err != nil {
		return err
	}
	r.closeSketches(s, now)
	s.observe(now, r.opts.Window, o)
	if s.test.newAlarm() {
		r.flush()
	}
	return nil
}

// Label counts that the answer to an earlier request turned out right or wrong.
func (r *Recorder) Label(name fleet.ModelName, release fleet.Digest, right bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, err := r.series(name, release)
	if err != nil {
		return err
	}
	s.label(right)
	return nil
}

// Fatal counts that a release failed to load or to pass its self-test, or
// crashed. A release that never ran gets a series of its own for it.
func (r *Recorder) Fatal(name fleet.ModelName, now time.Time, release fleet.Digest) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, err := r.series(name, release)
	if err != nil {
		m := r.models[name]
		if m == nil || release.IsZero() {
			return err
		}
		s = m.insert(r.opts.Window, SeriesKey{ReleasePrefix(release), RolloutPrefix(m.state.Rollout), m.state.Arm}, now)
	}
	s.Fatal++
	r.flush()
	return nil
}

func (r *Recorder) series(name fleet.ModelName, release fleet.Digest) (*seriesRecord, error) {
	m := r.models[name]
	if m == nil {
		return nil, fault.Newf(fault.NotFound, "record observation", string(name), "the member runs no such model")
	}
	s := m.current
	if !release.IsZero() {
		s = m.of(ReleasePrefix(release))
	}
	if s == nil {
		return nil, fault.Newf(fault.NotFound, "record observation", string(name), "that release does not run here")
	}
	return s, nil
}

// Row makes the next row. Sign it, send it, and tell [Recorder.Acked] when the
// coordinator has it.
func (r *Recorder) Row(now time.Time) Row {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq++
	row := Row{
		Key: r.opts.Key, Epoch: r.opts.Epoch, Seq: r.seq, Time: max(now.Unix(), 0),
		Directive: r.member.Directive, Freshness: r.member.Freshness, Refusal: r.member.Refusal & 63, RSS: r.member.RSS, Agent: r.opts.Agent, Delivery: r.member.Delivery.Since(r.before), Log: r.member.Log,
	}
	for name, m := range r.models {
		for _, s := range m.series {
			s.closeWindow(now, r.opts.Window)
		}
		m.trim(r.acked)
		row.Models = append(row.Models, m.row(ModelPrefix(name), r.seq))
	}
	slices.SortFunc(row.Models, func(a, b Model) int { return bytes.Compare(a.Model[:], b.Model[:]) })
	for len(row.appendTo(nil))+SignatureSize > MaxRow && r.shed(&row) {
	}
	return row
}

// shed takes the oldest of the earlier series out of a row that is too long.
func (r *Recorder) shed(row *Row) bool {
	best := -1
	for i, m := range row.Models {
		if len(m.Series) > 1 && (best < 0 || m.Series[0].Since < row.Models[best].Series[0].Since) {
			best = i
		}
	}
	if best < 0 {
		return false
	}
	row.Models[best].Series = row.Models[best].Series[1:]
	return true
}

// Acked notes that the coordinator has the row of this sequence, so that series
// which no longer count may leave later rows.
func (r *Recorder) Acked(seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.acked = max(r.acked, min(seq, r.seq))
}

// Windows returns the sketch windows that closed before now and were not
// returned before. Each belongs to a slot of its own and never changes.
func (r *Recorder) Windows(now time.Time) []Window {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(r.models)) {
		for _, s := range r.models[name].series {
			r.closeSketches(s, now)
		}
	}
	out := r.closed
	r.closed = nil
	return out
}

// maxClosed bounds the windows kept for a caller that never collects them.
const maxClosed = 256

func (r *Recorder) closeSketches(s *seriesRecord, now time.Time) {
	width := uint64(r.opts.Sketch / time.Second)
	index := uint64(max(now.Unix(), 0)) / width
	if index <= s.sketchIndex && s.sketchOpen {
		return // a clock that went back adds to the open window: a closed one never changes
	}
	if s.sketchOpen {
		for i, sk := range [...]Sketch{s.latency, s.score} {
			if sk.Count() > 0 {
				key := WindowKey{r.opts.Key, r.opts.Epoch, s.sketchIndex, width, s.SeriesKey, Latency + Metric(i)}
				r.closed = append(r.closed, Window{WindowKey: key, Sketch: &sk})
			}
		}
		r.closed = r.closed[max(0, len(r.closed)-maxClosed):]
		s.latency, s.score = Sketch{}, Sketch{}
	}
	s.sketchIndex, s.sketchOpen = index, true
}
