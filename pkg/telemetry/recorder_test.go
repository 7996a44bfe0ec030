package telemetry_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

var (
	start  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	v1, v2 = fleet.DigestOf([]byte("v1")), fleet.DigestOf([]byte("v2"))
)

func newRecorder(t *testing.T) *telemetry.Recorder {
	t.Helper()
	r, err := telemetry.NewRecorder(telemetry.RecorderOptions{Key: keyID(1), Epoch: 3, Window: time.Second, Sketch: 10 * time.Second, Agent: "0.1.0"})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func urgent(r *telemetry.Recorder) bool {
	select {
	case <-r.Urgent():
		return true
	default:
		return false
	}
}

// A switch begins a series at zero, and the final values of the release before
// stay in the rows.
func TestSwitchKeepsTheOldReleasesFinalValues(t *testing.T) {
	t.Parallel()
	r := newRecorder(t)
	must(t, r.SetModel("m", start, telemetry.ModelState{Running: v1, Phase: fleet.Healthy}))
	right, score := true, 0.25
	for i := range 10 {
		o := telemetry.Observation{Latency: time.Duration(i) * time.Millisecond, Err: i == 4, Right: &right, Score: &score}
		must(t, r.Observe("m", start.Add(time.Duration(i)*500*time.Millisecond), o))
	}
	at := start.Add(20 * time.Second)
	state := telemetry.ModelState{
		Running: v2, Rollout: "r1", Arm: fleet.Exposed, Phase: fleet.Soaking,
		Edges: [3]time.Duration{time.Millisecond, 2 * time.Millisecond, 0},
	}
	must(t, r.SetModel("m", at, state))
	must(t, r.Observe("m", at, telemetry.Observation{Latency: 1500 * time.Microsecond}))
	must(t, r.Observe("m", at, telemetry.Observation{Release: v1, Err: true})) // a request that v1 still served

	row := r.Row(at.Add(time.Second))
	want := []telemetry.Series{
		{SeriesKey: telemetry.SeriesKey{Release: telemetry.ReleasePrefix(v1)}, Since: start.Unix(), Counters: telemetry.Counters{
			Requests: 11, Errors: 2, Windows: 6, ErrWindows: 2, Right: 10,
		}},
		{SeriesKey: telemetry.SeriesKey{Release: telemetry.ReleasePrefix(v2), Rollout: telemetry.RolloutPrefix("r1"), Arm: fleet.Exposed}, Since: at.Unix(), Counters: telemetry.Counters{
			Requests: 1, Windows: 1, Exceed: [3]uint64{1, 0, 0},
		}},
	}
	if d := cmp.Diff(want, row.Models[0].Series); d != "" {
		t.Error(d)
	}
	if row.Seq != 1 || r.Row(at).Seq != 2 {
		t.Error("sequences do not grow by one")
	}
	if _, err := row.Sign(fleetName, keyOf(t, 1)); err != nil {
		t.Error(err)
	}
}

// However often a member switches, its rows fit a packet, and what the
// coordinator has not acked is the last to leave them.
func TestRowsFitWhateverHappens(t *testing.T) {
	t.Parallel()
	r := newRecorder(t)
	now := start
	for model := range telemetry.MaxModels {
		name := fleet.ModelName(string(rune('a' + model)))
		for i := range 12 {
			now = now.Add(time.Minute)
			must(t, r.SetModel(name, now, telemetry.ModelState{Running: fleet.DigestOf([]byte{byte(i)}), Rollout: fleet.RolloutID(name), Fetched: telemetry.Fetched{Copy: 1 << 34, Delta: 1 << 34, Peer: 1 << 34, Bucket: 1 << 34}, Total: 1 << 36}))
			for range 200 {
				must(t, r.Observe(name, now, telemetry.Observation{Err: true}))
			}
			row := r.Row(now)
			msg, err := row.Sign(fleetName, keyOf(t, 1))
			if err != nil || len(msg) > telemetry.MaxRow {
				t.Fatalf("row of %d bytes: %v", len(msg), err)
			}
			last := row.Models[len(row.Models)-1]
			for _, m := range row.Models {
				if m.Model == telemetry.ModelPrefix(name) {
					last = m
				}
			}
			if got := last.Series[len(last.Series)-1]; got.Release != last.Running || got.Requests != 200 {
				t.Fatalf("the current series is missing or wrong: %+v", got)
			}
			r.Acked(row.Seq)
		}
	}
	if err := r.SetModel("one-too-many", now, telemetry.ModelState{}); !fault.Is(err, fault.Exhausted) {
		t.Errorf("a ninth model: %v", err)
	}
}

// A report is what closed, once, and a row.
func TestAReportIsTheWindowsThatClosedAndARow(t *testing.T) {
	t.Parallel()
	r := newRecorder(t)
	must(t, r.SetModel("m", start, telemetry.ModelState{Running: v1}))
	must(t, r.Observe("m", start, telemetry.Observation{Latency: time.Millisecond}))
	for want := range uint64(2) {
		msgs, row, err := r.Report(start.Add(11*time.Second), fleetName, keyOf(t, 1))
		if err != nil || uint64(len(msgs)) != 2-want || row.Seq != want+1 {
			t.Fatalf("report %d: %d messages, row %d, %v", want, len(msgs), row.Seq, err)
		}
		last, err := telemetry.ParseMessage(msgs[len(msgs)-1])
		if err != nil || last.Row == nil || last.Row.Seq != row.Seq {
			t.Errorf("the last message is %+v, %v", last, err)
		}
	}
}

// Sketch windows close once and never change.
func TestSketchWindowsCloseOnce(t *testing.T) {
	t.Parallel()
	r := newRecorder(t)
	must(t, r.SetModel("m", start, telemetry.ModelState{Running: v1}))
	score := 0.5
	must(t, r.Observe("m", start.Add(time.Second), telemetry.Observation{Latency: time.Millisecond, Score: &score}))
	if ws := r.Windows(start.Add(9 * time.Second)); len(ws) != 0 {
		t.Fatalf("%d windows before the first closed", len(ws))
	}
	must(t, r.Observe("m", start.Add(11*time.Second), telemetry.Observation{Latency: time.Second}))
	must(t, r.Observe("m", start.Add(8*time.Second), telemetry.Observation{Latency: time.Second})) // the clock went back
	ws := r.Windows(start.Add(12 * time.Second))
	if len(ws) != 2 || ws[0].Metric != telemetry.Latency || ws[1].Metric != telemetry.Score {
		t.Fatalf("got %+v", ws)
	}
	if ws[0].Index != uint64(start.Unix())/10 || ws[0].Sketch.Count() != 1 || ws[1].Sketch.Quantile(.5)/10_000 != 49 && ws[1].Sketch.Quantile(.5)/10_000 != 50 {
		t.Errorf("got %+v, score %d", ws[0], ws[1].Sketch.Quantile(.5))
	}
	if again := r.Windows(start.Add(13 * time.Second)); len(again) != 0 {
		t.Errorf("%d windows came twice", len(again))
	}
	if ws := r.Windows(start.Add(20 * time.Second)); len(ws) != 1 || ws[0].Sketch.Count() != 2 {
		t.Errorf("the second window: %+v", ws)
	}
}

// A member alarms when it gets much worse than its own past, soon, and tells at
// once; it does not when it stays as it was.
func TestSelfAlarm(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		every int // of v2's windows, one in so many is errored
		want  bool
	}{{"as before", 20, false}, {"every other window", 2, true}} {
		r := newRecorder(t)
		now := start
		window := func(errored bool) {
			must(t, r.Observe("m", now, telemetry.Observation{Err: errored}))
			now = now.Add(time.Second)
		}
		must(t, r.SetModel("m", now, telemetry.ModelState{Running: v1}))
		for i := range 200 {
			window(i%20 == 0)
		}
		must(t, r.SetModel("m", now, telemetry.ModelState{Running: v2, Rollout: "r1", Arm: fleet.Exposed}))
		urgent(r)
		told := false
		for i := range 60 {
			window(i%tc.every == 0)
			told = told || urgent(r)
		}
		row := r.Row(now)
		s := row.Models[0].Series
		if got := s[len(s)-1].Alarm; got != tc.want || told != tc.want {
			t.Errorf("%s: alarm %v, told %v", tc.name, got, told)
		}
		if s[0].Alarm {
			t.Errorf("%s: the pre-period alarmed", tc.name)
		}
	}
}

