package delta

import "math/bits"

// blockSize is how many plain bytes one block of a frame holds if its head
// does not say otherwise; the last block of a frame may hold fewer.
const blockSize = 1 << 20

// partSize divides the length of a block whose head says it: small blocks with
// many tables would cost a decoder more time than their bytes are worth.
const partSize = 4 << 10

// A mode is how a block is packed.
type mode uint8

const (
	modeRaw    mode = iota // the plain bytes
	modeCopy               // nothing: the block equals its base
	modeSelf               // elements without a base
	modeDiff               // elements as differences to the base's
	modeStride             // quantised blocks as differences to the base's
	modePart   mode = 7    // no mode: a plain length comes before the head
)

func (m mode) String() string {
	switch m {
	case modeRaw:
		return "RAW"
	case modeCopy:
		return "COPY"
	case modeSelf:
		return "SELF"
	case modeDiff:
		return "DELTA"
	case modeStride:
		return "STRIDE"
	default:
		return "unknown"
	}
}

// widths are the element widths the codec knows, in bytes.
var widths = [...]int{1, 2, 4, 8}

// A head is what the first bytes of a block say: mode in the highest three
// bits, then log2 of the width in two, then the phase. In STRIDE the low five
// bits are the number of the layout, and the phase is a byte of its own. The
// payload's length follows in three bytes, but for RAW and COPY.
type head struct {
	mode   mode
	width  int // of an element: 1, 2, 4 or 8 bytes
	layout int // of quantised blocks
	phase  int // where the first element or quantised block begins
	plain  int // length of the block
	packed int // length of its payload

	// Of DELTA, for the encoder alone:
	limit    uint // bits of the greatest difference
	directed bool
}

// append writes the head, in a frame of which left plain bytes are left.
func (h head) append(dst []byte, left int) []byte {
	if h.plain != min(left, blockSize) {
		dst = append(dst, byte(modePart)<<5, byte(h.plain), byte(h.plain>>8), byte(h.plain>>16))
	}
	b := byte(h.mode) << 5
	if h.mode == modeRaw || h.mode == modeCopy {
		return append(dst, b)
	}
	if h.mode == modeStride {
		dst = append(dst, b|byte(h.layout), byte(h.phase))
	} else {
		dst = append(dst, b|byte(bits.TrailingZeros(uint(h.width)))<<3|byte(h.phase))
	}
	return append(dst, byte(h.packed), byte(h.packed>>8), byte(h.packed>>16))
}

// size is the length of head and payload in the packed frame, for a block that
// needs no length of its own.
func (h head) size() int {
	switch h.mode {
	case modeRaw, modeCopy:
		return 1 + h.packed
	case modeStride:
		return 5 + h.packed
	default:
		return 4 + h.packed
	}
}

// readHead is the inverse of append; it returns what follows the head, of
// which the payload is there in full.
func readHead(in []byte, left int, based bool) (head, []byte, bool) {
	h := head{plain: min(left, blockSize)}
	if len(in) > 4 && in[0] == byte(modePart)<<5 {
		h.plain = int(in[1]) | int(in[2])<<8 | int(in[3])<<16
		if h.plain == 0 || h.plain%partSize != 0 || h.plain > min(left, blockSize) {
			return h, nil, false
		}
		in = in[4:]
	}
	if len(in) == 0 {
		return h, nil, false
	}
	b := in[0]
	h.mode, h.width, h.phase = mode(b>>5), 1<<(b>>3&3), int(b&7)
	in = in[1:]
	switch h.mode {
	case modeRaw, modeCopy:
		if h.mode == modeRaw {
			h.packed = h.plain
		}
		if b&0x1f != 0 || h.mode == modeCopy && !based {
			return h, nil, false
		}
	case modeSelf, modeDiff:
		if len(in) < 3 || h.phase >= h.width || h.mode == modeDiff && !based {
			return h, nil, false
		}
		h.packed = int(in[0]) | int(in[1])<<8 | int(in[2])<<16
		in = in[3:]
	case modeStride:
		h.layout = int(b & 31)
		if len(in) < 4 || h.layout >= len(layouts) || int(in[0]) >= layouts[h.layout].period || !based {
			return h, nil, false
		}
		h.phase = int(in[0])
		h.packed = int(in[1]) | int(in[2])<<8 | int(in[3])<<16
		in = in[4:]
	default:
		return h, nil, false
	}
	return h, in, h.packed <= len(in)
}

// whole is where in the plain block the whole groups of elements, or the whole
// quantised blocks, lie.
func (h head) whole() (from, to int) {
	step := groupSize * h.width
	if h.mode == modeStride {
		step = layouts[h.layout].period
	}
	from = min(h.phase, h.plain)
	return from, h.plain - (h.plain-from)%step
}
