package web

import (
	"math"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/web/chart"
	"github.com/modelfleet/modelfleet/pkg/api"
)

// chartPoints is how many intervals a rollout's history is drawn in: enough to
// see a change, few enough that each holds requests.
const chartPoints = 48

// charts are the three comparisons over time. Samples are cumulative, so each
// point is the rate between two of them and a lost sample loses nothing.
func charts(x api.RolloutInfo) []figure {
	h := thin(x.History, chartPoints)
	span := time.Duration(0)
	if len(h) > 0 {
		span = h[len(h)-1].At.Sub(x.Started)
	}
	errors := func(a, b api.ArmInfo) float64 { return growth(a.Errors, b.Errors, a.Requests, b.Requests) }
	right := func(a, b api.ArmInfo) float64 { return growth(a.Right, b.Right, a.Right+a.Wrong, b.Right+b.Wrong) }
	p95 := func(_, b api.ArmInfo) float64 {
		if b.P95 == 0 {
			return math.NaN()
		}
		return b.P95.D().Seconds()
	}
	draw := func(p chart.Plot, f func(a, b api.ArmInfo) float64, empty string, legend func(float64) string) figure {
		p.Span, p.Marks, p.Series = span, stageMarks(x), lines(h, x.Started, f)
		c := figure{Title: p.Title, Plot: p.SVG(), Empty: empty}
		for _, s := range slices.Backward(p.Series) { // exposed first, as everywhere
			c.Keys = append(c.Keys, key{s.Class, s.Name, legend(s.Last())})
		}
		return c
	}
	return []figure{
		draw(chart.Plot{Title: "Error rate", Format: axisPercent, Share: true}, errors,
			"No requests have been reported since the rollout began.", percent),
		draw(chart.Plot{Title: "Right, where labelled", Format: axisPercent, Share: true, Near: true}, right,
			"No application has told yet whether a prediction was right.", percent),
		draw(chart.Plot{Title: "Latency p95", Format: millis}, p95,
			"No latency has been reported since the rollout began.", millis),
	}
}

// thin keeps at most n+1 samples, evenly, with the first and the last.
func thin(h []api.Sample, n int) []api.Sample {
	if len(h) <= n+1 {
		return h
	}
	kept := make([]api.Sample, 0, n+1)
	for i := range n + 1 {
		kept = append(kept, h[i*(len(h)-1)/n])
	}
	return kept
}

// growth is the share of new events among new trials; NaN when there were none
// or when a counter went back, as after a lost database.
func growth(events0, events1, trials0, trials1 uint64) float64 {
	if trials1 <= trials0 || events1 < events0 {
		return math.NaN()
	}
	return float64(events1-events0) / float64(trials1-trials0)
}

// lines turns samples into one series an arm.
func lines(h []api.Sample, start time.Time, f func(a, b api.ArmInfo) float64) []chart.Series {
	exposed := chart.Series{Name: "exposed", Class: "exposed"}
	control := chart.Series{Name: "control", Class: "control"}
	for i := 1; i < len(h); i++ {
		at := h[i].At.Sub(start)
		exposed.Points = append(exposed.Points, chart.Point{At: at, Value: f(h[i-1].Exposed, h[i].Exposed)})
		control.Points = append(control.Points, chart.Point{At: at, Value: f(h[i-1].Control, h[i].Control)})
	}
	return []chart.Series{control, exposed} // the exposed line is drawn on top
}

// stageMarks are the moments at which stages began to expose: the first sample
// with more exposed members than the stage before aimed at.
func stageMarks(x api.RolloutInfo) []chart.Mark {
	var marks []chart.Mark
	before := 0
	for _, st := range x.Stages {
		i := slices.IndexFunc(x.History, func(s api.Sample) bool { return s.Exposed.Members > before })
		if i < 0 || st.Exposed == 0 {
			break
		}
		marks = append(marks, chart.Mark{At: x.History[i].At.Sub(x.Started), Name: st.Name})
		before = st.Target
	}
	return marks
}
