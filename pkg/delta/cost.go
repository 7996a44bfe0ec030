package delta

import (
	"math"
	"math/bits"
)

// costs estimates coded sizes in integers of 1/65536 bit, so that every
// machine takes the same decisions.
type costs struct {
	log [2048]uint32 // log2(1 + i/2048)
}

const bit = 1 << 16

func newCosts() *costs {
	c := new(costs)
	for i := range c.log {
		c.log[i] = uint32(math.Round(math.Log2(1+float64(i)/2048) * bit))
	}
	return c
}

// lg is log2(v), v > 0.
func (c *costs) lg(v uint32) int64 {
	n := bits.Len32(v) - 1
	frac := uint64(v) << (63 - n) << 1 >> 53
	return int64(n)*bit + int64(c.log[frac])
}

// of is the cost of coding symbols of these counts, without their table.
func (c *costs) of(h []uint32) int64 {
	var total uint32
	var sum int64
	for _, n := range h {
		if n > 0 {
			total += n
			sum += int64(n) * c.lg(n)
		}
	}
	if total == 0 {
		return 0
	}
	return int64(total)*c.lg(total) - sum
}

// with is the cost of coding symbols of these counts with a table of their own.
func (c *costs) with(h []uint32) int64 {
	var total uint32
	var sum, used int64
	for _, n := range h {
		if n > 0 {
			total += n
			used++
			sum += int64(n) * c.lg(n)
		}
	}
	if total == 0 {
		return 0
	}
	return int64(total)*c.lg(total) - sum + (8+9*used)*bit
}

// histogram counts symbols.
type histogram [256]uint32

// span of a histogram: the symbols below the highest that occurs, at least one.
func (h *histogram) used() []uint32 {
	for n := len(h); n > 1; n-- {
		if h[n-1] > 0 {
			return h[:n]
		}
	}
	return h[:1]
}

func (h *histogram) add(o *histogram) {
	for s, n := range o {
		h[s] += n
	}
}

// mean is 1024 times the mean symbol.
func (h *histogram) mean() uint64 {
	var sum, total uint64
	for s, n := range h {
		sum += uint64(s) * uint64(n)
		total += uint64(n)
	}
	return sum << 10 / max(total, 1)
}

// part is a run of neighbours that share their statistics.
type part struct {
	histogram
	first int // index of its first member
	top   int // symbols from here on do not occur
	cost  int64
	join  int64 // what joining it with the next part would add
	next  int   // index of the next part
}

// joined is the cost of two parts as one.
func (c *costs) joined(a, b *part) int64 {
	var total uint32
	var sum, used int64
	top := max(a.top, b.top)
	x, y := a.histogram[:top], b.histogram[:top]
	for s, n := range x {
		if n += y[s]; n > 0 {
			total += n
			used++
			sum += int64(n) * c.lg(n)
		}
	}
	if total == 0 {
		return 0
	}
	return int64(total)*c.lg(total) - sum + (8+9*used)*bit
}

// merge joins neighbours in list while that saves bits or there are more than
// limit. A part costs extra bits besides its table.
func (c *costs) merge(list []part, limit int, extra int64) []part {
	for i := range list {
		p := &list[i]
		p.top, p.next = len(p.used()), i+1
		p.cost = c.with(p.histogram[:p.top])
	}
	price := func(p *part) {
		if p.next < len(list) {
			p.join = c.joined(p, &list[p.next]) - p.cost - list[p.next].cost - extra*bit
		}
	}
	for i := range list {
		price(&list[i])
	}
	for n := len(list); n > 1; n-- {
		best, before := 0, -1
		for i, from := 0, -1; list[i].next < len(list); i, from = list[i].next, i {
			if list[i].join < list[best].join {
				best, before = i, from
			}
		}
		p := &list[best]
		if p.join > 0 && n <= limit {
			break
		}
		q := &list[p.next]
		p.cost += q.cost + p.join + extra*bit
		p.add(&q.histogram)
		p.top, p.next = max(p.top, q.top), q.next
		price(p)
		if before >= 0 {
			price(&list[before])
		}
	}
	n := 0
	for i := 0; i < len(list); n++ {
		next := list[i].next
		list[n] = list[i]
		i = next
	}
	return list[:n]
}
