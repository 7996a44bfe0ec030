package relay

import (
	"time"

	"github.com/modelfleet/modelfleet/pkg/gossip"
)

// Duty is what a member hands to the coordinator by itself.
type Duty uint8

// The duties.
const (
	Rest Duty = iota // nothing: relays carry its rows
	Own              // its own rows
	All              // its own and those of the cell
)

// String is the duty's name.
func (d Duty) String() string { return [...]string{"rest", "own", "all", "unknown"}[min(d, 3)] }

// patience is how many periods a member waits for an ack.
const patience = 3

// Facts is what the duty follows from.
type Facts struct {
	Now       time.Time
	Period    time.Duration // between the member's rows
	Role      gossip.Role
	RoleSince time.Time // when the role or the primary last changed
	Relays    int       // that the cell has
	Started   time.Time // when the member sent its first row; zero: it has not
	Acked     time.Time // when any relay last acked a row of the member's
	Beat      time.Time // when the primary did
}

// Decide says what a member hands over by itself.
func Decide(f Facts) Duty {
	late := func(times ...time.Time) bool {
		for _, t := range times {
			if f.Now.Sub(t) <= patience*f.Period {
				return false
			}
		}
		return true
	}
	switch {
	case f.Role == gossip.Primary:
		return All
	case f.Relays == 0:
		return Own
	case f.Started.IsZero():
		return Rest
	case f.Role == gossip.Standby && late(f.Beat, f.RoleSince, f.Started):
		return All
	case f.Role != gossip.Standby && late(f.Acked, f.Started):
		return Own
	default:
		return Rest
	}
}
