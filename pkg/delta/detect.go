package delta

import (
	"bytes"
	"encoding/binary"
	"math"
)

// A sample of a block is up to sampleRuns pieces of sampleRun bytes.
const (
	sampleRuns = 8
	sampleRun  = 4 << 10
)

// sample picks the pieces to look at; with a base, only pieces that differ.
func (e *Encoder) sample(plain, base []byte) {
	e.pieces = e.pieces[:0]
	for at := 0; at < len(plain); at += sampleRun {
		to := min(at+sampleRun, len(plain))
		if base == nil || !bytes.Equal(plain[at:to], base[at:to]) {
			e.pieces = append(e.pieces, at)
		}
	}
	if n := len(e.pieces); n > sampleRuns {
		for i := range sampleRuns {
			e.pieces[i] = e.pieces[(2*i+1)*n/(2*sampleRuns)]
		}
		e.pieces = e.pieces[:sampleRuns]
	}
}

// detect picks the width and phase that promise the shortest payload, without
// a base if that is nil, and says what the sample would cost.
func (e *Encoder) detect(plain, base []byte) (head, int64) {
	e.sample(plain, base)
	best, least := head{}, int64(math.MaxInt64)
	try := func(h head) {
		var cost int64
		if base == nil {
			cost = e.sampleSelf(plain, h)
		} else {
			cost = e.sampleDiff(plain, base, h)
		}
		if cost < least {
			best, least = h, cost
		}
	}
	h := head{mode: modeSelf, plain: len(plain)}
	if base != nil {
		h.mode = modeDiff
	}
	for _, h.width = range widths {
		h.limit = uint(8*h.width - 6)
		for h.phase = range h.width {
			try(h)
		}
	}
	if base != nil {
		if best.width == 2 || best.width == 4 {
			h = best
			h.limit += 3
			try(h)
		}
		h = best
		h.directed = true
		try(h)
	}
	return best, least / int64(len(e.pieces))
}

// sampleSelf is the cost of the sample as SELF.
func (e *Encoder) sampleSelf(plain []byte, h head) int64 {
	e.planes = [8]histogram{}
	n := int64(0)
	for _, at := range e.pieces {
		for i := at + h.phase; i+h.width <= min(at+sampleRun, len(plain)); i += h.width {
			v := turn(load(plain[i:], h.width), h.width)
			for p := range h.width {
				e.planes[p][uint8(v>>(8*p))]++
			}
			n++
		}
	}
	var cost int64
	for p := range h.width {
		cost += min(e.costs.with(e.planes[p][:]), n*8*bit)
	}
	return cost
}

// sampleDiff is the cost of the sample as DELTA, with fewer contexts.
func (e *Encoder) sampleDiff(plain, base []byte, h head) int64 {
	used := 1
	if h.directed {
		used = levels
	}
	clear(e.levels[:used])
	e.model.states = used
	var extra int64
	var past history
	var sym [groupSize]uint8
	n := 0
	for _, at := range e.pieces {
		for i := at + h.phase; i+h.width <= min(at+sampleRun, len(plain)); i += h.width {
			v, b := load(plain[i:], h.width), load(base[i:], h.width)
			s, x := symbol(v, b, h.width, h.limit, e.model.flip(&past, b, h.width))
			seen := &e.levels[past.level()]
			seen[keyOf(b, h.width)%7][s]++
			if s == replace && h.width > 1 {
				seen[7][keyOf(v, h.width)]++
			}
			extra += int64(x)
			sym[n%groupSize] = s
			if n++; n%groupSize == 0 {
				past.see(binary.LittleEndian.Uint64(sym[:]), binary.LittleEndian.Uint64(sym[8:]), h.directed)
			}
		}
	}
	cost := extra * bit
	for l := range e.levels[:used] {
		for p := range e.levels[l] {
			cost += e.costs.of(e.levels[l][p].used())
		}
	}
	return cost
}
