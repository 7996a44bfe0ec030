package pack

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/modelfleet/modelfleet/infra/bench/figure"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// warm is what the next pack costs a member that believed one, when only the
// timestamp is new, and when a publisher published and the directive was signed
// anew; and what the member's memory of a pack takes.
func (w *world) warm(ctx context.Context, name string, rounds int, s shape, work string) ([]figure.Figure, error) {
	later := w.now.Add(15 * time.Hour) // a timestamp is due, and the first is still good
	stamp, signed, err := w.repo.Stamp(later)
	if err != nil || !signed {
		return nil, fmt.Errorf("sign a timestamp: %v, %w", signed, err)
	}
	if _, err := w.publish(ctx, w.repo, team(0), w.publisher, s.releases, 1, work); err != nil {
		return nil, err
	}
	anew, err := w.repo.Sign(w.directive, later)
	if err != nil {
		return nil, err
	}
	st, err := trust.NewState(w.genesis.Root, w.genesis.Pin)
	if err != nil {
		return nil, err
	}
	facts := fleet.Facts{ID: "m", Kind: fleet.Device, Group: fleet.DefaultGroup, Agent: "1.0.0"}
	// In turn with the first pack, each differs from the one before it just so.
	alternating := func(other []byte) func() error {
		var v trust.Verifier
		packs, turn := [2][]byte{w.pack, other}, 0
		return func() error {
			turn++
			_, _, err := v.Verify(packs[turn%2], st, facts, later)
			return err
		}
	}
	all, err := interleaved(rounds, alternating(stamp.Packs[fleet.DefaultGroup]), alternating(anew.Packs[fleet.DefaultGroup]))
	if err != nil {
		return nil, err
	}
	held, err := w.held(st, facts, later)
	if err != nil {
		return nil, err
	}
	return []figure.Figure{
		{Name: name + ", warm, only the timestamp is new", Value: figure.Median(all[0].ns), Unit: "ns"},
		{Name: name + ", warm, only the timestamp is new, allocations", Value: figure.Median(all[0].allocs), Unit: "allocs"},
		{Name: name + ", warm, a publisher and the directive are new", Value: figure.Median(all[1].ns), Unit: "ns"},
		{Name: name + ", warm, a publisher and the directive are new, allocations", Value: figure.Median(all[1].allocs), Unit: "allocs"},
		{Name: name + ", memory of a pack beside what was believed", Value: held, Unit: "bytes"},
	}, nil
}

// held is what verifiers keep of a pack beyond what was believed of it, which a
// member keeps anyway: the mean of several.
func (w *world) held(st trust.State, facts fleet.Facts, now time.Time) (float64, error) {
	const n = 16
	verifiers, believed := make([]trust.Verifier, n), make([]trust.Trusted, n)
	for i := range verifiers {
		var err error
		if believed[i], _, err = verifiers[i].Verify(w.pack, st, facts, now); err != nil {
			return 0, err
		}
	}
	with := heap()
	clear(verifiers)
	without := heap()
	runtime.KeepAlive(verifiers)
	runtime.KeepAlive(believed)
	return max(0, float64(with)-float64(without)) / n, nil
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // what has a finalizer goes in the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
