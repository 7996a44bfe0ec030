package publish

import (
	"context"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/health"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// CheckClock refuses to decide or sign at a time that is far ahead of the bucket's.
// See [registry.CheckClock].
func (p *Publisher) CheckClock(ctx context.Context, now time.Time) error {
	return registry.CheckClock(ctx, p.o.Bucket, trust.MetadataKey("timestamp", 0), now)
}

// SignTime gives the coordinator's word for the time to whoever drew the nonce.
func (p *Publisher) SignTime(ctx context.Context, n trust.Nonce, at time.Time) (trust.SignedTime, error) {
	if err := p.CheckClock(ctx, at); err != nil {
		return trust.SignedTime{}, err
	}
	return trust.SignTime(*p.clock.Load(), n, at)
}

// ClockAhead is by how much the coordinator's clock is ahead of the bucket's.
func (p *Publisher) ClockAhead(now time.Time) time.Duration {
	return registry.ClockAhead(p.o.Bucket, now)
}

// Standing is what is known of the fleet's roles and certificates, and of the clock.
func (p *Publisher) Standing(now time.Time) (health.Facts, error) {
	f, err := health.Of(p.repository())
	f.Skew, f.Against = -p.ClockAhead(now), "the bucket's"
	return f, err
}
