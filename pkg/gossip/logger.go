package gossip

import (
	"bytes"
	"context"
	"log"
	"log/slog"
)

// logWriter turns memberlist's lines into records. memberlist recovers from
// everything it reports, so nothing of it is an error of ours.
type logWriter struct{ to *slog.Logger }

func newLog(to *slog.Logger) *log.Logger { return log.New(logWriter{to}, "", 0) }

// Write takes one line such as "[WARN] memberlist: text".
func (w logWriter) Write(line []byte) (int, error) {
	level := slog.LevelDebug
	if bytes.HasPrefix(line, []byte("[ERR]")) {
		level = slog.LevelWarn
	}
	if w.to.Enabled(context.Background(), level) {
		text := string(bytes.TrimSpace(line))
		w.to.Log(context.Background(), level, "memberlist reported", "text", text)
	}
	return len(line), nil
}
