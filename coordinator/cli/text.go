package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// countText is a count, or nothing for none: a line that says 0 says nothing.
func countText(n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// shareText is a share in percent with its counts; nothing without trials.
func shareText(n, of uint64) string {
	if of == 0 {
		return ""
	}
	return fmt.Sprintf("%s (%d of %d)", percentText(float64(n)/float64(of)), n, of)
}

func percentText(share float64) string {
	p := 100 * share
	if p > 0 && p < 0.1 {
		return fmt.Sprintf("%.2f%%", p)
	}
	return fmt.Sprintf("%.1f%%", p)
}

// latencyText is "p50 2ms, p95 5ms", or nothing when nothing was measured.
func latencyText(p50, p95 fleet.Duration) string {
	if p95 == 0 {
		return ""
	}
	return fmt.Sprintf("p50 %s, p95 %s", roundText(p50), roundText(p95))
}

func roundText(d fleet.Duration) string {
	switch v := d.D(); {
	case v < time.Millisecond:
		return v.Round(time.Microsecond).String()
	case v < time.Second:
		return v.Round(100 * time.Microsecond).String()
	default:
		return v.Round(10 * time.Millisecond).String()
	}
}

// stateText is a state's name for people: "RollingBack" is "rolling back".
func stateText(s string) string {
	var b strings.Builder
	for i, r := range s {
		if i > 0 && r >= 'A' && r <= 'Z' {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}
