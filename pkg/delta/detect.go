package delta

import (
	"bytes"
	"encoding/binary"
	"math"
)

// A sample of a block is up to sampleRuns pieces of sampleRun bytes.
const (
	sampleRuns = 8
	sampleRun  = partSize
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

// A guess is a way to pack a block and what the sample would cost so, per
// piece.
type guess struct {
	head
	cost int64
}

// guessSelf picks the width and phase that promise the shortest SELF block.
func (e *Encoder) guessSelf(plain []byte) guess {
	e.sample(plain, nil)
	best := guess{cost: math.MaxInt64}
	h := head{mode: modeSelf, plain: len(plain)}
	for _, h.width = range widths {
		for h.phase = range h.width {
			best.offer(h, e.sampleSelf(plain, h), e)
		}
	}
	return best
}

// guessDiff picks what promises the shortest DELTA block.
func (e *Encoder) guessDiff(plain, base []byte) guess {
	e.sample(plain, base)
	best := guess{cost: math.MaxInt64}
	h := head{mode: modeDiff, plain: len(plain)}
	for _, h.width = range widths {
		h.limit = uint(8*h.width - 6)
		for h.phase = range h.width {
			best.offer(h, e.sampleDiff(plain, base, h), e)
		}
	}
	if h = best.head; h.width == 2 || h.width == 4 {
		h.limit += 3
		best.offer(h, e.sampleDiff(plain, base, h), e)
	}
	h = best.head
	h.directed = true
	best.offer(h, e.sampleDiff(plain, base, h), e)
	return best
}

// guessStride picks the layout and phase that promise the shortest STRIDE
// block, of the pieces that guessDiff looked at.
func (e *Encoder) guessStride(plain, base []byte) guess {
	best := guess{cost: math.MaxInt64}
	h := head{mode: modeStride, plain: len(plain)}
	for _, h.layout = range e.likelyLayouts(base) {
		h.phase, _ = e.findPhase(base, &layouts[h.layout])
		best.offer(h, e.sampleStride(plain, base, h), e)
	}
	return best
}

// offer takes h if it costs less; the cost is that of the whole sample.
func (g *guess) offer(h head, cost int64, e *Encoder) {
	if cost /= int64(len(e.pieces)); cost < g.cost {
		g.head, g.cost = h, cost
	}
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

// likelyLayouts are the two layouts that look most like the base.
func (e *Encoder) likelyLayouts(base []byte) [2]int {
	var best [2]int
	var most [2]uint64
	for i := range layouts {
		_, n := e.findPhase(base, &layouts[i])
		switch {
		case n > most[0]:
			best[1], most[1] = best[0], most[0]
			best[0], most[0] = i, n
		case n > most[1]:
			best[1], most[1] = i, n
		}
	}
	return best
}

// findPhase finds where quantised blocks would begin: the higher byte of a
// scale, its exponent, is the one that varies least. It also says how little.
func (e *Encoder) findPhase(base []byte, l *layout) (int, uint64) {
	seen := e.bytes[:l.period]
	clear(seen)
	var same [maxPeriod]uint64 // how often a byte was as one before
	for _, at := range e.pieces {
		r := at % l.period
		for _, b := range base[at:min(at+sampleRun, len(base))] {
			n := &seen[r][b&0x7f]
			same[r] += uint64(*n)
			*n++
			if r++; r == l.period {
				r = 0
			}
		}
	}
	most := 0
	for r := range l.period {
		if same[r] > same[most] {
			most = r
		}
	}
	phase := (most - l.scales[0] - 1 + l.period) % l.period
	return phase, same[most] * uint64(l.period*l.period)
}

// findCuts finds where in a block the phase of its quantised blocks changes:
// where another tensor begins. A phase must hold for a few pieces.
func (e *Encoder) findCuts(base []byte, l *layout) {
	e.cuts = e.cuts[:0]
	const enough = 4
	now, next, since := -1, -1, 0
	for at := 0; at < len(base); at += sampleRun {
		e.pieces = append(e.pieces[:0], at)
		phase, _ := e.findPhase(base, l)
		switch {
		case phase == now:
			next = -1
		case phase != next:
			next, since = phase, at
		case at-since == (enough-1)*sampleRun:
			if now >= 0 {
				e.cuts = append(e.cuts, since)
			}
			now, next = phase, -1
		}
	}
}

// sampleStride is the cost of the sample as STRIDE, with fewer contexts.
func (e *Encoder) sampleStride(plain, base []byte, h head) int64 {
	l := &layouts[h.layout]
	clear(e.states[:])
	clear(e.planes[:3])
	r, cost, covered := &e.record, int64(0), 0
	e.bits.reset(e.bits.out[:0])
	for _, at := range e.pieces {
		r.reset()
		first := at + (h.phase+l.period-at%l.period)%l.period
		for i := first; i+l.period <= min(at+sampleRun, len(plain)); i += l.period {
			e.recordQuants(plain[i:i+l.period], base[i:i+l.period], l)
			covered += l.period
		}
		for _, u := range r.units {
			e.planes[2][min(u.groups, 1)]++
		}
		for i := range r.groups {
			for _, s := range &r.groups[i].sym {
				e.states[r.groups[i].state][s]++
			}
		}
		for _, s := range r.singles {
			e.planes[s.kind&1][s.sym]++
		}
	}
	for i := range e.states {
		cost += e.costs.of(e.states[i].used())
	}
	for p := range 3 {
		cost += e.costs.of(e.planes[p].used())
	}
	cost += int64(len(e.bits.close())) * 8 * bit
	if covered == 0 {
		return math.MaxInt64
	}
	return cost / int64(covered) * int64(len(e.pieces)*sampleRun)
}
