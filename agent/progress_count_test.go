package agent

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// A byte that was here counts once per install, and one that an earlier attempt
// fetched is not counted as here when the next one finds it.
func TestARetryCountsNothingAgain(t *testing.T) {
	t.Parallel()
	e := update.Effect{Model: "m", Kind: update.Fetch, Offer: update.Offer{Bundle: fleet.DigestOf([]byte("v1"))}}
	g := newProgress()
	attempt := func(resume, copied, bucket int64) {
		g.told(e, delivery.Progress{})
		for _, from := range []map[delivery.Kind]int64{{delivery.Copy: copied}, {delivery.Copy: copied, delivery.Full: bucket}} {
			g.told(e, delivery.Progress{Total: 100, Done: resume + copied + bucket, Resume: resume, From: from})
		}
	}
	check := func(when string, want telemetry.Fetched) {
		t.Helper()
		if diff := cmp.Diff(want, g.delivered().Fetched); diff != "" {
			t.Errorf("%s: %s", when, diff)
		}
	}
	attempt(0, 20, 30)
	check("first attempt", telemetry.Fetched{Copy: 20, Bucket: 30})
	attempt(50, 0, 10)
	check("resumed", telemetry.Fetched{Copy: 20, Bucket: 40})
	attempt(40, 20, 40)
	check("done", telemetry.Fetched{Copy: 20, Bucket: 80})
	for range 5 {
		attempt(80, 20, 0)
	}
	check("repeated", telemetry.Fetched{Copy: 20, Bucket: 80})
	e.Offer.Bundle = fleet.DigestOf([]byte("v2"))
	attempt(0, 90, 10)
	check("another release", telemetry.Fetched{Copy: 110, Bucket: 90})
}
