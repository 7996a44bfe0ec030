package telemetry

import (
	"math"
	"slices"
	"time"
)

// modelRecord is what the recorder keeps of one model.
type modelRecord struct {
	state   ModelState
	series  []*seriesRecord // oldest first
	current *seriesRecord   // the one being counted; nil while nothing runs
}

// seriesRecord counts one series.
type seriesRecord struct {
	Series
	edges   [NumEdges]uint64 // microseconds
	lastSeq uint64           // of the newest row that held it
	touched bool             // counted something since that row

	window  int64 // index of the open window
	open    bool  // the open window saw a request
	openErr bool  // ... and an error
	test    selfTest

	sketchIndex uint64 // of the open sketches
	sketchOpen  bool
	latency     Sketch
	score       Sketch
}

// begin makes the series of key the one that is counted.
func (m *modelRecord) begin(window time.Duration, key SeriesKey, edges [NumEdges]time.Duration, now time.Time) {
	if m.current == nil || m.current.SeriesKey != key {
		m.current = m.insert(window, key, now)
	}
	for i, e := range edges {
		m.current.edges[i] = uint64(max(e, 0) / time.Microsecond)
	}
}

// insert returns the series of key, which it makes when there is none, and puts
// it last.
func (m *modelRecord) insert(window time.Duration, key SeriesKey, now time.Time) *seriesRecord {
	if m.current != nil {
		m.current.endWindow()
	}
	i := slices.IndexFunc(m.series, func(s *seriesRecord) bool { return s.SeriesKey == key })
	if i >= 0 {
		s := m.series[i]
		m.series = append(slices.Delete(m.series, i, i+1), s)
		return s
	}
	s := &seriesRecord{Series: Series{SeriesKey: key, Since: max(now.Unix(), 0)}, touched: true}
	if m.current != nil {
		s.test = newSelfTest(m.past(m.current.Release))
	}
	m.series = append(m.series, s)
	return s
}

// past sums what one release did so far: the member's own pre-period.
func (m *modelRecord) past(release Prefix) (windows, errored uint64) {
	for _, s := range m.series {
		if s.Release == release {
			windows += s.Windows
			errored += s.ErrWindows
		}
	}
	return windows, errored
}

// of is the newest series of a release, or nil.
func (m *modelRecord) of(release Prefix) *seriesRecord {
	for _, s := range slices.Backward(m.series) {
		if s.Release == release {
			return s
		}
	}
	return nil
}

// trim lets series go until a row has room for the rest: first the oldest whose
// final values the coordinator acked, then, when it has to be, the oldest.
func (m *modelRecord) trim(acked uint64) {
	for len(m.series) > MaxSeries {
		i := slices.IndexFunc(m.series, func(s *seriesRecord) bool {
			return s != m.current && !s.touched && s.lastSeq <= acked
		})
		if i < 0 {
			i = slices.IndexFunc(m.series, func(s *seriesRecord) bool { return s != m.current })
		}
		m.series = slices.Delete(m.series, i, i+1)
	}
}

// row is the model's part of the row seq.
func (m *modelRecord) row(name Prefix, seq uint64) Model {
	out := Model{
		Model: name, Running: prefixOf(m.state.Running), Target: prefixOf(m.state.Target),
		Rollout: RolloutPrefix(m.state.Rollout), Arm: m.state.Arm, Phase: m.state.Phase,
		Failure: m.state.Failure, Code: m.state.Code, Failing: unix(m.state.Failing), Fetched: m.state.Fetched, Total: m.state.Total,
	}
	for _, s := range m.series {
		if s.touched {
			s.lastSeq, s.touched = seq, false
		}
		out.Series = append(out.Series, s.Series)
	}
	return out
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(t.Unix(), 0)
}

func prefixOf(d [32]byte) Prefix { return Prefix(d[:8]) }

func (s *seriesRecord) observe(now time.Time, window time.Duration, o Observation) {
	s.closeWindow(now, window)
	s.touched = true
	s.Requests++
	s.open = true
	if o.Err {
		s.Errors++
		s.openErr = true
	}
	if o.Right != nil {
		s.label(*o.Right)
	}
	us := uint64(max(o.Latency, 0) / time.Microsecond)
	s.latency.Add(us)
	for i, edge := range s.edges {
		if edge > 0 && us > edge {
			s.Exceed[i]++
		}
	}
	if o.Score != nil && *o.Score >= 0 && *o.Score <= 1 {
		s.score.Add(uint64(math.Round(*o.Score * 1e6)))
	}
}

func (s *seriesRecord) label(right bool) {
	s.touched = true
	if right {
		s.Right++
	} else {
		s.Wrong++
	}
}

// closeWindow ends the open window when now lies in another one.
func (s *seriesRecord) closeWindow(now time.Time, length time.Duration) {
	index := now.UnixNano() / int64(length)
	if index != s.window {
		s.endWindow()
		s.window = index
	}
}

// endWindow counts the open window, if a request fell into it.
func (s *seriesRecord) endWindow() {
	if !s.open {
		return
	}
	s.Windows++
	s.touched = true
	if s.openErr {
		s.ErrWindows++
	}
	s.Alarm = s.test.window(s.openErr)
	s.open, s.openErr = false, false
}
