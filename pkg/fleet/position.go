package fleet

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Position is where a member stands in the order of one rollout: the first 64
// bits of SHA-256(rollout id, NUL, member id). Salting by the rollout makes
// each rollout begin with other members. The largest value is never taken, so
// that [Everyone] is above every position.
func Position(r RolloutID, m MemberID) uint64 {
	buf := make([]byte, 0, len(r)+1+len(m))
	buf = append(append(append(buf, r...), 0), m...)
	sum := sha256.Sum256(buf)
	return min(binary.BigEndian.Uint64(sum[:8]), math.MaxUint64-1)
}

// Bound divides members: those whose position is below it are exposed.
// Its text form is 16 lower-case hex digits, since JSON numbers lose bits.
type Bound uint64

// The bounds that take nobody and everybody.
const (
	Nobody   Bound = 0
	Everyone Bound = math.MaxUint64
)

// Covers reports whether a member at position p is exposed.
func (b Bound) Covers(p uint64) bool { return p < uint64(b) }

// MarshalText is the bound in hex.
func (b Bound) MarshalText() ([]byte, error) {
	var raw [8]byte
	binary.BigEndian.PutUint64(raw[:], uint64(b))
	return hex.AppendEncode(nil, raw[:]), nil
}

// UnmarshalText is the inverse of [Bound.MarshalText].
func (b *Bound) UnmarshalText(text []byte) error {
	var raw [8]byte
	if len(text) != 16 {
		return fault.Newf(fault.Invalid, "read bound", string(text), "want 16 hex digits")
	}
	if _, err := hex.Decode(raw[:], text); err != nil {
		return fault.New(fault.Invalid, "read bound", string(text), err)
	}
	*b = Bound(binary.BigEndian.Uint64(raw[:]))
	return nil
}
