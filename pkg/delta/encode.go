package delta

import (
	"bytes"
	"math"
)

// Encoder packs frames. It keeps its scratch memory, some MiB, between frames
// and is not safe for concurrent use.
type Encoder struct {
	costs   *costs
	classes [9]*classes // by width
	model   model
	counts  []histogram // of the tables
	tables  []table
	header  bitWriter
	rans    ransWriter
	bits    bitWriter
	fit     fit
	try     [2][]byte // payloads
	planes  [8]histogram
}

// NewEncoder returns an Encoder.
func NewEncoder() *Encoder {
	e := &Encoder{costs: newCosts()}
	for _, w := range widths {
		e.classes[w] = newClasses(w)
	}
	return e
}

// Encode appends the packed form of plain to dst and returns it. The base is
// nil or exactly as long as plain: what the receiver will pass to Decode. The
// packed form is at most one byte per started MiB longer than plain, and with
// a base at most as long as without.
func (e *Encoder) Encode(dst, plain, base []byte) []byte {
	for len(plain) > 0 {
		n := min(len(plain), blockSize)
		var b []byte
		if base != nil {
			b, base = base[:n], base[n:]
		}
		dst = e.block(dst, plain[:n], b, len(plain))
		plain = plain[n:]
	}
	return dst
}

// block appends the shortest form of a block that it finds.
func (e *Encoder) block(dst, plain, base []byte, left int) []byte {
	if base != nil && bytes.Equal(plain, base) {
		return head{mode: modeCopy, plain: len(plain)}.append(dst, left)
	}
	best := head{mode: modeRaw, plain: len(plain), packed: len(plain)}
	payload := plain
	offer := func(h head, p []byte) {
		if h.packed = len(p); h.packed+3 < best.packed {
			best, payload = h, p
		}
	}
	if base != nil {
		h := e.detect(plain, base)
		e.try[0] = e.payload(e.try[0][:0], plain, base, h)
		offer(h, e.try[0])
	}
	// With a base, SELF is tried only where it could win.
	if h := e.detect(plain, nil); base == nil || e.selfBound(plain, h) < int64(best.packed) {
		e.try[1] = e.payload(e.try[1][:0], plain, nil, h)
		offer(h, e.try[1])
	}
	return append(best.append(dst, left), payload...)
}

// payload appends the payload of a SELF or DELTA block.
func (e *Encoder) payload(dst, plain, base []byte, h head) []byte {
	from, to := h.groups()
	dst = append(append(dst, plain[:from]...), plain[to:]...)
	if h.mode == modeSelf {
		return e.self(dst, plain[from:to], h.width)
	}
	return e.diff(dst, plain[from:to], base[from:to], h.width)
}

// selfBound is a length in bytes below which e.self cannot get.
func (e *Encoder) selfBound(plain []byte, h head) int64 {
	from, to := h.groups()
	e.countPlanes(plain[from:to], h.width)
	var sum int64
	for p := range h.width {
		sum += e.costs.of(e.planes[p][:])
	}
	return sum*15/16/(8*bit) + int64(len(plain)-to+from)
}

func (e *Encoder) openHeader() {
	e.counts = e.counts[:0]
	e.tables = e.tables[:0]
	e.rans.reset()
	e.bits.reset(e.bits.out[:0])
	e.header.reset(e.header.out[:0])
	e.header.put(0, 24)
}

// writeTables makes the tables of what was counted.
func (e *Encoder) writeTables() {
	e.header.put(uint64(len(e.counts)-1), 6)
	for i := range e.counts {
		e.tables = append(e.tables, table{})
		e.tables[i].set((*[256]uint32)(&e.counts[i]), &e.header)
	}
}

// close appends header, rANS stream and bits.
func (e *Encoder) close(dst []byte) []byte {
	at := len(dst)
	dst = append(dst, e.header.close()...)
	words := len(dst)
	dst = e.rans.write(dst, e.tables)
	words = len(dst) - words
	dst[at], dst[at+1], dst[at+2] = byte(words), byte(words>>8), byte(words>>16)
	return append(dst, e.bits.close()...)
}

// sampleRuns of sampleRun bytes each are what detect looks at.
const (
	sampleRuns = 8
	sampleRun  = 4 << 10
)

// detect picks the width and phase that promise the shortest payload, without
// a base if that is nil.
func (e *Encoder) detect(plain, base []byte) head {
	best, least := head{}, int64(math.MaxInt64)
	for _, w := range widths {
		for p := range w {
			h := head{mode: modeSelf, width: w, phase: p, plain: len(plain)}
			var cost int64
			if base == nil {
				cost = e.sampleSelf(plain, w, p)
			} else {
				h.mode = modeDiff
				cost = e.sampleDiff(plain, base, w, p)
			}
			if cost < least {
				best, least = h, cost
			}
		}
	}
	return best
}

// samples visits the pieces of a block to look at, each aligned to the phase.
func samples(n, width, phase int, visit func(from, to int)) {
	if n <= sampleRuns*sampleRun {
		visit(min(phase, n), n)
		return
	}
	for i := range sampleRuns {
		at := n / sampleRuns * i &^ 7
		visit(at+phase, at+phase+sampleRun)
	}
	_ = width
}

func (e *Encoder) sampleSelf(plain []byte, width, phase int) int64 {
	for p := range width {
		e.planes[p] = histogram{}
	}
	samples(len(plain), width, phase, func(from, to int) {
		for i := from; i+width <= to; i += width {
			v := turn(load(plain[i:], width), width)
			for p := range width {
				e.planes[p][uint8(v>>(8*p))]++
			}
		}
	})
	var cost int64
	for p := range width {
		var n int64
		for _, c := range e.planes[p] {
			n += int64(c)
		}
		cost += min(e.costs.with(e.planes[p][:]), n*8*bit)
	}
	return cost
}

func (e *Encoder) sampleDiff(plain, base []byte, width, phase int) int64 {
	e.planes = [8]histogram{}
	var extra int64
	samples(len(plain), width, phase, func(from, to int) {
		for i := from; i+width <= to; i += width {
			b := load(base[i:], width)
			s, x := symbol(load(plain[i:], width), b, width)
			e.planes[keyOf(b, width)&7][s]++
			extra += int64(x)
		}
	})
	cost := extra * bit
	for p := range e.planes {
		cost += e.costs.with(e.planes[p][:])
	}
	return cost
}

func (e *Encoder) countPlanes(plain []byte, width int) {
	for p := range width {
		e.planes[p] = histogram{}
	}
	for i := 0; i < len(plain); i += width {
		v := turn(load(plain[i:], width), width)
		for p := range width {
			e.planes[p][uint8(v>>(8*p))]++
		}
	}
}
