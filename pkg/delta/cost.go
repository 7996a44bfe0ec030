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
	cost  int64
	join  int64 // what joining it with the next part would add
}

// merge joins neighbours in list while that saves bits or there are more than
// limit. A part costs extra bits besides its table.
func (c *costs) merge(list []part, limit int, extra int64) []part {
	var sum histogram
	joined := func(a, b *part) int64 {
		sum = a.histogram
		sum.add(&b.histogram)
		return c.with(sum.used()) - a.cost - b.cost - extra*bit
	}
	for i := range list {
		list[i].cost = c.with(list[i].used())
	}
	for i := 0; i+1 < len(list); i++ {
		list[i].join = joined(&list[i], &list[i+1])
	}
	for len(list) > 1 {
		best := 0
		for i := 1; i+1 < len(list); i++ {
			if list[i].join < list[best].join {
				best = i
			}
		}
		if list[best].join > 0 && len(list) <= limit {
			break
		}
		p := &list[best]
		p.cost += list[best+1].cost + p.join + extra*bit
		p.add(&list[best+1].histogram)
		list = append(list[:best+1], list[best+2:]...)
		if best+1 < len(list) {
			list[best].join = joined(&list[best], &list[best+1])
		}
		if best > 0 {
			list[best-1].join = joined(&list[best-1], &list[best])
		}
	}
	return list
}
