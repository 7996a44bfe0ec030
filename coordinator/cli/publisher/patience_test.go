package publisher_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/cli/publisher"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
)

// resting is a bucket that does not answer for a while after its second write.
type resting struct {
	*dir.Store
	outage time.Duration
	writes int
	until  time.Time
}

func (r *resting) Create(ctx context.Context, key string, body registry.Body) (bool, error) {
	if r.writes++; r.writes == 3 {
		r.until = time.Now().Add(r.outage)
	}
	if time.Now().Before(r.until) {
		return false, fault.Newf(fault.Transient, "create object", key, "connection refused")
	}
	return r.Store.Create(ctx, key, body)
}

// A bucket that is gone for less than the patience costs that time only; one that
// stays away ends the publication, soon after the patience and with what to do.
func TestPublishWaitsForTheNetworkForAWhile(t *testing.T) {
	const patience = 2 * time.Minute
	for outage, finished := range map[time.Duration]bool{20 * time.Second: true, 24 * time.Hour: false} {
		b := newBench(t)
		r := b.model("1", map[string]string{"a": strings.Repeat("a", 9<<20)})
		o := publisher.Options{Store: &resting{Store: b.store, outage: outage}, Repository: b.repository(b.store), Key: b.key, Now: now, Patience: patience}
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			out, err := publisher.Publish(t.Context(), o, r)
			if took := time.Since(began); out.Published != finished || took < min(outage, patience/2) || took > patience+time.Second {
				t.Errorf("away for %s: published %t after %s: %v", outage, out.Published, took, err)
			}
			if !finished && (!fault.Is(err, fault.Transient) || !strings.Contains(fault.Hint(err), "goes on")) {
				t.Errorf("away for %s: %v, hint %q", outage, err, fault.Hint(err))
			}
		})
	}
}
