package delta

import "encoding/binary"

// Entropy coding: four interleaved range coders (rANS) of 64-bit state over
// 12-bit probabilities. A coder takes its symbols from any of up to maxTables
// tables, so one stream serves every context. Coders give up 32 bits at a time
// and only after a pair of symbols, which keeps the decoder's loop free of
// unpredictable branches.
const (
	probBits  = 12
	probTotal = 1 << probBits
	maxTables = 64
	groupSize = 16 // symbols decoded at a time, 4 by each coder
	ransLow   = 1 << 32
	ransHead  = 4 * 8 // the coders' first states, before the words
)

// slots is what a decoder looks up: by table and the low bits of a state, the
// symbol (bits 0-7), the distance to the symbol's first slot (8-19) and its
// frequency less one (20-31).
type slots [maxTables * probTotal]uint32

// ransReader decodes symbols. The words it has not got read as zeros; done
// tells whether that happened.
type ransReader struct {
	x0, x1, x2, x3 uint64
	in             []byte // words not yet read, and what follows them
	slots          *slots
	over           int // bytes of padding in in
	pad            [64]byte
}

func (r *ransReader) open(in []byte, s *slots) bool {
	if len(in) < ransHead {
		return false
	}
	r.x0 = binary.LittleEndian.Uint64(in)
	r.x1 = binary.LittleEndian.Uint64(in[8:])
	r.x2 = binary.LittleEndian.Uint64(in[16:])
	r.x3 = binary.LittleEndian.Uint64(in[24:])
	r.in, r.slots, r.over = in[ransHead:], s, 0
	return true
}

// done reports whether the stream ended exactly where the encoder began it.
func (r *ransReader) done() bool {
	return len(r.in) == r.over && r.x0 == ransLow && r.x1 == ransLow && r.x2 == ransLow && r.x3 == ransLow
}

// refill makes sure that 32 bytes can be read.
func (r *ransReader) refill() {
	rest := min(len(r.in), len(r.pad)/2) - min(r.over, len(r.in))
	if rest > 0 {
		copy(r.pad[:], r.in[:rest])
	} else {
		rest = 0
	}
	clear(r.pad[rest:])
	r.in, r.over = r.pad[:], len(r.pad)-rest
}

// one decodes a symbol with the first coder.
func (r *ransReader) one(table uint8) uint8 {
	if len(r.in) < 32 {
		r.refill()
	}
	x := r.x0
	e := r.slots[uint64(table&(maxTables-1))<<probBits|x&(probTotal-1)]
	x = uint64(e>>20+1)*(x>>probBits) + uint64(e>>8&(probTotal-1))
	if x < ransLow {
		x = x<<32 | uint64(binary.LittleEndian.Uint32(r.in))
		r.in = r.in[4:]
	}
	r.x0 = x
	return uint8(e)
}

