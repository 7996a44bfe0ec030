package inventory

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

const (
	// MaxCell is how many members a cell takes in.
	MaxCell = 64

	cellKey  = 32 // bytes: AES-256
	maxSeeds = 8
)

// assignCell finds a place for a new member: the first cell of its site that has
// room, or a new one. Functions and members without a site have none.
func (v *Inventory) assignCell(ctx context.Context, m store.Member) (string, error) {
	site := m.Facts.Labels[fleet.LabelSite]
	if m.Facts.Kind != fleet.Device || site == "" {
		return "", nil
	}
	sizes := map[string]int{}
	for _, o := range v.Members() {
		if !o.Revoked {
			sizes[o.Cell]++
		}
	}
	for n := 0; ; n++ {
		id := cellID(site, n)
		if sizes[id] >= MaxCell {
			continue
		}
		_, err := v.EnsureCell(ctx, site, n)
		return id, err
	}
}

func cellID(site string, n int) string { return fmt.Sprintf("%s/%d", site, n) }

// EnsureCell returns a site's n-th cell and makes it if it is not there.
func (v *Inventory) EnsureCell(ctx context.Context, site string, n int) (store.Cell, error) {
	id := cellID(site, n)
	v.mu.RLock()
	c, ok := v.cells[id]
	v.mu.RUnlock()
	if ok {
		return c, nil
	}
	if err := CheckLabels(fleet.Labels{fleet.LabelSite: site}); err != nil {
		return c, err
	}
	key, err := newKey(id)
	if err != nil {
		return c, err
	}
	c = store.Cell{ID: id, Site: site, Key: key}
	if err := v.store.AddCell(ctx, c); err != nil {
		return c, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.cells[id] = c
	return c, nil
}

// CellOf is what a member needs to join its cell; empty when it has none.
func (v *Inventory) CellOf(m store.Member) api.Cell {
	if m.Cell == "" {
		return api.Cell{}
	}
	v.mu.RLock()
	c := v.cells[m.Cell]
	v.mu.RUnlock()
	out := v.keysOf(c, time.Now())
	out.Seeds = v.Seeds(m.Cell, m.Facts.ID)
	return out
}

// Seeds are gossip addresses in a cell, of others than the one who asks.
func (v *Inventory) Seeds(cell string, but fleet.MemberID) []string {
	if cell == "" {
		return nil
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := slices.Clone(v.seeds[cell])
	for id, m := range v.members { // any of them will do
		if m.Cell == cell && id != but && m.GossipAddr != "" && !m.Revoked && m.Locked == "" {
			out = append(out, m.GossipAddr)
		}
		if len(out) == maxSeeds {
			break
		}
	}
	slices.Sort(out)
	return out
}

// AddSeed names an address in a cell that is there for good: the coordinator's own.
func (v *Inventory) AddSeed(cell, addr string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.seeds[cell] = append(v.seeds[cell], addr)
}

// SetGossipAddr notes where a member's cell reaches it.
func (v *Inventory) SetGossipAddr(ctx context.Context, id fleet.MemberID, addr string) error {
	addr, err := CheckAddr(addr)
	if err != nil || addr == "" {
		return err
	}
	if m, ok := v.Member(id); !ok || m.GossipAddr == addr {
		return nil
	}
	v.enrolling.Lock()
	defer v.enrolling.Unlock()
	m, ok := v.Member(id)
	if !ok || m.GossipAddr == addr {
		return nil
	}
	m.GossipAddr = addr
	if err := v.store.SaveMember(ctx, m); err != nil {
		return err
	}
	return v.put(m)
}

// CheckAddr reads IP:port; "" stays "".
func CheckAddr(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil || a.Port() == 0 || a.Addr().IsUnspecified() {
		return "", fault.Newf(fault.Invalid, "read gossip address", fmt.Sprintf("%q", s), "want IP:port")
	}
	return a.String(), nil
}
