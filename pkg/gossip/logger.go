package gossip

import (
	"bytes"
	"log"
	"log/slog"
	"sync"
	"time"
)

// logWriter turns memberlist's lines into records. memberlist recovers from
// everything it reports, so nothing of it is an error of ours, and a cell that is
// shut to this member makes many of them: one is told of each [complainEvery], and
// how many were not.
type logWriter struct {
	to  *slog.Logger
	now func() time.Time

	mu    sync.Mutex // guards the rest
	told  time.Time
	quiet int // lines that were not told of since
}

func newLog(to *slog.Logger) *log.Logger { return log.New(&logWriter{to: to, now: time.Now}, "", 0) }

// Write takes one line such as "[WARN] memberlist: text".
func (w *logWriter) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	if !bytes.HasPrefix(line, []byte("[ERR]")) {
		w.to.Debug("memberlist reported", "text", text)
		return len(line), nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := w.now(); w.told.IsZero() || now.Sub(w.told) >= complainEvery {
		w.to.Warn("cell not spoken with", "text", text, "alike", w.quiet)
		w.told, w.quiet = now, 0
		return len(line), nil
	}
	w.quiet++
	return len(line), nil
}
