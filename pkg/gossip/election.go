package gossip

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// numRelays is how many relays a cell has: a primary and a standby.
const numRelays = 2

// candidate is a member that could be a relay.
type candidate struct {
	name        fleet.MemberID
	weight      uint8
	coordinator bool
}

// elect picks the relays, primary first: coordinators before all others, then
// by a hash of member, cell and hour that a weight divides, lowest first. Members
// that see the same candidates elect the same; the hour passes the work around
// and bounds what one relay sees.
func elect(cell string, hour int64, cs []candidate) []fleet.MemberID {
	score := func(c candidate) uint64 {
		b := append([]byte(c.name), 0)
		b = append(append(b, cell...), 0)
		sum := sha256.Sum256(binary.BigEndian.AppendUint64(b, uint64(hour)))
		return binary.BigEndian.Uint64(sum[:8]) / uint64(max(c.weight, 1))
	}
	rank := func(c candidate) int {
		if c.coordinator {
			return 0
		}
		return 1
	}
	sorted := slices.Clone(cs)
	slices.SortFunc(sorted, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(score(a), score(b)), cmp.Compare(a.name, b.name))
	})
	var out []fleet.MemberID
	for _, c := range sorted[:min(numRelays, len(sorted))] {
		out = append(out, c.name)
	}
	return out
}
