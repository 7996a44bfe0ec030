package agent

import (
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// progress follows the fetches of the agent: how far each model's newest one is
// and how fast it goes, and what all of them brought since the agent started.
type progress struct {
	now func() time.Time

	mu     sync.Mutex
	newest map[fleet.ModelName]fetching
	counts map[install]count
	total  telemetry.Delivery
}

// count is what one install brought, over all its attempts.
type count struct {
	latest telemetry.Fetched // of the attempt under way
	total  telemetry.Fetched
}

// told returns the count after an attempt came as far as f. Bytes that a retry
// finds on the disk are counted already, whether they were here before the first
// attempt or an earlier one brought them: of what is done, only what never
// arrived was here.
func (c count) told(f telemetry.Fetched) count {
	copied := c.total.Copy
	c.total.Add(telemetry.Delivery{Fetched: f}.Since(telemetry.Delivery{Fetched: c.latest}).Fetched)
	c.total.Copy = copied
	if arrived := c.total.Arrived(); f.Done() > arrived {
		c.total.Copy = max(copied, f.Done()-arrived)
	}
	c.latest = f
	return c
}

// install is what an effect brings in; there is one at a time.
type install struct {
	model  fleet.ModelName
	kind   update.EffectKind
	bundle fleet.Digest
}

// fetching is how far a fetch is.
type fetching struct {
	delivery.Progress
	pace    telemetry.Pace // of what arrives from elsewhere, verified or not yet
	arrived uint64         // of that, the most that was seen: what came twice counts once
	trouble time.Time      // since when it is in trouble
}

func newProgress() *progress {
	return &progress{now: time.Now, newest: map[fleet.ModelName]fetching{}, counts: map[install]count{}}
}

// told takes note of how far an effect is. A fetch begins with nothing done.
func (g *progress) told(e update.Effect, p delivery.Progress) {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := install{e.Model, e.Kind, e.Offer.Bundle}
	was, now := g.counts[k], g.counts[k].told(fetchedOf(p))
	g.total.Add(telemetry.Delivery{Fetched: now.total}.Since(telemetry.Delivery{Fetched: was.total}))
	g.counts[k] = now
	if e.Kind != update.Fetch {
		return // what is put right is not on its way to being served
	}
	f := fetching{Progress: p}
	if before := g.newest[e.Model]; p.Total > 0 {
		f.arrived = max(before.arrived, fetchedOf(p).Arrived()+uint64(max(p.Arriving, 0)))
		f.pace, f.trouble = before.pace.At(g.now(), f.arrived), before.trouble
	}
	switch {
	case p.Trouble == nil:
		f.trouble = time.Time{}
	case f.trouble.IsZero():
		f.trouble = g.now()
	}
	g.newest[e.Model] = f
}

// of is how far a model's newest fetch is, as of now.
func (g *progress) of(m fleet.ModelName) fetching {
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.newest[m]
	if f.Total > 0 {
		f.pace = f.pace.At(g.now(), f.arrived)
		g.newest[m] = f
	}
	return f
}

// delivered is what was fetched since the agent started, but for the bytes that
// went over the wire: neighbours want some of those.
func (g *progress) delivered() telemetry.Delivery {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.total
}

// fetchedOf is an install's progress as rows tell it.
func fetchedOf(p delivery.Progress) telemetry.Fetched {
	n := func(v int64) uint64 { return uint64(max(v, 0)) }
	return telemetry.Fetched{
		Copy: n(p.From[delivery.Copy] + p.Resume), Delta: n(p.From[delivery.Delta]), Peer: n(p.From[delivery.Peer]),
		Bucket: n(p.From[delivery.Full] + p.From[delivery.Raw]),
	}
}

// sources is where bytes came from, for people.
func sources(f telemetry.Fetched) *api.Sources {
	if f == (telemetry.Fetched{}) {
		return nil
	}
	return &api.Sources{Copy: int64(f.Copy), Delta: int64(f.Delta), Peer: int64(f.Peer), Bucket: int64(f.Bucket)}
}
