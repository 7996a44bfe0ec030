// Package chart draws what the dashboard shows of numbers: lines over time, bars of
// parts, and how near a gate is to failing. A chart is SVG with classes instead of
// colours, so that a style sheet themes it, and with a description for those who do
// not see it; names and labels may hold anything. It knows nothing of fleets.
package chart

import (
	"cmp"
	"fmt"
	"html/template"
	"math"
	"strings"
	"time"
)

// Point is one value of a series; a NaN leaves a gap.
type Point struct {
	At    time.Duration // since the chart's origin
	Value float64
}

// Series is one line of a plot. Class is "exposed" or "control".
type Series struct {
	Name, Class string
	Points      []Point
}

// Last is the newest value there is, or NaN.
func (s Series) Last() float64 {
	for i := len(s.Points) - 1; i >= 0; i-- {
		if !math.IsNaN(s.Points[i].Value) {
			return s.Points[i].Value
		}
	}
	return math.NaN()
}

// Mark is a vertical line at a moment worth a name, such as a stage's start.
type Mark struct {
	At   time.Duration
	Name string
}

// Plot is a line chart over time.
type Plot struct {
	Title  string
	Format func(float64) string
	Series []Series
	Marks  []Mark
	Span   time.Duration // length of the time axis
	Share  bool          // values are shares: the axis never goes past 1
	Near   bool          // the axis need not begin at 0: for values that hardly move
}

// The drawing's geometry, in SVG user units.
const (
	plotW, plotH                   = 560, 190
	padL, padR, padT, padB         = 46, 14, 18, 24
	innerW, innerH         float64 = plotW - padL - padR, plotH - padT - padB
)

// empty reports whether no series has a value.
func (p Plot) empty() bool {
	for _, s := range p.Series {
		if !math.IsNaN(s.Last()) {
			return false
		}
	}
	return true
}

// SVG draws the plot. Without any value it draws nothing: the page says why.
func (p Plot) SVG() template.HTML {
	if p.empty() || p.Span <= 0 {
		return ""
	}
	lo, hi, ticks := p.scale()
	x := func(d time.Duration) float64 { return padL + innerW*float64(d)/float64(p.Span) }
	y := func(v float64) float64 { return padT + innerH*(1-(v-lo)/(hi-lo)) }

	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="plot" viewBox="0 0 %d %d" role="img" aria-label="%s">`, plotW, plotH, esc(p.describe()))
	for _, t := range ticks {
		fmt.Fprintf(&b, `<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/>`, padL, plotW-padR, y(t), y(t))
		fmt.Fprintf(&b, `<text class="tick" text-anchor="end" x="%d" y="%.1f">%s</text>`, padL-6, y(t)+3.5, esc(p.Format(t)))
	}
	for d, step := time.Duration(0), timeStep(p.Span); d <= p.Span; d += step {
		fmt.Fprintf(&b, `<text class="tick" text-anchor="%s" x="%.1f" y="%d">%s</text>`, anchor(d, p.Span), x(d), plotH-7, esc(sinceStart(d)))
	}
	p.drawMarks(&b, x)
	for _, s := range p.Series {
		drawSeries(&b, s, p.Format, x, y)
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String())
}

// drawMarks draws the marks' lines, and their names where they do not collide.
func (p Plot) drawMarks(b *strings.Builder, x func(time.Duration) float64) {
	free := -1.0
	for _, m := range p.Marks {
		if m.At < 0 || m.At > p.Span {
			continue
		}
		at := x(m.At)
		fmt.Fprintf(b, `<line class="mark" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/>`, at, at, padT-10, plotH-padB)
		if width := 6.2 * float64(len(m.Name)); at > free && at+width < plotW {
			fmt.Fprintf(b, `<text class="mark" x="%.1f" y="%d">%s</text>`, at+4, padT-5, esc(m.Name))
			free = at + width + 8
		}
	}
}

// drawSeries draws one line, broken at gaps, with a dot at its newest value and
// at values that stand alone.
func drawSeries(b *strings.Builder, s Series, format func(float64) string, x func(time.Duration) float64, y func(float64) float64) {
	var path strings.Builder
	pen, run := "M", 0
	var lone []Point
	for i, pt := range s.Points {
		if math.IsNaN(pt.Value) {
			pen, run = "M", 0
			continue
		}
		fmt.Fprintf(&path, "%s%.1f %.1f", pen, x(pt.At), y(pt.Value))
		pen, run = "L", run+1
		if next := i + 1; run == 1 && (next == len(s.Points) || math.IsNaN(s.Points[next].Value)) {
			lone = append(lone, pt)
		}
	}
	fmt.Fprintf(b, `<path class="line %s" d="%s"/>`, s.Class, path.String())
	for _, pt := range lone {
		fmt.Fprintf(b, `<circle class="dot %s" cx="%.1f" cy="%.1f" r="2"/>`, s.Class, x(pt.At), y(pt.Value))
	}
	for i := len(s.Points) - 1; i >= 0; i-- {
		if pt := s.Points[i]; !math.IsNaN(pt.Value) {
			fmt.Fprintf(b, `<circle class="dot %s" cx="%.1f" cy="%.1f" r="3.5"><title>%s %s</title></circle>`,
				s.Class, x(pt.At), y(pt.Value), esc(s.Name), esc(format(pt.Value)))
			return
		}
	}
}

// scale chooses the value axis: its ends and its ticks, on round numbers.
func (p Plot) scale() (lo, hi float64, ticks []float64) {
	lo, hi = math.Inf(1), math.Inf(-1)
	for _, s := range p.Series {
		for _, pt := range s.Points {
			if !math.IsNaN(pt.Value) {
				lo, hi = min(lo, pt.Value), max(hi, pt.Value)
			}
		}
	}
	if !p.Near {
		lo = 0
	}
	if hi-lo < 1e-12 {
		hi = lo + max(1e-3, math.Abs(lo)*0.1)
	}
	step := roundStep((hi - lo) / 3)
	lo, hi = step*math.Floor(lo/step+1e-9), step*math.Ceil(hi/step-1e-9)
	if p.Share {
		lo, hi = max(0, lo), min(1, hi)
	}
	for i := 0; lo+float64(i)*step <= hi+step*1e-6; i++ {
		ticks = append(ticks, lo+float64(i)*step)
	}
	return lo, hi, ticks
}

// roundStep is the least of 1, 2, 5 times a power of ten that is not below v.
func roundStep(v float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if m*unit >= v*(1-1e-9) {
			return m * unit
		}
	}
	return 10 * unit
}

// timeSteps are the distances between time ticks that people read at a glance.
var timeSteps = [...]time.Duration{
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 20 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 20 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour, 48 * time.Hour, 7 * 24 * time.Hour,
}

// timeStep is the distance of the time axis' ticks: at most seven of them fit.
func timeStep(span time.Duration) time.Duration {
	for _, s := range timeSteps {
		if span/s <= 6 {
			return s
		}
	}
	return span / 6
}

// sinceStart is a tick's label: time since the rollout began.
func sinceStart(d time.Duration) string {
	if d == 0 {
		return "start"
	}
	return "+" + Duration(d)
}

// anchor keeps the first and last time label inside the drawing.
func anchor(d, span time.Duration) string {
	switch {
	case d == 0:
		return "start"
	case float64(d) > 0.97*float64(span):
		return "end"
	default:
		return "middle"
	}
}

// describe is the plot in a sentence, for those who do not see it.
func (p Plot) describe() string {
	parts := make([]string, 0, len(p.Series))
	for _, s := range p.Series {
		value := "nothing reported"
		if v := s.Last(); !math.IsNaN(v) {
			value = p.Format(v)
		}
		parts = append(parts, s.Name+" "+value)
	}
	return p.Title + " over " + Duration(p.Span) + ", newest: " + strings.Join(parts, ", ")
}

// Segment is a part of a bar.
type Segment struct {
	Class, Name string
	N           int
}

// ShareBar is a horizontal bar of segments in proportion to their numbers; what
// they leave of total stays empty.
func ShareBar(label string, total int, segs []Segment) template.HTML {
	return Bar(label, total, segs, func(n int) string { return fmt.Sprint(n) })
}

// Bar is [ShareBar] with numbers as text writes them.
func Bar(label string, total int, segs []Segment, text func(n int) string) template.HTML {
	const w, h = 1000.0, 22.0
	sum := 0
	for _, s := range segs {
		sum += s.N
	}
	total = max(total, sum, 1)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="share" viewBox="0 0 %g %g" preserveAspectRatio="none" role="img" aria-label="%s"><rect class="rest" width="%g" height="%g"/>`,
		w, h, esc(label), w, h)
	at := 0.0
	for _, s := range segs {
		if s.N == 0 {
			continue
		}
		width := w * float64(s.N) / float64(total)
		fmt.Fprintf(&b, `<rect class="fill %s" x="%.1f" width="%.1f" height="%g"><title>%s: %s</title></rect>`, esc(s.Class), at, width, h, esc(s.Name), esc(text(s.N)))
		at += width
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String())
}

