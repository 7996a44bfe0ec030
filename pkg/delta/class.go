package delta

import (
	"encoding/binary"
	"math/bits"
)

// Differences of elements wider than a byte are coded as classes: the zigzag
// difference itself below 8, else its highest bit and the two after it, with
// the bits below written as they are. An element that changed its sign, or by
// more than about two octaves, is replaced instead: its key is coded and its
// other bits are written as they are.
const (
	exact   = 8
	replace = 255 // the symbol of a replaced element
)

// classOf returns the class of a zigzag difference and how many bits follow.
func classOf(z uint64) (sym uint8, extra uint) {
	if z < exact {
		return uint8(z), 0
	}
	n := uint(bits.Len64(z))
	return uint8(exact + 4*(n-4) + uint(z>>(n-3))&3), n - 3
}

// classes is the inverse of classOf: the least difference of a class and how
// many bits follow.
type classes struct {
	low   [256]uint64
	extra [256]uint8
}

// newClasses returns the classes of elements of the given width. Single bytes
// have no classes: their symbol is the zigzag difference.
func newClasses(width int) *classes {
	c := new(classes)
	for s := range 256 {
		low, extra := uint64(s), uint(0)
		if s >= exact && width > 1 {
			extra = uint(s-exact)/4 + 1
			low = uint64(4+(s-exact)&3) << (extra & 63)
			if extra > min(uint(8*width)-5, 56) {
				low, extra = 0, 0
			}
		}
		c.low[s], c.extra[s] = low, uint8(extra)
	}
	return c
}

// load reads the little-endian element at the front of b.
func load(b []byte, width int) uint64 {
	switch width {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(binary.LittleEndian.Uint16(b))
	case 4:
		return uint64(binary.LittleEndian.Uint32(b))
	default:
		return binary.LittleEndian.Uint64(b)
	}
}

// store is the inverse of load.
func store(b []byte, width int, v uint64) {
	switch width {
	case 1:
		b[0] = byte(v)
	case 2:
		binary.LittleEndian.PutUint16(b, uint16(v))
	case 4:
		binary.LittleEndian.PutUint32(b, uint32(v))
	default:
		binary.LittleEndian.PutUint64(b, v)
	}
}

// keyOf is what stands for an element's magnitude: the eight bits after the
// sign, of a bf16 or fp32 its exponent; of eight bytes the low eight bits of
// the exponent; of a single byte the byte itself.
func keyOf(v uint64, width int) uint8 {
	switch width {
	case 1:
		return uint8(v)
	case 2:
		return uint8(v >> 7)
	case 4:
		return uint8(v >> 23)
	default:
		return uint8(v >> 52)
	}
}

// unkey puts an element together from its key and its other bits.
func unkey(key uint8, rest uint64, width int) uint64 {
	at := keyAt(width)
	low := uint64(1)<<at - 1
	return rest&low | uint64(key)<<at | rest&^low<<8
}

// keyAt is where an element's key begins.
func keyAt(width int) uint {
	switch width {
	case 1:
		return 0
	case 2:
		return 7
	case 4:
		return 23
	default:
		return 52
	}
}

// restOf is an element without its key, 8*(width-1) bits.
func restOf(v uint64, width int) uint64 {
	at := keyAt(width)
	low := uint64(1)<<at - 1
	return v&low | v>>8&^low
}

// difference is the zigzag of the difference of v to base, its sign lowest.
// Flip is all ones if it is to be negated, and zero if not.
func difference(v, base uint64, width int, flip uint64) uint64 {
	shift := 64 - 8*uint(width)
	d := int64(((v-base)^flip-flip)<<shift) >> shift
	return uint64(d<<1^d>>63) << shift >> shift
}

// unzig undoes the zigzag of a difference.
func unzig(z uint64) uint64 { return z>>1 ^ -(z & 1) }

// signOf is all ones for an element whose highest bit is set. Of a single byte,
// which is an integer, it is zero: bytes grow in one direction.
func signOf(v uint64, width int) uint64 {
	if width == 1 {
		return 0
	}
	return -(v >> (8*uint(width) - 1))
}
