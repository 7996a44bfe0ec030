package probe

import (
	"fmt"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Limits is what a release may do while it is watched. Zero values switch a
// limit off.
type Limits struct {
	fleet.Health
	// ErrorRate is the share of failed uses, in (0, 1], that is too much, once
	// there are MinUses of them.
	ErrorRate float64
	MinUses   int
}

// Watch counts how a release behaves from its switch to the end of its soak. It
// is not safe for concurrent use.
type Watch struct {
	limits   Limits
	uses     int
	errors   int
	streak   int
	restarts int
}

// NewWatch begins to watch.
func NewWatch(l Limits) *Watch { return &Watch{limits: l} }

// Verdict is what a watch found against a release.
type Verdict struct {
	Code string // unhealthy, crash-loop or load
	Text string
}

// Used counts one use of the release and reports whether it was one too many.
func (w *Watch) Used(failed bool, _ time.Duration) (Verdict, bool) {
	w.uses++
	w.streak++
	if failed {
		w.errors++
	} else {
		w.streak = 0
	}
	if n := w.limits.FailStreak; n > 0 && w.streak >= n {
		return Verdict{"unhealthy", fmt.Sprintf("%d uses failed in a row, limit %d", w.streak, n)}, true
	}
	if r := w.limits.ErrorRate; r > 0 && w.uses >= w.limits.MinUses && float64(w.errors) >= r*float64(w.uses) {
		return Verdict{"unhealthy", fmt.Sprintf("%d of %d uses failed, limit %.3g%%", w.errors, w.uses, 100*r)}, true
	}
	return Verdict{}, false
}

// Lost counts an application that lost the release (it crashed) and reports
// whether it was one too many.
func (w *Watch) Lost(why string) (Verdict, bool) {
	w.restarts++
	if n := w.limits.Restarts; n > 0 && w.restarts >= n {
		return Verdict{"crash-loop", fmt.Sprintf("applications lost it %d times, limit %d; last: %s", w.restarts, n, why)}, true
	}
	return Verdict{}, false
}

// Refused takes note that an application says it cannot load the release.
func (w *Watch) Refused(why string) Verdict { return Verdict{"load", why} }