// EvidenceBar shows how near a gate is to failing. Evidence multiplies, so the
// scale is logarithmic from 1 (nothing known) unless the threshold is a small
// count, as the breaker's.
func EvidenceBar(e, threshold float64, class string) template.HTML {
	if threshold <= 0 || math.IsNaN(e) {
		return ""
	}
	const w, h, line = 240.0, 14.0, 190.0 // the threshold stands at line
	part := e / threshold
	if threshold > 20 {
		part = math.Log(max(e, 1)) / math.Log(threshold)
	}
	width := min(max(part, 0)*line, w)
	return template.HTML(fmt.Sprintf(`<svg class="evidence" viewBox="0 0 %g %g" role="img" aria-label="evidence %s of %s needed to fail">`+
		`<rect class="rest" y="3" width="%g" height="8" rx="2"/><rect class="fill %s" y="3" width="%.1f" height="8" rx="2"/>`+
		`<line class="limit" x1="%g" x2="%g" y1="0" y2="%g"/></svg>`,
		w, h, Number(e), Number(threshold), w, esc(class), width, line, line, h))
}

func esc(s string) string { return template.HTMLEscapeString(s) }

// Number is a value for people: three figures, no exponent between 0.001 and a million.
func Number(v float64) string {
	a := math.Abs(v)
	switch {
	case math.IsNaN(v):
		return "–"
	case math.IsInf(v, 0) || a >= 1e6 || (a > 0 && a < 1e-3):
		return fmt.Sprintf("%.2g", v)
	case a >= 100 || v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case a >= 1:
		return fmt.Sprintf("%.1f", v)
	default:
		return strings.TrimRight(fmt.Sprintf("%.3f", v), "0")
	}
}

// Duration is a duration in its one or two largest units: "90s" is "1m 30s".
func Duration(d time.Duration) string {
	units := []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"}}
	for i, u := range units {
		if d < u.size {
			continue
		}
		text := fmt.Sprintf("%d%s", d/u.size, u.name)
		if i+1 < len(units)-1 {
			if rest := d % u.size / units[i+1].size; rest > 0 {
				text += fmt.Sprintf(" %d%s", rest, units[i+1].name)
			}
		}
		return text
	}
	return cmp.Or(fmt.Sprintf("%dms", d/time.Millisecond), "0")
}
