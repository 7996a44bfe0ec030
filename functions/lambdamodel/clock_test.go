package lambdamodel

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

// clocked is a member that has believed a pack, on a host with whatever clock.
type clocked struct {
	*member
	t     *testing.T
	f     *trusttest.Fleet
	off   time.Duration // of the host's clock
	says  *signer.Signer
	asked int
}

func newClocked(t *testing.T) *clocked {
	t.Helper()
	c := &clocked{t: t, f: trusttest.New(t, nil)}
	c.says = c.f.Coordinator
	c.member = &member{o: Options{Model: "detector", Logger: slog.New(slog.DiscardHandler), clock: func() time.Time { return c.f.Now.Add(c.off) }}}
	c.ask = func(_ context.Context, n trust.Nonce) (trust.SignedTime, error) {
		c.asked++
		return trust.SignTime(c.says, n, c.f.Now)
	}
	c.mem.Trust = c.f.State()
	c.believe(c.f.Direct())
	return c
}

// believe takes a pack over as judge does.
func (c *clocked) believe(pack []byte) {
	c.t.Helper()
	got, st, err := trust.Verify(pack, c.mem.Trust, c.f.Member(), c.late())
	if err != nil {
		c.t.Fatal(err)
	}
	was := c.mem.Trust
	c.mem.Trust = st
	c.accept(&got, was)
}

// reports has the coordinator answer a report with its time.
func (c *clocked) reports() { c.hear(c.t.Context(), c.f.Now) }

func TestAClockThatIsBehind(t *testing.T) {
	t.Parallel()
	c := newClocked(t)
	c.f.Now = c.f.Now.Add(20 * time.Hour)
	c.off = -20 * time.Hour // it stood still
	c.reports()
	if c.asked != 1 || c.stale() != nil || c.late().Before(c.f.Now) {
		t.Fatalf("asked %d times, it is %s of %s: %v", c.asked, c.late(), c.f.Now, c.stale())
	}
	c.f.Now = c.f.Now.Add(5 * time.Hour) // and the clock went on
	if err := c.stale(); !fault.Is(err, fault.Untrusted) {
		t.Errorf("after 25 hours: %v", err)
	}
	c.off = 0 // put right by the host
	c.believe(c.f.Direct())
	if c.stale() != nil || c.behind != 0 {
		t.Errorf("with a newer pack: %v, %s", c.stale(), c.behind)
	}
}

func TestATimeThatIsNotTheCoordinators(t *testing.T) {
	t.Parallel()
	c := newClocked(t)
	c.off = -25 * time.Hour
	c.f.Now = c.f.Now.Add(26 * time.Hour)
	c.says = trusttest.Key(t)
	if c.reports(); c.asked != 1 || c.stale() != nil || c.behind != 0 {
		t.Errorf("another's word counts: %s, %v", c.behind, c.stale())
	}
	// The next answer asks no sooner than in ten minutes.
	if c.reports(); c.asked != 1 {
		t.Errorf("asked %d times", c.asked)
	}
}

func TestACoordinatorAheadHoldsNobodyForYears(t *testing.T) {
	t.Parallel()
	c := newClocked(t)
	now, end := c.f.Now, c.trusted.Expires
	c.f.Now = now.AddDate(5, 0, 0)
	c.off = now.Sub(c.f.Now)
	c.reports()
	if c.stale() == nil || c.late().After(end) {
		t.Errorf("it is %s: %v", c.late(), c.stale())
	}
}

func TestAClockThatIsRight(t *testing.T) {
	t.Parallel()
	c := newClocked(t)
	for _, off := range []time.Duration{0, -4 * time.Minute, time.Hour} {
		c.off = off
		if c.reports(); c.asked != 0 || c.stale() != nil {
			t.Errorf("off by %s: asked %d times, %v", off, c.asked, c.stale())
		}
	}
	c.off = 30 * time.Hour // ahead: stale too soon, and said
	if !fault.Is(c.stale(), fault.Untrusted) {
		t.Error("fresh after its end")
	}
}
