package delta

import "math/bits"

// history is what the groups before tell about the next one.
type history struct {
	activity uint // decaying sum of the symbols, below maxActivity
	trend    int  // decaying balance of exact differences up and down
}

const (
	maxActivity = 1<<14 - 1
	levels      = 4 // of how sure the trend is
)

// see takes in the 16 symbols of one more group; in a directed model and if
// the group changed, for the trend too.
func (h *history) see(lo, hi uint64, directed bool) {
	h.activity += sum16(lo, hi) - h.activity>>2
	if directed {
		net := balance(lo) + balance(hi)
		if h.trend < 0 {
			net = -net
		}
		h.trend += net<<4 - h.trend>>3
	}
}

// level is how sure the trend is, from 0 to levels-1.
func (h *history) level() int {
	t := max(h.trend, -h.trend)
	switch {
	case t < 16:
		return 0
	case t < 48:
		return 1
	case t < 128:
		return 2
	default:
		return 3
	}
}

// flip is all ones if the trend is down.
func (h *history) flip() uint64 { return uint64(int64(h.trend) >> 63) }

// Eight symbols at a time, a byte each.
const (
	low1  = 0x0101010101010101
	low7  = 0x7f * low1
	high1 = 0x80 * low1
	odd16 = 0x00ff00ff00ff00ff
)

// sum16 adds up sixteen bytes.
func sum16(a, b uint64) uint {
	s := a&odd16 + a>>8&odd16 + b&odd16 + b>>8&odd16
	return uint(s * 0x0001000100010001 >> 48)
}

// nonzero has the highest bit of every byte that is not zero.
func nonzero(v uint64) uint64 { return (v&low7 + low7 | v) & high1 }

// balance is how many of eight symbols are exact differences up, less those
// down.
func balance(v uint64) int {
	some := nonzero(v) &^ nonzero(v&(^uint64(exact-1)&0xff*low1))
	return bits.OnesCount64(some) - 2*bits.OnesCount64(some&(v<<7))
}

// unzig8 undoes the zigzag of eight bytes.
func unzig8(v uint64) uint64 { return v>>1&low7 ^ v&low1*0xff }

// add8 adds eight bytes to eight bytes.
func add8(a, b uint64) uint64 { return (a&low7 + b&low7) ^ (a^b)&high1 }

// sub8 takes eight bytes from eight bytes.
func sub8(a, b uint64) uint64 { return ((a | high1) - b&low7) ^ (a^^b)&high1 }

// zigzag8 is the zigzag of eight bytes.
func zigzag8(v uint64) uint64 { return v<<1&(0xfe*low1) ^ v>>7&low1*0xff }

// hasReplace reports whether one of eight symbols is replace.
func hasReplace(v uint64) bool { return (^v-low1)&v&high1 != 0 }
