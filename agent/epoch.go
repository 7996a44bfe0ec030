package agent

import (
	"time"

	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// begin begins another epoch, as a start does. A member that came back by its key
// may have been copied: the copy signed rows of a later epoch than this one's, which
// everyone takes for the newest until this member has a later one still.
func (l *loop) begin(now time.Time) {
	mem := l.mem
	mem.Epoch = telemetry.NextEpoch(mem.Epoch, now)
	if err := l.save(mem); err != nil {
		l.o.Logger.Error("state not written", "err", err)
		l.mem.Epoch = mem.Epoch // as at a start
	}
	l.rec.Begin(mem.Epoch, now)
}
