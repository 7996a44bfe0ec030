package inventory_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/inventory"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
)

// A revoked member's cell gets another key; others are given both until nobody
// uses the old one any more. A cell in which nobody was revoked keeps its key.
func TestARevokedMembersCellGetsAnotherKey(t *testing.T) {
	h := open(t, 9, nil)
	for i, site := range []string{"hall", "hall", "hall", "yard"} {
		must(h.enrol(t, string(rune('a'+i)), must(signer.Ephemeral())(t), fleet.Labels{"site": site}))(t)
	}
	first, yard := h.CellKeys("hall/0", now), h.CellKeys("yard/0", now)
	if first.Number != 0 || len(first.Old) > 0 || first.UseIn != 0 || first.DropIn != 0 {
		t.Fatalf("a new cell: %+v", first)
	}
	if err := h.Revoke(t.Context(), "a", "ann", "stolen", now); err != nil {
		t.Fatal(err)
	}
	at := func(d time.Duration) api.Cell { return h.CellKeys("hall/0", now.Add(d)) }
	const g = inventory.CellGrace
	second := at(0)
	if second.Number != 1 || bytes.Equal(second.Key, first.Key) || len(second.Old) != 1 || !bytes.Equal(second.Old[0], first.Key) ||
		second.UseIn.D() != g || second.DropIn.D() != 2*g {
		t.Errorf("after the first: %+v", second)
	}
	if c := at(g); c.UseIn != 0 || len(c.Old) != 1 || c.DropIn.D() != g {
		t.Errorf("when the new one is used: %+v", c)
	}
	if c := at(2 * g); len(c.Old) != 0 || c.DropIn != 0 || !bytes.Equal(c.Key, second.Key) {
		t.Errorf("when the old one is forgotten: %+v", c)
	}
	if c := h.CellKeys("yard/0", now); c.Number != 0 || !bytes.Equal(c.Key, yard.Key) {
		t.Errorf("the other cell: %+v", c)
	}
	// A second one, before the first key is in use: what encrypts stays what it was.
	if err := h.Revoke(t.Context(), "b", "ann", "stolen too", now.Add(g/2)); err != nil {
		t.Fatal(err)
	}
	if c := at(g / 2); c.Number != 2 || len(c.Old) != 2 || !bytes.Equal(c.Old[0], first.Key) || !bytes.Equal(c.Old[1], second.Key) {
		t.Errorf("during the second: %+v", c)
	}
	if c := at(g); !bytes.Equal(c.Old[0], second.Key) || c.UseIn.D() != g/2 {
		t.Errorf("when the first is due and the second is not: %+v", c)
	}
	if c := at(3 * g); len(c.Old) != 0 {
		t.Errorf("at the end: %+v", c)
	}
	again := reopen(t, h.store, h.ca)
	if c := again.CellKeys("hall/0", now.Add(g/2)); c.Number != 2 || len(c.Old) != 2 {
		t.Errorf("after a restart: %+v", c)
	}
	got := again.Revoked(fleet.DefaultGroup, now)
	if len(got) != 2 || got[0].ID != "a" || got[1].ID != "b" || got[0].Cell != "hall/0" || got[0].Key != 2 {
		t.Errorf("for the directive: %+v", got)
	}
	if late := again.Revoked(fleet.DefaultGroup, got[1].Until.Add(time.Second)); len(late) != 0 {
		t.Errorf("when the time alone refuses them: %+v", late)
	}
}
