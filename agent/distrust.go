package agent

import (
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// distrust is what the device makes of packs that it refused: it is UNTRUSTED from
// a refusal on until some source has a good pack. The same bad bytes again are no
// news then, so a bucket that was tampered with is told of once and does not flap
// against the coordinator.
type distrust struct {
	since  time.Time // of the first refusal that no good pack has answered; zero: none
	rule   trust.Rule
	digest fleet.Digest          // of the newest pack refused
	known  map[fleet.Digest]bool // refused, and answered by a good one
}

// maxKnown is how many bad packs are remembered.
const maxKnown = 64

// add takes note of a refusal and reports whether it is news.
func (d *distrust) add(pack fleet.Digest, err error, now time.Time) bool {
	if !fault.Is(err, fault.Untrusted) || d.known[pack] {
		return false
	}
	news := d.since.IsZero() || d.digest != pack
	if d.since.IsZero() {
		d.since = now
	}
	d.rule, d.digest = trust.RuleOf(err), pack
	return news
}

// answer ends the distrust: a source has a good pack.
func (d *distrust) answer() {
	if d.since.IsZero() {
		return
	}
	if d.known == nil || len(d.known) >= maxKnown {
		d.known = map[fleet.Digest]bool{}
	}
	d.known[d.digest] = true
	d.since, d.rule = time.Time{}, ""
}

// remedy is the next move for a person who sees the device in this state; "" when
// nothing need be done.
func (l *loop) remedy() string {
	switch t := l.trusted.Load(); {
	case l.mem.Trust.Audit.Split != nil:
		return trust.RuleAudit.Remedy()
	case !l.belief.distrust.since.IsZero():
		return l.belief.distrust.rule.Remedy() + "; other sources are asked meanwhile"
	case l.fresh():
		return ""
	case l.belief.lapsed == "root" || l.belief.lapsed == "targets":
		return "have the keepers of the " + l.belief.lapsed + " role sign it anew: modelfleet key renew"
	case t == nil:
		return "let it reach the coordinator, or give it a pack by file: modelfleet pack export"
	}
	return "look whether the coordinator and the heartbeat run, and whether this device reaches them; a newer pack by file will do"
}

// doubt refuses a pack and, when that is news, has other sources asked for a better
// one.
func (l *loop) doubt(pack fleet.Digest, err error, from string) {
	l.belief.refuse(l.o.Logger, err, from)
	if l.belief.distrust.add(pack, err, time.Now()) {
		l.wantPack()
	}
}

// wantPack has other sources asked for a pack.
func (l *loop) wantPack() { nudge(l.seek) }
