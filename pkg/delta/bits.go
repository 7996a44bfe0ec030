package delta

import "encoding/binary"

// bitWriter packs bits into bytes, the first bit lowest.
type bitWriter struct {
	out []byte
	acc uint64
	n   uint
}

func (w *bitWriter) reset(out []byte) { w.out, w.acc, w.n = out, 0, 0 }

// put writes the low n bits of v, n <= 56; the others must be zero.
func (w *bitWriter) put(v uint64, n uint) {
	w.acc |= v << w.n
	w.n += n
	for w.n >= 8 {
		w.out = append(w.out, byte(w.acc))
		w.acc >>= 8
		w.n -= 8
	}
}

// close pads the last byte with zeros and returns all of them.
func (w *bitWriter) close() []byte {
	if w.n > 0 {
		w.out = append(w.out, byte(w.acc))
		w.acc, w.n = 0, 0
	}
	return w.out
}

// bitReader reads what a bitWriter wrote. Bits past the end read as zeros, and
// done tells.
type bitReader struct {
	in  []byte
	pos int // of the next byte to load
	acc uint64
	n   uint // bits in acc
}

func (r *bitReader) reset(in []byte) { *r = bitReader{in: in} }

// refill makes at least 56 bits ready to be taken.
func (r *bitReader) refill() {
	if r.pos+8 <= len(r.in) {
		r.acc |= binary.LittleEndian.Uint64(r.in[r.pos:]) << (r.n & 63)
		r.pos += int(63-r.n) >> 3
		r.n |= 56
		return
	}
	r.acc, r.n, r.pos = refillEnd(r.acc, r.n, r.pos, r.in)
}

// refillEnd is refill where fewer than eight bytes are left.
func refillEnd(acc uint64, n uint, pos int, in []byte) (uint64, uint, int) {
	for n < 56 {
		if pos < len(in) {
			acc |= uint64(in[pos]) << (n & 63)
		}
		pos++
		n += 8
	}
	return acc, n, pos
}

// take returns the next n bits of those made ready.
func (r *bitReader) take(n uint) uint64 {
	v := r.acc & (1<<(n&63) - 1)
	r.acc >>= n & 63
	r.n -= n
	return v
}

// get is refill and take, n <= 56.
func (r *bitReader) get(n uint) uint64 {
	r.refill()
	return r.take(n)
}

// used is how many bytes were begun; more than there are means that bits were
// read past the end.
func (r *bitReader) used() int { return r.pos - int(r.n/8) }

// done reports whether every byte was used and no more.
func (r *bitReader) done() bool { return r.used() == len(r.in) }
