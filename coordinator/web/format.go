package web

import (
	"fmt"
	"html/template"
	"math"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/web/chart"
)

// percent is a share as a percentage with the figures that matter.
func percent(v float64) string {
	p := 100 * v
	switch {
	case math.IsNaN(p):
		return "–"
	case p == 0 || p == 100:
		return fmt.Sprintf("%.0f %%", p)
	case math.Abs(p) < 0.1:
		return fmt.Sprintf("%.2f %%", p)
	default:
		return fmt.Sprintf("%.1f %%", p)
	}
}

// axisPercent is a share on an axis, where the ticks are round already.
func axisPercent(v float64) string { return chart.Number(round(100*v, 6)) + " %" }

func round(v float64, digits int) float64 {
	f := math.Pow(10, float64(digits))
	return math.Round(v*f) / f
}

// millis is a latency in seconds as milliseconds or microseconds.
func millis(seconds float64) string {
	switch {
	case math.IsNaN(seconds):
		return "–"
	case seconds == 0:
		return "0"
	case seconds < 1e-3:
		return chart.Number(round(seconds*1e6, 3)) + " µs"
	case seconds < 1:
		return chart.Number(round(seconds*1e3, 3)) + " ms"
	default:
		return chart.Number(round(seconds, 3)) + " s"
	}
}

// ratio is a/b, or NaN when b is zero: nothing was seen, which is not zero.
func ratio(a, b uint64) float64 {
	if b == 0 {
		return math.NaN()
	}
	return float64(a) / float64(b)
}

// size is a number of bytes in binary units.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

// count groups the digits of a whole number by thin spaces.
func count(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// when is a moment as an element: its age to read, the moment itself to point at.
func when(t, now time.Time) template.HTML {
	if t.IsZero() {
		return `<span class="muted">never</span>`
	}
	text := ""
	switch d := now.Sub(t); {
	case d < -time.Second:
		text = "in " + chart.Duration(-d)
	case d < time.Second:
		text = "just now"
	default:
		text = chart.Duration(d) + " ago"
	}
	stamp := t.UTC().Format(time.RFC3339)
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s">%s</time>`, stamp, stamp, text))
}

// plural is "1 member" or "3 members".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%s %ss", count(uint64(max(n, 0))), noun)
}

// tone is the class that colours a state, outcome or phase. Colour never stands
// alone: the word is always beside it.
func tone(word string) string {
	switch strings.ToLower(strings.ReplaceAll(word, " ", "")) {
	case "succeeded", "passed", "pass", "healthy", "fresh", "better":
		return "good"
	case "running", "exposing", "soaking", "deciding", "offered", "downloading", "verified", "staged", "activating":
		return "busy"
	case "rollingback", "rolledback", "rolled-back", "failed", "fail", "quarantined", "aborted", "untrusted", "revoked", "worse":
		return "bad"
	case "paused", "awaitingapproval", "inconclusive", "stale", "withdrawn", "superseded":
		return "warn"
	default:
		return "calm"
	}
}
