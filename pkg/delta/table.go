package delta

import (
	"math"
	"math/bits"
)

// A table is a distribution of symbols in parts of probTotal, as the coder
// uses it and the block's header carries it.
type table struct {
	sym [256]span
}

// span is a symbol's share of the slots. A symbol that does not occur has none.
type span struct {
	start, freq uint16
	inverse     uint64 // of freq, in parts of 2^64; an encoder's table has it
}

// push is the state from which a decoder takes the span's symbol and is left with
// x: x/freq*probTotal + x%freq + start, without a division and without a branch.
func (s *span) push(x uint64) uint64 {
	f := uint64(s.freq)
	q, _ := bits.Mul64(x, s.inverse) // x/freq, or one less
	q += (f - 1 - (x - q*f)) >> 63
	return x + q*(probTotal-f) + uint64(s.start)
}

// set turns counts into a table and appends it to a header. At least one count
// is positive.
//
// In the header a table is the number of its symbols less one (8 bits), then
// for each in ascending order the distance to the one before less one (bytes
// of 4 bits, see putGap) and its frequency: how many bits that has (4 bits)
// and the five bits after its highest one, fewer if it has not so many. The
// most frequent symbol's frequency is what is left of probTotal and is written
// as length 0.
func (t *table) set(counts *[256]uint32, w *bitWriter) {
	var total uint64
	top, n := 0, 0
	for s, c := range counts {
		total += uint64(c)
		if c > 0 {
			n++
		}
		if c > counts[top] {
			top = s
		}
	}
	left := probTotal
	for s, c := range counts {
		t.sym[s] = span{}
		if c == 0 || s == top {
			continue
		}
		f := max(1, (uint64(c)*probTotal+total/2)/total)
		f = coarse(f)
		t.sym[s].freq = uint16(f)
		left -= int(f)
	}
	for left <= 0 { // many rare symbols: take from the largest of the others
		big := -1
		for s := range t.sym {
			if s != top && (big < 0 || t.sym[s].freq > t.sym[big].freq) {
				big = s
			}
		}
		f := coarse(uint64(t.sym[big].freq) / 2)
		left += int(t.sym[big].freq) - int(f)
		t.sym[big].freq = uint16(f)
	}
	t.sym[top].freq = uint16(left)
	t.write(w, n, top)
	t.lay()
	for s := range t.sym {
		if f := uint64(t.sym[s].freq); f > 0 {
			t.sym[s].inverse = math.MaxUint64 / f
		}
	}
}

// coarse rounds a frequency down to six significant bits.
func coarse(f uint64) uint64 {
	if n := bits.Len64(f); n > 6 {
		f &^= 1<<(n-6) - 1
	}
	return f
}

func (t *table) write(w *bitWriter, n, top int) {
	w.put(uint64(n-1), 8)
	prev := -1
	for s, r := range t.sym {
		if r.freq == 0 {
			continue
		}
		putGap(w, s-prev-1)
		prev = s
		if s == top {
			w.put(0, 4)
			continue
		}
		l := uint(bits.Len16(r.freq))
		w.put(uint64(l), 4)
		m := min(l-1, 5)
		w.put(uint64(r.freq)>>(l-1-m)&(1<<m-1), m)
	}
}

// read is the inverse of write; it reports whether the table is sound.
func (t *table) read(r *bitReader) bool {
	t.sym = [256]span{}
	n := int(r.get(8)) + 1
	s, top, left := -1, -1, probTotal
	for range n {
		s += 1 + getGap(r)
		if s > 255 {
			return false
		}
		l := uint(r.get(4))
		if l == 0 {
			if top >= 0 {
				return false
			}
			top = s
			continue
		}
		m := min(l-1, 5)
		f := (1<<m | r.get(m)) << (l - 1 - m)
		left -= int(f)
		if left <= 0 {
			return false
		}
		t.sym[s].freq = uint16(f)
	}
	if top < 0 {
		return false
	}
	t.sym[top].freq = uint16(left)
	t.lay()
	return true
}

// lay gives every symbol its slots, in ascending order.
func (t *table) lay() {
	at := uint16(0)
	for s := range t.sym {
		t.sym[s].start = at
		at += t.sym[s].freq
	}
}

// fill writes the table as the decoder uses it.
func (t *table) fill(to *slots) {
	rest := to[:]
	for sym, r := range t.sym {
		if r.freq == 0 {
			continue
		}
		e := uint32(sym) | uint32(r.freq)<<20
		for k := range rest[:r.freq] {
			rest[k] = e
			e += 1 << 8
		}
		rest = rest[r.freq:]
	}
}

// putGap writes a small number: bit by bit up to 3, then eight bits.
func putGap(w *bitWriter, v int) {
	if v < 3 {
		w.put(1<<v, uint(v)+1)
		return
	}
	w.put(uint64(v)<<3, 11)
}

// getGap is the inverse of putGap.
func getGap(r *bitReader) int {
	r.refill()
	for v := range 3 {
		if r.take(1) == 1 {
			return v
		}
	}
	return int(r.take(8))
}