// What should be known at once says so; what should not, does not.
func TestUrgent(t *testing.T) {
	t.Parallel()
	r := newRecorder(t)
	state := telemetry.ModelState{Running: v1, Phase: fleet.Downloading, Target: v2, Total: 100}
	must(t, r.SetModel("m", start, state))
	if !urgent(r) {
		t.Error("a new model is not urgent")
	}
	state.Fetched.Bucket = 50
	must(t, r.SetModel("m", start, state))
	must(t, r.Observe("m", start, telemetry.Observation{Err: true}))
	if urgent(r) {
		t.Error("progress or one error is urgent")
	}
	must(t, r.Fatal("m", start, v2))
	if !urgent(r) {
		t.Error("a fatal event is not urgent")
	}
	row := r.Row(start)
	if s := row.Models[0].Series; len(s) != 2 || s[1].Release != telemetry.ReleasePrefix(v2) || s[1].Fatal != 1 {
		t.Errorf("the release that failed before it ran has no series: %+v", s)
	}
	must(t, r.Observe("m", start, telemetry.Observation{}))
	if s := r.Row(start).Models[0].Series; s[0].Requests != 2 {
		t.Errorf("an observation went to the release that failed: %+v", s)
	}
	if err := r.Observe("other", start, telemetry.Observation{}); !fault.Is(err, fault.NotFound) {
		t.Errorf("an unknown model: %v", err)
	}
}