// group decodes 16 symbols, the i-th with table t[i] by coder i mod 4.
func (r *ransReader) group(sym, t *[groupSize]uint8) {
	if len(r.in) < 32 {
		r.refill()
	}
	x0, x1, x2, x3, s, in := r.x0, r.x1, r.x2, r.x3, r.slots, r.in
	for i := 0; i < groupSize; i += 8 {
		t, y := (*[8]uint8)(t[i:]), (*[8]uint8)(sym[i:])
		e0 := s[uint64(t[0]&(maxTables-1))<<probBits|x0&(probTotal-1)]
		e1 := s[uint64(t[1]&(maxTables-1))<<probBits|x1&(probTotal-1)]
		e2 := s[uint64(t[2]&(maxTables-1))<<probBits|x2&(probTotal-1)]
		e3 := s[uint64(t[3]&(maxTables-1))<<probBits|x3&(probTotal-1)]
		x0 = uint64(e0>>20+1)*(x0>>probBits) + uint64(e0>>8&(probTotal-1))
		x1 = uint64(e1>>20+1)*(x1>>probBits) + uint64(e1>>8&(probTotal-1))
		x2 = uint64(e2>>20+1)*(x2>>probBits) + uint64(e2>>8&(probTotal-1))
		x3 = uint64(e3>>20+1)*(x3>>probBits) + uint64(e3>>8&(probTotal-1))
		y[0], y[1], y[2], y[3] = uint8(e0), uint8(e1), uint8(e2), uint8(e3)
		e0 = s[uint64(t[4]&(maxTables-1))<<probBits|x0&(probTotal-1)]
		e1 = s[uint64(t[5]&(maxTables-1))<<probBits|x1&(probTotal-1)]
		e2 = s[uint64(t[6]&(maxTables-1))<<probBits|x2&(probTotal-1)]
		e3 = s[uint64(t[7]&(maxTables-1))<<probBits|x3&(probTotal-1)]
		x0 = uint64(e0>>20+1)*(x0>>probBits) + uint64(e0>>8&(probTotal-1))
		x1 = uint64(e1>>20+1)*(x1>>probBits) + uint64(e1>>8&(probTotal-1))
		x2 = uint64(e2>>20+1)*(x2>>probBits) + uint64(e2>>8&(probTotal-1))
		x3 = uint64(e3>>20+1)*(x3>>probBits) + uint64(e3>>8&(probTotal-1))
		y[4], y[5], y[6], y[7] = uint8(e0), uint8(e1), uint8(e2), uint8(e3)
		if x0 < ransLow {
			x0 = x0<<32 | uint64(binary.LittleEndian.Uint32(in))
			in = in[4:]
		}
		if x1 < ransLow {
			x1 = x1<<32 | uint64(binary.LittleEndian.Uint32(in))
			in = in[4:]
		}
		if x2 < ransLow {
			x2 = x2<<32 | uint64(binary.LittleEndian.Uint32(in))
			in = in[4:]
		}
		if x3 < ransLow {
			x3 = x3<<32 | uint64(binary.LittleEndian.Uint32(in))
			in = in[4:]
		}
	}
	r.x0, r.x1, r.x2, r.x3, r.in = x0, x1, x2, x3, in
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
	for i, s := range sym {
		w.ops = append(w.ops, uint16(table[i])<<8|uint16(s))
	}
	w.shape = append(w.shape, groupSize)
}

// write appends the stream of all recorded symbols to dst.
func (w *ransWriter) write(dst []byte, tables []table) []byte {
	x := [4]uint64{ransLow, ransLow, ransLow, ransLow}
	put := func(lane int, op uint16) {
		r := &tables[op>>8].sym[op&0xff]
		f := uint64(r.freq)
		x[lane] = x[lane]/f<<probBits + x[lane]%f + uint64(r.start)
	}
	room := func(lane int, spare uint, f uint64) {
		if x[lane]>>spare >= f {
			w.words = append(w.words, uint32(x[lane]))
			x[lane] >>= 32
		}
	}
	freq := func(op uint16) uint64 { return uint64(tables[op>>8].sym[op&0xff].freq) }
	ops := w.ops
	for i := len(w.shape) - 1; i >= 0; i-- {
		if w.shape[i] == 1 {
			op := ops[len(ops)-1]
			ops = ops[:len(ops)-1]
			room(0, 64-probBits, freq(op))
			put(0, op)
			continue
		}
		for range 2 {
			g := ops[len(ops)-8:]
			ops = ops[:len(ops)-8]
			for l := 3; l >= 0; l-- {
				room(l, 64-2*probBits, freq(g[l])*freq(g[l+4]))
			}
			for l := 7; l >= 0; l-- {
				put(l&3, g[l])
			}
		}
	}
	for _, v := range x {
		dst = binary.LittleEndian.AppendUint64(dst, v)
	}
	for i := len(w.words) - 1; i >= 0; i-- {
		dst = binary.LittleEndian.AppendUint32(dst, w.words[i])
	}
	return dst
}
