package share

import (
	"bytes"
	"crypto/sha256"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// owners is how many members are asked for a frame before the bucket.
const owners = 3

// top lists the n members of highest weight for a frame, the owner first. The
// order of members does not matter, and taking one away moves no frame but its
// own.
func top(frame fleet.Digest, members []fleet.MemberID, n int) []fleet.MemberID {
	type scored struct {
		member fleet.MemberID
		weight [sha256.Size]byte
	}
	best := make([]scored, 0, n+1)
	for _, m := range members {
		s := scored{m, weight(frame, m)}
		i := len(best)
		for i > 0 && bytes.Compare(best[i-1].weight[:], s.weight[:]) < 0 {
			i--
		}
		if i == n {
			continue
		}
		best = append(best, scored{})
		copy(best[i+1:], best[i:])
		best[i] = s
		best = best[:min(len(best), n)]
	}
	line := make([]fleet.MemberID, len(best))
	for i, s := range best {
		line[i] = s.member
	}
	return line
}

// weight is how much a frame is a member's: SHA-256 of the frame's digest and
// the member's name, read as a number.
func weight(frame fleet.Digest, m fleet.MemberID) [sha256.Size]byte {
	var b [sha256.Size + 64]byte // a name has at most 63 bytes: nothing is allocated
	return sha256.Sum256(append(append(b[:0], frame[:]...), m...))
}
