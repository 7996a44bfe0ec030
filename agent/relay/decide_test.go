package relay_test

import (
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/relay"
	"github.com/modelfleet/modelfleet/pkg/gossip"
)

// Who carries what follows from the facts alone.
func TestDecide(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	ago := func(periods float64) time.Time { return now.Add(-time.Duration(periods * float64(time.Minute))) }
	for _, tc := range []struct {
		name string
		f    relay.Facts
		want relay.Duty
	}{
		{"a primary carries all, always", relay.Facts{Role: gossip.Primary, Relays: 2}, relay.All},
		{"no relay in sight", relay.Facts{Relays: 0, Started: ago(0)}, relay.Own},
		{"nothing sent yet", relay.Facts{Relays: 2}, relay.Rest},
		{"just started", relay.Facts{Relays: 2, Started: ago(2.9)}, relay.Rest},
		{"acked of late", relay.Facts{Relays: 2, Started: ago(100), Acked: ago(3)}, relay.Rest},
		{"not acked for three periods", relay.Facts{Relays: 2, Started: ago(100), Acked: ago(3.1)}, relay.Own},
		{"never acked", relay.Facts{Relays: 2, Started: ago(3.1)}, relay.Own},
		{"standby, the primary beats", relay.Facts{Role: gossip.Standby, Relays: 2, Started: ago(100), Beat: ago(3), RoleSince: ago(90)}, relay.Rest},
		{"standby, the primary is silent", relay.Facts{Role: gossip.Standby, Relays: 2, Started: ago(100), Beat: ago(3.1), RoleSince: ago(90)}, relay.All},
		{"standby since just now", relay.Facts{Role: gossip.Standby, Relays: 2, Started: ago(100), RoleSince: ago(1)}, relay.Rest},
	} {
		tc.f.Now, tc.f.Period = now, time.Minute
		if got := relay.Decide(tc.f); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}
