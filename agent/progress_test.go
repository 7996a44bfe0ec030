package agent_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// manyFiles are incompressible, a frame each.
func manyFiles(seed uint64, n, size int) map[string]string {
	r := rand.NewChaCha8([32]byte{byte(seed)})
	files := map[string]string{"weights.bin": "one"}
	for i := range n {
		b := make([]byte, size)
		r.Read(b)
		files[fmt.Sprintf("part-%02d", i)] = string(b)
	}
	return files
}

// A fetch that takes its time is told as it goes, to applications and in rows:
// how much, from where, how fast, how long still. What it brought is counted
// once, over releases.
func TestAFetchIsToldAsItGoes(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.o.Rate = 1 << 20
	v1 := d.fleet.Publish("1.0.0", manyFiles(1, 24, 256<<10))
	size := v1.Variants[0].Size
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	m := d.until("progress with a rate", func(m local.Model) bool {
		if m.Phase > fleet.Downloading {
			t.Fatalf("it came to %s without having told a rate", m.Phase)
		}
		return m.Rate > 0 && m.Left > 0
	})
	if m.BytesDone <= 0 || m.BytesDone >= size || m.BytesTotal != size || m.BytesFrom == nil || m.BytesFrom.Bucket != m.BytesDone || m.BytesWire < m.BytesDone {
		t.Errorf("progress is %+v, from %+v", m, m.BytesFrom)
	}
	if m.Rate > 4<<20 || m.Left.D() > time.Minute {
		t.Errorf("at 1 MiB/s it tells %d bytes a second, %s left", m.Rate, m.Left)
	}
	d.row("half of it", func(_ telemetry.Row, m telemetry.Model) bool {
		f := m.Fetched
		return m.Phase == fleet.Downloading && m.Total == uint64(size) && f.Bucket > 0 && f.Bucket < m.Total && f.Done() == f.Arrived()
	})
	d.serves(v1, fleet.Healthy)
	d.row("all of it", func(r telemetry.Row, _ telemetry.Model) bool {
		return r.Delivery.Bucket == uint64(size) && r.Delivery.Wire >= uint64(size) && r.Delivery.Copy == 0
	})
	// The next release has nothing new: all of it is here already.
	files := manyFiles(1, 24, 256<<10)
	delete(files, "part-00")
	v2 := d.fleet.Publish("2.0.0", files)
	d.fleet.Direct(&v2, nil, 0)
	d.serves(v2, fleet.Healthy)
	d.row("what was here", func(r telemetry.Row, _ telemetry.Model) bool {
		return r.Delivery.Bucket == uint64(size) && r.Delivery.Copy == uint64(v2.Variants[0].Size)
	})
}

// Who cannot fetch says so in rows, and since when, however often it tries.
func TestAFetchThatFailsSaysSinceWhen(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.o.Retry = time.Second
	v1 := d.fleet.Publish("1.0.0", map[string]string{"weights.bin": "one", "card.md": string(bytes.Repeat([]byte("x"), 100))})
	undo := d.fleet.Tamper()
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	failing := func(m local.Model) bool { return m.Failure == fleet.TransportFailure && m.FailureCode == "corrupt" }
	first := d.until("a failure", failing)
	second := d.until("another", func(m local.Model) bool { return failing(m) && m.Since.After(first.Since.Add(time.Second)) })
	if first.Failing.IsZero() || !second.Failing.Equal(first.Failing) {
		t.Errorf("fails since %s, then since %s", first.Failing, second.Failing)
	}
	d.row("since when", func(_ telemetry.Row, m telemetry.Model) bool {
		return m.Failure == fleet.TransportFailure && m.Code == telemetry.CodeCorrupt && m.Failing == first.Failing.Unix()
	})
	undo()
	m := d.serves(v1, fleet.Healthy)
	if !m.Failing.IsZero() || m.Failure != fleet.NoFailure {
		t.Errorf("it serves and says %+v", m)
	}
}

// Who may not fetch at this time of day says that it waits, and that nothing failed.
func TestAClosedDownloadWindowIsTold(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	h, m, _ := time.Now().Add(6 * time.Hour).Clock()
	from := fleet.ClockTime(h*60 + m)
	d.o.Download = []fleet.Window{{From: from, To: (from + 60) % (24 * 60)}}
	v1 := d.fleet.Publish("1.0.0", map[string]string{"weights.bin": "one"})
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.until("what it waits for", func(m local.Model) bool { return m.Phase == fleet.Downloading && m.Waits != "" })
	d.row("the window", func(_ telemetry.Row, m telemetry.Model) bool {
		return m.Phase == fleet.Downloading && m.Code == telemetry.CodeWindow && m.Failure == fleet.NoFailure
	})
}

// Whose bucket fails says so while it tries again: to applications, and in rows
// as a failure that is not the release's. It is over when bytes come.
func TestABucketInTroubleIsTold(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	var ill atomic.Bool
	ill.Store(true)
	bucket := http.FileServer(http.Dir(d.fleet.Bucket))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ill.Load() && strings.HasPrefix(r.URL.Path, "/files/") {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		bucket.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	d.o.Source = srv.URL
	v1 := d.fleet.Publish("1.0.0", manyFiles(1, 6, 1000))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	m := d.until("the trouble", func(m local.Model) bool { return m.Phase == fleet.Downloading && m.Trouble != "" })
	if !strings.Contains(m.Trouble, "503") || m.Waits != "" || m.Failure != fleet.NoFailure {
		t.Errorf("it says %+v", m)
	}
	d.row("the trouble", func(_ telemetry.Row, m telemetry.Model) bool {
		return m.Phase == fleet.Downloading && m.Failure == fleet.TransportFailure && m.Code != telemetry.CodeWindow && m.Code != telemetry.CodeNone && m.Failing > 0
	})
	ill.Store(false)
	if m := d.serves(v1, fleet.Healthy); m.Trouble != "" || m.Failure != fleet.NoFailure {
		t.Errorf("it serves and says %+v", m)
	}
	d.row("no trouble", func(_ telemetry.Row, m telemetry.Model) bool {
		return m.Phase == fleet.Healthy && m.Failure == fleet.NoFailure && m.Failing == 0
	})
}
