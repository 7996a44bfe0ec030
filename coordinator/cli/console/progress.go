package console

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// Progress tells how far something that counts bytes is: a bar that redraws
// itself on a terminal, a line every tenth elsewhere. It may be used by several
// goroutines.
type Progress struct {
	out   Streams
	what  string
	total int64
	now   func() time.Time

	mu      sync.Mutex
	begun   time.Time
	drawn   time.Time
	tenth   int64
	done    int64
	settled bool
}

const (
	barWidth = 28
	redraw   = 100 * time.Millisecond
	relog    = 2 * time.Second
)

// Progress begins to tell of total bytes of something.
func (s Streams) Progress(what string, total int64) *Progress {
	p := &Progress{out: s, what: what, total: total, now: time.Now}
	p.begun = p.now()
	if !s.Terminal {
		p.drawn = p.begun // what is quick is told once, at its end
	}
	return p
}

// Set says how many bytes are done in all.
func (p *Progress) Set(done int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.settled {
		return
	}
	p.done = done
	if p.out.Terminal {
		if now := p.now(); now.Sub(p.drawn) >= redraw {
			p.drawn = now
			fmt.Fprintf(p.out.Err, "\r%s", p.line())
		}
		return
	}
	if p.total > 0 && p.done < p.total {
		if tenth := 10 * p.done / p.total; tenth > p.tenth && p.now().Sub(p.drawn) >= relog {
			p.tenth, p.drawn = tenth, p.now()
			p.out.Say("%s: %d%% of %s", p.what, 10*tenth, Bytes(p.total))
		}
	}
}

// line is the bar as drawn: "upload  [####....]  42%  1.1 of 2.6 GiB  80.1 MiB/s  19s left".
func (p *Progress) line() string {
	share := 1.0
	if p.total > 0 {
		share = min(1, float64(p.done)/float64(p.total))
	}
	full := int(share * barWidth)
	rate, left := "", ""
	if d := p.now().Sub(p.begun); d > 0 && p.done > 0 {
		rate = Bytes(int64(float64(p.done)/d.Seconds())) + "/s"
		if share < 1 && d >= time.Second { // the first moments tell nothing
			left = Span(time.Duration(float64(d)*(1-share)/share)) + " left"
		}
	}
	return fmt.Sprintf("%-8s [%s%s] %3.0f%%  %s of %s  %-12s %-10s", p.what, strings.Repeat("#", full), strings.Repeat(".", barWidth-full),
		100*share, Bytes(p.done), Bytes(p.total), rate, left)
}

// Done ends the bar's line, with what came of it.
func (p *Progress) Done(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.settled {
		return
	}
	p.settled = true
	text := fmt.Sprintf(format, args...)
	if p.out.Terminal {
		fmt.Fprintf(p.out.Err, "\r\x1b[K")
	}
	p.out.Say("%s: %s", p.what, text)
}

// Stop ends the bar without a word, for when an error is about to tell.
func (p *Progress) Stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.settled && p.out.Terminal {
		fmt.Fprintf(p.out.Err, "\r\x1b[K")
	}
	p.settled = true
}

// Bytes is a number of bytes in binary units.
func Bytes(n int64) string {
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

// Count is "1 entry", "2 entries", "3 members".
func Count(n int, noun string) string {
	if n != 1 {
		if stem, ok := strings.CutSuffix(noun, "ry"); ok {
			noun = stem + "rie"
		}
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// Ago is how long ago t was, in its largest unit; "never" for the zero time.
func Ago(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return Span(now.Sub(t))
}

// Span is a duration in its largest unit, for columns.
func Span(d time.Duration) string {
	switch {
	case d < 0:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}
