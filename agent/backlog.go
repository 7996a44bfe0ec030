package agent

import (
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/agent/update"
)

// backlog is what the loop could not do yet.
type backlog struct {
	retry    []event         // whose state could not be written
	stuck    time.Time       // until when nothing is written, since the last write failed
	starting bool            // effects are put into pending, in their order
	pending  []update.Effect // until the pack on the disk was judged
}

// writeAgain is how long a disk that could not be written to is left alone.
const writeAgain = 5 * time.Second

// later keeps an event whose state could not be written. A tick comes again by
// itself, and of events that say the same the newest is enough: a disk may be
// full for weeks.
func (b *backlog) later(e event, now time.Time) {
	b.stuck = now.Add(writeAgain)
	if e.ev.Kind == update.Tick {
		return
	}
	i := slices.IndexFunc(b.retry, func(o event) bool {
		return o.model == e.model && o.ev.Kind == e.ev.Kind && o.ev.Key == e.ev.Key && o.ev.Root == e.ev.Root && o.ev.Bundle == e.ev.Bundle
	})
	if i < 0 {
		b.retry = append(b.retry, e)
		return
	}
	b.retry[i] = e
}
