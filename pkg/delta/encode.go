package delta

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/bits"
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
	record  record
	fit     fit
	try     [3][]byte // payloads
	planes  [8]histogram
	levels  [levels][8]histogram   // of a sample, by level and key
	bytes   [maxPeriod][128]uint32 // of a sample, by place in a quantised block
	states  [scaleStates]histogram // of a sample, by state
	pieces  []int                  // offsets of the sample
	cuts    []int                  // offsets of the parts of a block, but for the first
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

// block appends the shortest form of a block that it finds: as a whole, or in
// parts where quantised blocks begin anew.
func (e *Encoder) block(dst, plain, base []byte, left int) []byte {
	at := len(dst)
	dst, l := e.part(dst, plain, base, left)
	if l == nil {
		return dst
	}
	if e.findCuts(base, l); len(e.cuts) == 0 {
		return dst
	}
	parts, from := len(dst), 0
	for _, to := range append(e.cuts, len(plain)) {
		dst, _ = e.part(dst, plain[from:to], base[from:to], left-from)
		from = to
	}
	if len(dst)-parts < parts-at {
		return append(dst[:at], dst[parts:]...)
	}
	return dst[:parts]
}

// part appends the shortest form of plain as one block that it finds, and says
// of which layout it may be, if any.
func (e *Encoder) part(dst, plain, base []byte, left int) ([]byte, *layout) {
	if base != nil && bytes.Equal(plain, base) {
		return head{mode: modeCopy, plain: len(plain)}.append(dst, left), nil
	}
	var l *layout
	best := head{mode: modeRaw, plain: len(plain), packed: len(plain)}
	payload := plain
	offer := func(h head, p []byte) {
		if h.packed = len(p); h.size() < best.size() {
			best, payload = h, p
		}
	}
	self := e.guessSelf(plain)
	if base != nil {
		diff, stride := e.guessDiff(plain, base), guess{cost: math.MaxInt64}
		if diff.width <= 2 {
			stride = e.guessStride(plain, base)
		}
		// A guess is not that sure: both are tried where they come near, or
		// where only few pieces changed.
		few := len(e.pieces) < sampleRuns
		near := func(a, b int64) bool { return a-a/8 < b || few }
		worth := self.cost + self.cost/16
		if stride.cost < worth && near(stride.cost, diff.cost) {
			e.try[0] = e.payload(e.try[0][:0], plain, base, stride.head)
			offer(stride.head, e.try[0])
			l = &layouts[stride.layout]
		}
		if diff.cost < worth && near(diff.cost, stride.cost) {
			e.try[1] = e.payload(e.try[1][:0], plain, base, diff.head)
			offer(diff.head, e.try[1])
		}
	}
	// With a base, SELF is tried only where it could win.
	if base == nil || e.selfBound(plain, self.head) < int64(best.size()) {
		e.try[2] = e.payload(e.try[2][:0], plain, nil, self.head)
		offer(self.head, e.try[2])
	}
	return append(best.append(dst, left), payload...), l
}

// payload appends the payload of a SELF or DELTA block.
func (e *Encoder) payload(dst, plain, base []byte, h head) []byte {
	from, to := h.whole()
	dst = append(append(dst, plain[:from]...), plain[to:]...)
	switch h.mode {
	case modeSelf:
		return e.self(dst, plain[from:to], h.width)
	case modeDiff:
		return e.diff(dst, plain[from:to], base[from:to], h)
	default:
		return e.stride(dst, plain[from:to], base[from:to], &layouts[h.layout])
	}
}

// selfBound is a length in bytes below which e.self cannot get.
func (e *Encoder) selfBound(plain []byte, h head) int64 {
	from, to := h.whole()
	e.countPlanes(plain[from:to], h.width)
	var sum int64
	for p := range h.width {
		sum += e.costs.of(e.planes[p][:])
	}
	return sum*15/16/(8*bit) - int64(len(plain)/8192) + int64(len(plain)-to+from) // the estimate is this fine
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

// countPlanes counts the bytes of every plane, as SELF would code them.
func (e *Encoder) countPlanes(plain []byte, width int) {
	clear(e.planes[:])
	switch width {
	case 1: // as if of eight planes, since runs of one byte count slowly
		for ; len(plain) >= 8; plain = plain[8:] {
			for p, b := range plain[:8] {
				e.planes[p][b<<1|b>>7]++
			}
		}
		for p := range e.planes[1:] {
			e.planes[0].add(&e.planes[p+1])
		}
	case 2:
		for ; len(plain) >= 2; plain = plain[2:] {
			v := bits.RotateLeft16(binary.LittleEndian.Uint16(plain), 1)
			e.planes[0][uint8(v)]++
			e.planes[1][uint8(v>>8)]++
		}
	case 4:
		for ; len(plain) >= 4; plain = plain[4:] {
			v := bits.RotateLeft32(binary.LittleEndian.Uint32(plain), 1)
			e.planes[0][uint8(v)]++
			e.planes[1][uint8(v>>8)]++
			e.planes[2][uint8(v>>16)]++
			e.planes[3][uint8(v>>24)]++
		}
	}
	for ; len(plain) > 0; plain = plain[width:] {
		v := turn(load(plain, width), width)
		for p := range width {
			e.planes[p][uint8(v>>(8*p))]++
		}
	}
}
