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
	type scored struct {
		candidate
		rank  int
		score uint64
	}
	all := make([]scored, 0, len(cs))
	for _, c := range cs {
		b := append(append([]byte(c.name), 0), cell...)
		sum := sha256.Sum256(binary.BigEndian.AppendUint64(append(b, 0), uint64(hour)))
		s := scored{c, 1, binary.BigEndian.Uint64(sum[:8]) / uint64(max(c.weight, 1))}
		if c.coordinator {
			s.rank = 0
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b scored) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.score, b.score), cmp.Compare(a.name, b.name))
	})
	var out []fleet.MemberID
	for _, c := range all[:min(numRelays, len(all))] {
		out = append(out, c.name)
	}
	return out
}
