package identity

import (
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// SetCell keeps the member's gossip cell as the coordinator tells it now: with
// another key, mostly. An older one than the member knows is let pass.
func (m *Member) SetCell(c api.Cell) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := m.id
	if c.ID != id.Cell.ID || len(c.Key) == 0 {
		return fault.Newf(fault.Invalid, "keep cell", c.ID, "the member is of cell %q", id.Cell.ID)
	}
	if c.Number < id.Cell.Number {
		return nil
	}
	id.Cell = c
	if err := m.o.save(id); err != nil {
		return err
	}
	m.id = id
	return nil
}
