package registry

import (
	"context"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// ClockSlack is how far the clock of who signs may be ahead of the store's.
const ClockSlack = 5 * time.Minute

// Timed is a store whose server says what time it is.
type Timed interface {
	// Time is the latest that the server's clock can show now, by its last answer;
	// ok is false when it has not answered yet.
	Time() (t time.Time, ok bool)
}

// ClockAhead is by how much now is ahead of a store's clock; negative: behind it. It
// is 0 for a store that has no clock, as a folder that nothing can be written to.
func ClockAhead(s Reader, now time.Time) time.Duration {
	timed, ok := s.(Timed)
	if !ok {
		return 0
	}
	there, ok := timed.Time()
	if !ok {
		return 0
	}
	return now.Sub(there)
}

// CheckClock refuses a time that is far ahead of a store's: what is signed with it
// would be believed by members, who never let their time fall behind one that they
// verified. The store is asked anew before, with any key, since a machine that slept
// takes its last answer for a younger one than it is.
func CheckClock(ctx context.Context, s Reader, key string, now time.Time) error {
	if ClockAhead(s, now) <= ClockSlack {
		return nil
	}
	if _, _, err := s.Get(ctx, key, ""); err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	ahead := ClockAhead(s, now)
	if ahead <= ClockSlack {
		return nil
	}
	return fault.Newf(fault.Transient, "check clock", "", "this machine's clock says %s, %s ahead of the bucket's: nothing is signed with it",
		now.UTC().Format(time.RFC3339), ahead.Round(time.Second)).
		WithHint("set the clock: `timedatectl` shows whether a time server is used")
}
