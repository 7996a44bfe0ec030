package gossip

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// A cell that is shut to a member does not flood its log.
func TestErrorsOfTheCellAreToldOnceAMinute(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	now := time.Unix(0, 0)
	w := &logWriter{to: slog.New(slog.NewTextHandler(&out, nil)), now: func() time.Time { return now }}
	for range 61 {
		if _, err := w.Write([]byte("[ERR] memberlist: failed to receive\n")); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
	}
	if got := strings.Count(out.String(), "failed to receive"); got != 2 || !strings.Contains(out.String(), "alike=59") {
		t.Errorf("%d lines:\n%s", got, out.String())
	}
}
