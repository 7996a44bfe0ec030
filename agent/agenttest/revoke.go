package agenttest

import (
	"bytes"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// Change signs the next version of the publisher's role and takes it up: members
// see it with the next pack.
func (f *Fleet) Change(c repository.Change) {
	f.t.Helper()
	draft, err := f.repo.Draft(f.t.Context(), team)
	if err != nil {
		f.t.Fatal(err)
	}
	signed, err := draft.Next(c, time.Now(), f.publisher)
	if err != nil {
		f.t.Fatal(err)
	}
	f.write([]repository.Write{signed.Write})
	adm, err := f.repo.Admit(f.t.Context(), team, time.Now())
	if err != nil {
		f.t.Fatal(err)
	}
	f.write(adm.Writes)
}

// Refresh signs the same directive anew, with what was taken up since, and returns
// the pack without giving it to anybody.
func (f *Fleet) Refresh() []byte {
	f.t.Helper()
	pub, done, err := f.repo.Refresh(time.Now())
	if err != nil || !done {
		f.t.Fatalf("refresh: done %v: %v", done, err)
	}
	f.write(pub.Writes)
	return pub.Packs[group]
}

// Keep has members serve a revoked release on where nothing else may run, in the
// directives to come.
func (f *Fleet) Keep() { f.whenRevoked = fleet.KeepRevoked }

// Revoke takes members' identities away, in the directives to come: the key of
// their cell that shuts them out has the number.
func (f *Fleet) Revoke(number uint64, ids ...fleet.MemberID) {
	for _, id := range ids {
		f.barred = append(f.barred, fleet.RevokedMember{ID: id, Until: time.Now().Add(time.Hour).UTC().Truncate(time.Second), Cell: cellID, Key: number})
	}
	slices.SortFunc(f.barred, func(a, b fleet.RevokedMember) int { return bytes.Compare([]byte(a.ID), []byte(b.ID)) })
}

const cellID = "plant/0"

// Rekey gives the cell another key, which is used after useIn; the one before is
// forgotten after twice that.
func (c *Coordinator) Rekey(useIn time.Duration) (number uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.cell.Key
	c.cell = api.Cell{
		ID: cellID, Key: bytes.Repeat([]byte{byte(c.cell.Number) + 2}, 32), Number: c.cell.Number + 1,
		Old: [][]byte{old}, UseIn: fleet.Duration(useIn), DropIn: fleet.Duration(2 * useIn),
	}
	return c.cell.Number
}

// Pin is the digest of the fleet's root.
func (f *Fleet) Pin() fleet.Digest { return f.genesis.Pin }
