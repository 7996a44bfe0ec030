package gossip_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelfleet/modelfleet/pkg/gossip"
	"github.com/modelfleet/modelfleet/pkg/gossip/gossiptest"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// A message that brings whoever takes it to panic is counted as malformed; those
// after it are taken.
func TestAPanicOverAMessageEndsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ms := cell(t, gossiptest.New(1), 2, func(_ int, o *gossip.Options) {
			take := o.Handlers.OnMessage
			o.Handlers.OnMessage = func(m telemetry.Message, from gossip.Identity) bool {
				if m.Row.Seq == 1 {
					panic("index out of range")
				}
				return take(m, from)
			}
		})
		defer closeAll(ms)
		within(t, 20*time.Second, "the members agree", func() bool { return agreed(ms) })
		for seq := range uint64(2) {
			if _, err := ms[0].pool.Send(ms[0].row(seq+1, 10)); err != nil {
				t.Fatal(err)
			}
		}
		within(t, 5*time.Second, "the second row", func() bool { return ms[0].total() == 10 && ms[1].total() == 10 })
		for _, m := range ms {
			if n := m.pool.Stats().Malformed; n != 1 {
				t.Errorf("%s counted %d malformed messages, want 1", m.name, n)
			}
		}
	})
}
