package agent

import (
	"errors"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/delivery"
)

// The rate is of what arrives, long before a frame is whole; what is lost and
// comes again counts once. Trouble has one beginning.
func TestThePaceIsOfWhatArrives(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_767_225_600, 0)
	g := newProgress()
	g.now = func() time.Time { return now }
	e := update.Effect{Model: "detector", Kind: update.Fetch}
	told := func(p delivery.Progress) fetching {
		g.told(e, p)
		return g.of(e.Model)
	}
	arriving := func(n int64) delivery.Progress {
		return delivery.Progress{Total: 50 << 20, Done: 8, From: map[delivery.Kind]int64{delivery.Raw: 8}, Arriving: n}
	}
	told(delivery.Progress{})
	for i := range int64(4) {
		told(arriving(i * 1000))
		now = now.Add(time.Second)
	}
	if rate, ok := told(arriving(4000)).pace.Rate(); !ok || rate != 1000 {
		t.Errorf("1000 bytes a second arrive, and it tells %g %t", rate, ok)
	}
	now = now.Add(4 * time.Second)
	if rate, ok := told(arriving(0)).pace.Rate(); !ok || rate != 500 {
		t.Errorf("after a range was lost it tells %g %t", rate, ok)
	}
	p := arriving(0)
	p.Trouble = errors.New("503")
	since := told(p).trouble
	now = now.Add(6 * time.Second)
	f := told(p)
	if rate, ok := f.pace.Rate(); !ok || rate != 0 {
		t.Errorf("nothing came for 10 s, and it tells %g %t", rate, ok)
	}
	if since.IsZero() || !f.trouble.Equal(since) {
		t.Errorf("in trouble since %s, then since %s", since, f.trouble)
	}
	if f := told(arriving(4000)); !f.trouble.IsZero() {
		t.Errorf("frames come, and it is in trouble since %s", f.trouble)
	}
}
