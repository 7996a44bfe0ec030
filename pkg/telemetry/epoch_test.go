package telemetry_test

import (
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

func TestNextEpochNeverComesAgain(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	for _, c := range []struct {
		last, want uint64
		now        time.Time
	}{
		{0, 1_700_000_000, now},                             // nothing is remembered, or no longer
		{1_700_000_000, 1_700_000_001, now},                 // twice in a second
		{1_800_000_000, 1_800_000_001, now},                 // the clock went back
		{7, 8, time.Date(1969, 1, 1, 0, 0, 0, 0, time.UTC)}, // no clock at all
	} {
		if got := telemetry.NextEpoch(c.last, c.now); got != c.want {
			t.Errorf("after %d at %s: %d, want %d", c.last, c.now, got, c.want)
		}
	}
}

// A member that was copied signs rows that win over the copy's once it begins
// another epoch, and nothing is counted twice.
func TestAnotherEpochBeginsAtZeroAndWins(t *testing.T) {
	t.Parallel()
	r := newRecorder(t)
	must(t, r.SetModel("m", start, telemetry.ModelState{Running: v1, Phase: fleet.Healthy}))
	must(t, r.Observe("m", start, telemetry.Observation{}))
	r.SetMember(telemetry.MemberState{Delivery: telemetry.Delivery{Wire: 7}})
	r.Row(start)
	r.Row(start)
	r.Begin(9, start.Add(time.Second))
	must(t, r.Observe("m", start.Add(2*time.Second), telemetry.Observation{}))
	r.SetMember(telemetry.MemberState{Delivery: telemetry.Delivery{Wire: 10}})
	row := r.Row(start.Add(3 * time.Second))
	if row.Epoch != 9 || row.Seq != 1 || row.Delivery.Wire != 3 {
		t.Errorf("epoch %d, sequence %d, %d bytes; want 9, 1, 3", row.Epoch, row.Seq, row.Delivery.Wire)
	}
	if len(row.Models) != 1 || row.Models[0].Phase != fleet.Healthy || len(row.Models[0].Series) != 1 || row.Models[0].Series[0].Requests != 1 {
		t.Errorf("models %+v", row.Models)
	}
	r.Begin(9, start.Add(4*time.Second)) // it has begun
	if got := r.Row(start.Add(5 * time.Second)); got.Seq != 2 {
		t.Errorf("sequence %d, want 2", got.Seq)
	}
}
