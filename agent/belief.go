package agent

import (
	"log/slog"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// belief is what the loop makes of the packs it judged, beside what the believed
// one says ([shown].trusted). It decides nothing about trust: it remembers what was
// decided, for people and for who looks for a better pack.
type belief struct {
	pack     fleet.Digest // of the newest pack judged
	lapsed   string       // the role that makes even that one stale; ""
	distrust distrust
	refused  string // who brought the newest pack that was not believed, and why not; ""
	refusals uint64
	waiting  packOffer           // the newest pack that could not be written
	stood    telemetry.Freshness // at the last look
	stoodAt  time.Time           // since when
}

// accept takes note of a pack that is believed and written down.
func (b *belief) accept(pack fleet.Digest) {
	b.pack, b.lapsed, b.refused, b.waiting = pack, "", "", packOffer{}
	b.distrust.answer()
}

// confirm takes note that a source has the pack that is acted on. What another
// source offered is still told.
func (b *belief) confirm(from string) {
	if strings.HasPrefix(b.refused, from+": ") {
		b.refused = ""
	}
	b.distrust.answer()
}

// lapse takes note of a pack that is authentic but past its expiry, by a role.
func (b *belief) lapse(pack fleet.Digest, role string) {
	b.lapsed = role
	if pack == b.pack {
		b.distrust.answer() // there is nothing newer there
	}
}

// refuse tells of a pack that is not believed.
func (b *belief) refuse(log *slog.Logger, err error, from string) {
	b.refusals++
	text := from + ": " + err.Error()
	if text != b.refused { // the same refusal again is only counted
		log.Error("trust pack refused", "from", from, "rule", string(trust.RuleOf(err)), "err", err, "count", b.refusals)
	}
	b.refused = text
}

// postpone keeps a pack that is to be believed, but could not be written down, to be
// judged again when there may be room: who brought it will not bring it a second time.
func (b *belief) postpone(log *slog.Logger, p packOffer, err error) {
	if p.version <= b.waiting.version {
		return // it, or a newer one, waits already
	}
	b.waiting = p
	b.refused = p.from + ": " + err.Error()
	log.Error("trust pack not kept", "from", p.from, "err", err)
}

// stand keeps how the device's trust stands with the time since it does.
func (b *belief) stand(f telemetry.Freshness, now time.Time) {
	if f != b.stood || b.stoodAt.IsZero() {
		b.stood, b.stoodAt = f, now.UTC()
	}
}
