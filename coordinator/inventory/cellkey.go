package inventory

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// CellGrace is how long a new cell key only decrypts, so that every member that
// lives has it before anybody encrypts by it, and then how long the one before
// still decrypts. Sooner would split a cell whose members ask for it at their own
// pace; meanwhile a device that was shut out can read, but nobody listens to it.
const CellGrace = 10 * time.Minute

func newKey(cell string) ([]byte, error) {
	key := make([]byte, cellKey)
	if _, err := rand.Read(key); err != nil {
		return nil, fault.New(fault.Internal, "make cell key", cell, err)
	}
	return key, nil
}

// rekey gives a cell a new key. The caller holds enrolling.
func (v *Inventory) rekey(ctx context.Context, id, by, reason string, now time.Time) error {
	v.mu.RLock()
	c, ok := v.cells[id]
	v.mu.RUnlock()
	if !ok {
		return nil
	}
	key, err := newKey(id)
	if err != nil {
		return err
	}
	c.Past = v.live(c, now)
	c.Key, c.Number, c.Made = key, c.Number+1, now.UTC()
	note := audit.Note{At: now, Actor: by, Action: audit.CellRekeyed, Subject: id, Reason: reason, Detail: map[string]any{"number": c.Number}}
	if err := v.store.SaveCell(ctx, c, note); err != nil {
		return err
	}
	v.mu.Lock()
	v.cells[id] = c
	v.mu.Unlock()
	v.log.Info("cell key changed", "cell", id, "number", c.Number, "why", reason)
	return nil
}

// live are the keys that a cell may still use at now, newest first: the one in
// use, those after it, and those before it until they are dropped.
func (v *Inventory) live(c store.Cell, now time.Time) []store.PastKey {
	all := append([]store.PastKey{{Key: c.Key, Made: c.Made}}, c.Past...)
	used := v.inUse(all, now)
	if now.Before(all[used].Made.Add(2 * v.grace)) {
		return all
	}
	return all[:used+1]
}

// inUse is the index of the key that encrypts at now.
func (v *Inventory) inUse(all []store.PastKey, now time.Time) int {
	for i, k := range all {
		if !now.Before(k.Made.Add(v.grace)) {
			return i
		}
	}
	return len(all) - 1
}

// keysOf is a cell's keys as members are given them.
func (v *Inventory) keysOf(c store.Cell, now time.Time) api.Cell {
	out := api.Cell{ID: c.ID, Key: c.Key, Number: c.Number}
	all := v.live(c, now)
	if len(all) == 1 {
		return out
	}
	used := v.inUse(all, now)
	if used > 0 {
		out.UseIn = fleet.Duration(c.Made.Add(v.grace).Sub(now))
		out.Old = append(out.Old, all[used].Key) // first the one in use
	}
	for i, k := range all[1:] {
		if i+1 != used {
			out.Old = append(out.Old, k.Key)
		}
	}
	out.DropIn = fleet.Duration(c.Made.Add(2 * v.grace).Sub(now))
	return out
}

// CellKeys is a cell's keys, for who is part of it without being a member.
func (v *Inventory) CellKeys(id string, now time.Time) api.Cell {
	v.mu.RLock()
	c := v.cells[id]
	v.mu.RUnlock()
	return v.keysOf(c, now)
}

// CellKey is the number of a cell's newest key.
func (v *Inventory) CellKey(id string) uint64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.cells[id].Number
}

// Revoked are the devices of a group that lost their identity and whose
// certificates others might still put up with, for the directive.
func (v *Inventory) Revoked(g fleet.Group, now time.Time) []fleet.RevokedMember {
	var out []fleet.RevokedMember
	for _, m := range v.Members() {
		until := m.Expires.Add(fleet.Grace).UTC().Truncate(time.Second)
		if m.Revoked && m.Facts.Kind == fleet.Device && m.Facts.Group == g && until.After(now) {
			out = append(out, fleet.RevokedMember{ID: m.Facts.ID, Until: until, Cell: m.Cell, Key: v.CellKey(m.Cell)})
		}
	}
	if len(out) > fleet.MaxRevoked { // those whose certificates end first are let go
		slices.SortFunc(out, func(a, b fleet.RevokedMember) int { return b.Until.Compare(a.Until) })
		v.log.Error("too many revoked members for a directive", "count", len(out), "left out", fmt.Sprint(out[fleet.MaxRevoked:]))
		out = out[:fleet.MaxRevoked]
		slices.SortFunc(out, func(a, b fleet.RevokedMember) int { return cmp.Compare(a.ID, b.ID) })
	}
	return out
}
