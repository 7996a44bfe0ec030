package coordinator_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// clocked is a bucket whose server's clock is behind this machine's.
type clocked struct {
	registry.Store
	behind *atomic.Int64
}

func (c clocked) Time() (time.Time, bool) {
	return time.Now().Add(-time.Duration(c.behind.Load())), true
}

// A coordinator whose clock is far ahead of the bucket's signs nothing that members
// would take for the time, and says so; once it is set, it goes on.
func TestAClockThatIsAheadSignsNothing(t *testing.T) {
	w := newWorld(t)
	behind := new(atomic.Int64)
	w.opts.Store = clocked{w.bucket, behind}
	w.start()
	ds := w.join(1)
	rel := w.admit("1.0.0")
	w.roll(ds, "1.0.0", map[fleet.Digest]behaviour{rel.Variants[0].Root: {requests: 1}})
	alarms := w.alarms()

	behind.Store(int64(time.Hour))
	w.eventually("people are told", func() bool { return strings.Contains(alarms(), "ahead of the bucket's: nothing is signed") })
	before := must(w.get(t.Context(), trust.MetadataKey("timestamp", 0)))(t)
	if _, err := w.admin.Time(t.Context(), trust.Nonce{1}); !fault.Is(err, fault.Transient) {
		t.Errorf("the time is signed: %v", err)
	}
	h := must(w.admin.Health(t.Context()))(t)
	if len(h.Findings) == 0 || h.Findings[0].Code != "clock" || !strings.Contains(h.Findings[0].What, "ahead of the bucket's") {
		t.Errorf("findings: %+v", h.Findings)
	}
	if after := must(w.get(t.Context(), trust.MetadataKey("timestamp", 0)))(t); string(after) != string(before) {
		t.Error("a timestamp was signed")
	}
	ok(t, w.stop())

	w.start() // with the wrong clock: it serves, and signs nothing
	ok(t, w.stop())
	if after := must(w.get(t.Context(), trust.MetadataKey("timestamp", 0)))(t); string(after) != string(before) {
		t.Error("a timestamp was signed at the start")
	}
	behind.Store(0)
	w.start()
	if _, err := w.admin.Time(t.Context(), trust.Nonce{1}); err != nil {
		t.Errorf("once the clock is right: %v", err)
	}
}
