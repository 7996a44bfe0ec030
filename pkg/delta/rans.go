package delta

import (
	"encoding/binary"
	"slices"
)

// Entropy coding: four interleaved range coders (rANS) of 64-bit state over
// 11-bit probabilities. Every symbol may be of another table, so one stream
// serves all contexts. Coders take 32 bits at a time and only after a pair of
// symbols.
const (
	probBits  = 11
	probTotal = 1 << probBits
	maxTables = 64
	groupSize = 16 // symbols decoded at a time, 4 by each coder
	ransLow   = 1 << 32
	ransHead  = 4 * 8 // the coders' first states, before the words
)

// slots is a table as the decoder uses it: by the low bits of a state, the
// symbol (bits 0-7), the distance to the symbol's first slot (8-19) and its
// frequency (20-31).
type slots [probTotal]uint32

// next is the state after decoding the symbol of slot e in state x.
func next(x uint64, e uint32) uint64 {
	return uint64(e>>20)*(x>>probBits) + uint64(e>>8&(probTotal-1))
}

// ransReader decodes symbols. Words past the end read as zeros; done tells
// whether that happened.
type ransReader struct {
	x0, x1, x2, x3 uint64
	in             []byte // words not yet read
	over           int    // how many bytes at the end of in are not of the stream
	pad            [64]byte
}

func (r *ransReader) open(in []byte) bool {
	if len(in) < ransHead {
		return false
	}
	r.x0 = binary.LittleEndian.Uint64(in)
	r.x1 = binary.LittleEndian.Uint64(in[8:])
	r.x2 = binary.LittleEndian.Uint64(in[16:])
	r.x3 = binary.LittleEndian.Uint64(in[24:])
	r.in, r.over = in[ransHead:], 0
	return true
}

// done reports whether the stream ended exactly where the encoder began it.
func (r *ransReader) done() bool {
	return len(r.in) == r.over && r.x0 == ransLow && r.x1 == ransLow && r.x2 == ransLow && r.x3 == ransLow
}

// refill makes sure that 32 bytes can be read.
func (r *ransReader) refill() {
	rest := copy(r.pad[:32], r.in[:max(len(r.in)-r.over, 0)])
	clear(r.pad[rest:])
	r.in, r.over = r.pad[:], len(r.pad)-rest
}

// one decodes a symbol with the first coder.
func (r *ransReader) one(t *slots) uint8 {
	if len(r.in) < 32 {
		r.refill()
	}
	e := t[r.x0&(probTotal-1)]
	x := next(r.x0, e)
	if x < ransLow {
		x = x<<32 | uint64(binary.LittleEndian.Uint32(r.in))
		r.in = r.in[4:]
	}
	r.x0 = x
	return uint8(e)
}

// group decodes 16 symbols, the i-th with table t[i] by coder i mod 4.
func (r *ransReader) group(sym *[groupSize]uint8, t *[groupSize]*slots) {
	if len(r.in) < 32 {
		r.refill()
	}
	x0, x1, x2, x3, in, at := r.x0, r.x1, r.x2, r.x3, r.in, 0
	for i := 0; i < groupSize; i += 8 {
		t, y := (*[8]*slots)(t[i:]), (*[8]uint8)(sym[i:])
		e := t[0][x0&(probTotal-1)]
		y[0], x0 = uint8(e), next(x0, e)
		e = t[1][x1&(probTotal-1)]
		y[1], x1 = uint8(e), next(x1, e)
		e = t[2][x2&(probTotal-1)]
		y[2], x2 = uint8(e), next(x2, e)
		e = t[3][x3&(probTotal-1)]
		y[3], x3 = uint8(e), next(x3, e)
		e = t[4][x0&(probTotal-1)]
		y[4], x0 = uint8(e), next(x0, e)
		e = t[5][x1&(probTotal-1)]
		y[5], x1 = uint8(e), next(x1, e)
		e = t[6][x2&(probTotal-1)]
		y[6], x2 = uint8(e), next(x2, e)
		e = t[7][x3&(probTotal-1)]
		y[7], x3 = uint8(e), next(x3, e)
		if x0 < ransLow {
			x0 = x0<<32 | uint64(binary.LittleEndian.Uint32(in[at:]))
			at += 4
		}
		if x1 < ransLow {
			x1 = x1<<32 | uint64(binary.LittleEndian.Uint32(in[at:]))
			at += 4
		}
		if x2 < ransLow {
			x2 = x2<<32 | uint64(binary.LittleEndian.Uint32(in[at:]))
			at += 4
		}
		if x3 < ransLow {
			x3 = x3<<32 | uint64(binary.LittleEndian.Uint32(in[at:]))
			at += 4
		}
	}
	r.x0, r.x1, r.x2, r.x3, r.in = x0, x1, x2, x3, in[at:]
}

// ransWriter records symbols and writes them all at the end, last one first.
type ransWriter struct {
	ops   []uint16 // table<<8 | symbol
	shape []uint8  // operations in order: 1 or groupSize symbols
	words []uint32
}

func (w *ransWriter) reset() { w.ops, w.shape, w.words = w.ops[:0], w.shape[:0], w.words[:0] }

// one records a symbol for [ransReader.one].
func (w *ransWriter) one(table, sym uint8) {
	w.ops = append(w.ops, uint16(table)<<8|uint16(sym))
	w.shape = append(w.shape, 1)
}

// group records symbols for [ransReader.group].
func (w *ransWriter) group(sym, table *[groupSize]uint8) {
	n := len(w.ops)
	w.ops = slices.Grow(w.ops, groupSize)[:n+groupSize]
	ops := (*[groupSize]uint16)(w.ops[n:])
	for i, s := range sym {
		ops[i] = uint16(table[i])<<8 | uint16(s)
	}
	w.shape = append(w.shape, groupSize)
}

// write appends the stream of all recorded symbols to dst.
func (w *ransWriter) write(dst []byte, tables []table) []byte {
	x := [4]uint64{ransLow, ransLow, ransLow, ransLow}
	ops, words := w.ops, w.words
	of := func(op uint16) *span { return &tables[op>>8].sym[op&0xff] }
	for i := len(w.shape) - 1; i >= 0; i-- {
		if w.shape[i] == 1 {
			s := of(ops[len(ops)-1])
			ops = ops[:len(ops)-1]
			if x[0]>>(64-probBits) >= uint64(s.freq) {
				words = append(words, uint32(x[0]))
				x[0] >>= 32
			}
			x[0] = s.push(x[0])
			continue
		}
		for range 2 {
			g := (*[8]uint16)(ops[len(ops)-8:])
			ops = ops[:len(ops)-8]
			for l := 3; l >= 0; l-- {
				first, second, v := of(g[l]), of(g[l+4]), x[l]
				if v>>(64-2*probBits) >= uint64(first.freq)*uint64(second.freq) {
					words = append(words, uint32(v))
					v >>= 32
				}
				x[l] = first.push(second.push(v))
			}
		}
	}
	for _, v := range x {
		dst = binary.LittleEndian.AppendUint64(dst, v)
	}
	for _, v := range slices.Backward(words) {
		dst = binary.LittleEndian.AppendUint32(dst, v)
	}
	w.words = words
	return dst
}
