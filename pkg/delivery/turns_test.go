package delivery

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// A member installs releases for years: nothing may stay in memory of each.
func TestTurnsAreTakenOneByOneAndForgotten(t *testing.T) {
	t.Parallel()
	var q turns
	var wg sync.WaitGroup
	var inside [4]atomic.Int32
	for i := range 400 {
		key := i % len(inside)
		wg.Go(func() {
			done, err := q.take(t.Context(), fleet.DigestOf([]byte{byte(key)}))
			if err != nil {
				t.Error(err)
				return
			}
			defer done()
			if n := inside[key].Add(1); n != 1 {
				t.Errorf("%d have the turn at once", n)
			}
			inside[key].Add(-1)
		})
	}
	wg.Wait()

	key := fleet.DigestOf([]byte("busy"))
	done, err := q.take(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := q.take(gone, key); !errors.Is(err, context.Canceled) {
		t.Errorf("who went away is told %v", err)
	}
	if len(q.lines) != 1 {
		t.Errorf("%d lines while one has its turn", len(q.lines))
	}
	done()
	if len(q.lines) != 0 {
		t.Errorf("%d lines are kept of what nobody wants", len(q.lines))
	}
}
