package gossip_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelfleet/modelfleet/pkg/gossip"
	"github.com/modelfleet/modelfleet/pkg/gossip/gossiptest"
)

// Everybody learns who serves frames where, and whose bucket costs money; who
// serves is proven also when it can be no relay.
func TestEverybodyKnowsWhoShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ms := cell(t, gossiptest.New(3), 4, func(i int, o *gossip.Options) {
			switch i {
			case 1:
				o.Share, o.Uplink = 7947, false
			case 2:
				o.Share, o.Metered = 9000, true
			}
		})
		defer closeAll(ms)
		want := []gossip.Member{{}, {Share: 7947}, {Share: 9000, Metered: true}, {}}
		within(t, 20*time.Second, "all know of all", func() bool {
			for _, m := range ms {
				seen := m.pool.Members()
				if len(seen) != len(want) {
					return false
				}
				for i, s := range seen {
					if s.Share != want[i].Share || s.Metered != want[i].Metered || !s.Proven {
						return false
					}
				}
			}
			return true
		})
	})
}
