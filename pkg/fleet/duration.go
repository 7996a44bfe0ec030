package fleet

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Duration is a [time.Duration] whose text form is Go's, for example "1h30m".
type Duration time.Duration

// D is the duration as the standard library's type.
func (d Duration) D() time.Duration { return time.Duration(d) }

// String is the duration in Go's notation.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText is the duration in Go's notation.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads Go's notation; negative durations are refused.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v < 0 {
		return fault.Newf(fault.Invalid, "read duration", fmt.Sprintf("%q", b), "not a duration").
			WithHint("write for example 90s, 10m or 2h")
	}
	*d = Duration(v)
	return nil
}

// Window is a span of each day in which members may activate a release, in the
// member's own local time. A window whose end is not after its start goes past
// midnight.
type Window struct {
	From ClockTime `json:"from"`
	To   ClockTime `json:"to"`
	Days []string  `json:"days,omitempty"` // "mon".."sun"; empty: every day
}

// String is the window as "22:00-05:00", after its days if it has any.
func (w Window) String() string {
	span := fmt.Sprintf("%02d:%02d-%02d:%02d", w.From/60, w.From%60, w.To/60, w.To%60)
	if len(w.Days) == 0 {
		return span
	}
	return strings.Join(w.Days, " ") + " " + span
}

// ParseWindow reads a window of every day as [Window.String] writes it.
func ParseWindow(s string) (w Window, err error) {
	from, to, _ := strings.Cut(s, "-")
	if err = w.From.UnmarshalText([]byte(strings.TrimSpace(from))); err == nil {
		err = w.To.UnmarshalText([]byte(strings.TrimSpace(to)))
	}
	if err != nil {
		return w, fault.New(fault.Invalid, "read window", fmt.Sprintf("%q", s), err).WithHint("write for example 22:00-05:00")
	}
	return w, nil
}

// ClockTime is a time of day in minutes after midnight; its text form is "15:04".
type ClockTime int

// MarshalText is the time of day as "15:04".
func (c ClockTime) MarshalText() ([]byte, error) {
	return fmt.Appendf(nil, "%02d:%02d", int(c)/60, int(c)%60), nil
}

// UnmarshalText reads "15:04".
func (c *ClockTime) UnmarshalText(b []byte) error {
	t, err := time.Parse("15:04", string(b))
	if err != nil {
		return fault.Newf(fault.Invalid, "read time of day", fmt.Sprintf("%q", b), "not a time of day").
			WithHint("write for example 02:30")
	}
	*c = ClockTime(t.Hour()*60 + t.Minute())
	return nil
}

// InWindow reports whether t, in its own location, lies in one of the windows.
// Without any it always does.
func InWindow(ws []Window, t time.Time) bool {
	if len(ws) == 0 {
		return true
	}
	for _, w := range ws {
		if w.contains(t) {
			return true
		}
	}
	return false
}

func (w Window) contains(t time.Time) bool {
	now := ClockTime(t.Hour()*60 + t.Minute())
	if w.From < w.To {
		return w.onDay(t) && w.From <= now && now < w.To
	}
	// Past midnight: the part before midnight belongs to today, the rest to yesterday.
	return (now >= w.From && w.onDay(t)) || (now < w.To && w.onDay(t.AddDate(0, 0, -1)))
}

func (w Window) onDay(t time.Time) bool {
	if len(w.Days) == 0 {
		return true
	}
	return slices.Contains(w.Days, weekdays()[t.Weekday()])
}

// weekdays are the names of days in windows, by [time.Weekday].
func weekdays() []string { return []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} }

// Percent is a share in percent; its JSON form is a number or a string "5%".
type Percent float64

// Of is the share as a fraction of one.
func (p Percent) Of() float64 { return float64(p) / 100 }

// UnmarshalJSON reads a number of percent, or a string such as "0.5%".
func (p *Percent) UnmarshalJSON(b []byte) error {
	var v float64
	if json.Unmarshal(b, &v) != nil {
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return fault.New(fault.Invalid, "read percentage", string(b), err)
		}
		var rest string
		if n, _ := fmt.Sscanf(s, "%g%s", &v, &rest); n == 0 || rest != "%" {
			return fault.Newf(fault.Invalid, "read percentage", fmt.Sprintf("%q", s), "not a percentage").
				WithHint("write for example 5 or 0.5%%")
		}
	}
	if v < 0 || v > 100 {
		return fault.Newf(fault.Invalid, "read percentage", string(b), "not between 0 and 100")
	}
	*p = Percent(v)
	return nil
}
