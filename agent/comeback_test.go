package agent_test

import (
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// A member whose copy reported under a later start is heard again as soon as it
// came back by its key: its rows are of a later epoch, without a restart.
func TestOneThatCameBackReportsInANewEpoch(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	v1 := d.fleet.Publish("1.0.0", manyFiles(2, 1, 4<<10))
	d.fleet.Direct(&v1, nil, 0)
	d.run()
	d.serves(v1, fleet.Healthy)
	newest := func() (epoch uint64) {
		for _, r := range d.coord.Rows() {
			epoch = max(epoch, r.Epoch)
		}
		return epoch
	}
	before := newest()
	d.coord.Void()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for newest() <= before {
		select {
		case <-deadline:
			t.Fatalf("no row of a later epoch than %d", before)
		case <-tick.C:
		}
	}
}
