package lambdamodel

import (
	"bytes"
	"context"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

const (
	// clockOff is how far the host's clock may be behind before anyone minds.
	clockOff = 5 * time.Minute
	// askAgain is the least pause between two questions for the time.
	askAgain = 10 * time.Minute
)

// late says how late it is at least: by the host's clock, by what was signed, or by
// what the coordinator said, whichever is latest. Lambda's hosts keep their clocks
// by AWS's time service, so that the first is right but for a fault; mu is held.
func (m *member) late() time.Time {
	now := m.o.clock()
	if told := now.Add(m.behind); told.After(now) {
		now = told
	}
	if m.mem.Trust.Floor.After(now) {
		return m.mem.Trust.Floor
	}
	return now
}

// fresh reports whether what was believed may be acted on; mu is held.
func (m *member) fresh() bool { return m.trusted != nil && m.late().Before(m.trusted.Expires) }

// hear takes the time that an answer of the coordinator's bore. It is not signed, so
// it proves nothing; when it is much later than here, a signed one is asked for.
func (m *member) hear(ctx context.Context, at time.Time) {
	m.mu.Lock()
	t, now := m.trusted, m.late()
	pause := time.Since(m.timeAsked)
	doubts := m.fresh() && at.Sub(now) > clockOff && (pause < 0 || pause >= askAgain)
	if doubts {
		m.timeAsked = time.Now()
	}
	m.mu.Unlock()
	if !doubts {
		return
	}
	n := trust.NewNonce()
	signed, err := m.ask(ctx, n)
	if err == nil {
		at, err = signed.Verify(n, t.FleetKeys)
	}
	if err != nil {
		m.o.Logger.Warn("coordinator's time not taken", "rule", string(trust.RuleOf(err)), "err", err)
		return
	}
	m.tell(t, at)
}

// tell takes over a coordinator's signed word for the time. It can end what is
// believed now, and no more; the next pack proves how late it really is.
func (m *member) tell(t *trust.Trusted, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.late()
	if m.trusted != t || at.Sub(now) <= clockOff {
		return
	}
	if t.Expires.Before(at) {
		at = t.Expires
	}
	m.behind = at.Sub(m.o.clock())
	m.refreshAt = time.Time{}
	m.o.Logger.Warn("clock is behind", "by", fleet.Duration(m.behind.Round(time.Second)).String(), "from", "coordinator")
}

// accept goes by a pack from now on. A newer timestamp proves the time, whatever
// was told before; mu is held.
func (m *member) accept(t *trust.Trusted, was trust.State) {
	if !bytes.Equal(m.mem.Trust.Timestamp, was.Timestamp) {
		m.behind = 0
	}
	m.trusted = t
}
