package agent_test

import (
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// logbook keeps what an agent logs.
type logbook struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// A restart in mid-download goes on with it: nothing failed.
func TestARestartInMidDownloadIsNoFailure(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	var logs logbook
	d.o.Logger = slog.New(slog.NewTextHandler(&logs, nil))
	d.o.Rate = 1 << 20
	v1 := d.fleet.Publish("1.0.0", manyFiles(2, 12, 256<<10))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	under := func(m local.Model) bool {
		if m.Failure != fleet.NoFailure || m.Phase > fleet.Downloading {
			t.Fatalf("in mid-download it says %+v", m)
		}
		return m.Phase == fleet.Downloading && m.BytesDone > 0
	}
	for range 3 {
		d.until("bytes", under)
		d.kill()
		d.run()
	}
	d.serves(v1, fleet.Healthy)
	if text := logs.String(); strings.Contains(text, "effect failed") {
		t.Errorf("an effect failed:\n%s", text)
	}
}
