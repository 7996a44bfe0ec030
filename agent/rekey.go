package agent

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/gossip"
)

// A cell's key is changed when a member that knew it is revoked. The directive
// names the number that members of the cell must have, and so does every answer to
// rows: who has an older one asks the coordinator, which tells it to nobody else. A
// device that was away meanwhile finds itself alone in its cell, so it speaks to
// the coordinator itself, and hears of it there.

// askSpread is over how long the members of a cell spread their asking.
const askSpread = 10 * time.Second

// needCellKey has the newest key asked for when the one here is older.
func (a *agent) needCellKey(number uint64) {
	if number <= a.me.Identity().Cell.Number {
		return
	}
	select {
	case a.rekey <- number:
	default: // it is being asked for
	}
}

// keepCellKey asks for changed keys until ctx ends.
func (a *agent) keepCellKey(ctx context.Context) {
	for {
		var number uint64
		select {
		case <-ctx.Done():
			return
		case number = <-a.rekey:
		}
		for try := 0; number > a.me.Identity().Cell.Number; try++ {
			wait := rand.N(min(askSpread, a.o.Report) << min(try, 6))
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			err := a.askCellKey(ctx)
			if err == nil {
				break
			}
			a.o.Logger.Warn("cell key not had", "number", number, "kind", fault.KindOf(err).String(), "err", err)
			if fault.Is(err, fault.Denied) {
				break // this very member was shut out
			}
		}
	}
}

func (a *agent) askCellKey(ctx context.Context) error {
	cell, err := a.me.Client().Cell(ctx)
	if err != nil {
		return err
	}
	if err := a.me.SetCell(cell); err != nil {
		return err
	}
	return a.turnCellKey(cell)
}

// turnCellKey has the pool take over the keys of a cell.
func (a *agent) turnCellKey(cell api.Cell) error {
	p := a.pool.Load()
	if p == nil || len(cell.Key) == 0 {
		return nil
	}
	a.o.Logger.Info("cell key known", "cell", cell.ID, "number", cell.Number, "used in", cell.UseIn.String())
	return p.Rekey(gossip.Keys{New: cell.Key, Old: cell.Old, UseIn: cell.UseIn.D(), DropIn: cell.DropIn.D()})
}

// resumeCellKey goes on with a change of keys that a restart interrupted. The pool
// began with the newest one, which everyone had time to ask for.
func (a *agent) resumeCellKey() {
	cell := a.me.Identity().Cell
	if len(cell.Old) == 0 {
		return
	}
	cell.UseIn = 0
	if err := a.turnCellKey(cell); err != nil {
		a.o.Logger.Warn("cell key not taken over", "err", err)
	}
}
