package agent

import (
	"time"

	"github.com/modelfleet/modelfleet/pkg/trust"
)

// clock says how late it is at least. A device's own clock may stand, run behind
// or have lost its battery, and then a pack that is replayed would be fresh for
// ever: so what is known of the time is carried on by the monotonic clock, which
// nobody can set. Only the time that the device is off or asleep goes uncounted.
type clock struct {
	wall   func() time.Time // the device's own
	proven time.Time        // by what was signed; zero: nothing was
	told   time.Time        // by a coordinator, signed, and good until something newer is
	since  time.Time        // when it was that late, as the monotonic clock reads
}

func newClock(wall func() time.Time, proven, told time.Time) clock {
	if wall == nil {
		wall = time.Now
	}
	return clock{wall: wall, proven: proven.UTC(), told: told.UTC(), since: time.Now()}
}

// prove takes over the time that something newly signed proves.
func (c *clock) prove(at time.Time) { *c = newClock(c.wall, at, time.Time{}) }

// tell takes over what a coordinator says.
func (c *clock) tell(at time.Time) { *c = newClock(c.wall, c.least(), at) }

// least is the time that is proven by now.
func (c *clock) least() time.Time { return c.carried(c.proven) }

// carried is what a time of then is by now.
func (c *clock) carried(then time.Time) time.Time {
	if then.IsZero() {
		return then
	}
	return then.Add(time.Since(c.since))
}

// now is the latest of the device's clock, what is proven and what was told.
func (c *clock) now() time.Time {
	now := c.wall()
	for _, t := range []time.Time{c.least(), c.carried(c.told)} {
		if t.After(now) {
			now = t
		}
	}
	return now
}

const (
	// clockOff is how far a clock may be off before anyone minds.
	clockOff = 5 * time.Minute
	// floorEvery is how often the time is written down when nothing else is: a
	// start makes a replayed pack younger by so much at most.
	floorEvery = time.Hour
)

// doubts reports whether an unsigned word for the time, from whoever ended TLS,
// is reason to ask the coordinator for a signed one.
func (l *loop) doubts(at time.Time) bool {
	return l.fresh() && at.Sub(l.clock.now()) > clockOff
}

// hear takes a coordinator's word for the time, when it is much later than what is
// known here. It must be an answer to the nonce, signed by a key that the policy
// gives the coordinator: the connection proves nothing. It can end what is believed
// now, and no more: a coordinator whose clock is years ahead holds its members
// until it signs something newer, and not for years.
func (l *loop) hear(a timeAnswer) (moved bool) {
	t := l.trusted.Load()
	if t == nil || t.Freshness != trust.Fresh {
		return false
	}
	at, err := a.signed.Verify(a.nonce, t.FleetKeys)
	if err != nil {
		l.o.Logger.Warn("coordinator's time refused", "rule", string(trust.RuleOf(err)), "err", err)
		return false
	}
	if at.Sub(l.clock.now()) <= clockOff {
		return false
	}
	if t.Expires.Before(at) {
		at = t.Expires
	}
	if !at.After(l.clock.now()) {
		return false
	}
	l.o.Logger.Warn("clock is behind", "by", at.Sub(l.clock.wall()).Round(time.Second).String(), "from", "coordinator")
	l.clock.tell(at)
	l.keepTime()
	return true
}

// keepTime writes down how late it is. A disk that takes nothing gets
// it with the next state, or later.
func (l *loop) keepTime() {
	l.timed = time.Now()
	if err := l.save(l.mem); err != nil {
		l.o.Logger.Warn("time not written", "err", err)
	}
}

// fresh reports whether what was believed may be acted on.
func (l *loop) fresh() bool {
	t := l.trusted.Load()
	return t != nil && l.mem.Trust.Audit.Split == nil && t.Freshness == trust.Fresh && l.clock.now().Before(t.Expires)
}
