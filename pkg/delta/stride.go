package delta

import (
	"encoding/binary"
	"math/bits"
)

// STRIDE: quantised blocks as GGUF files hold them, one after another: a few
// half-precision scales and many small integers, the quants. What a scale did
// tells how its quants moved: not at all, nearer to zero, away from it, or all
// to the other side. So a block's scales are coded first, and how the first
// one changed is the state in which its quants are coded.

// layout is how a quantised block looks.
type layout struct {
	period  int    // bytes of a block
	scales  []int  // offsets of fp16 scales
	other   [2]int // bytes coded one by one, from and to
	quants  [2]int // quants, a multiple of 16 bytes
	nibbles bool   // quants are half bytes, not bytes
}

// layouts are the layouts the format knows, by number.
var layouts = [...]layout{
	{18, []int{0}, [2]int{}, [2]int{2, 18}, true},             // Q4_0, IQ4_NL
	{20, []int{0, 2}, [2]int{}, [2]int{4, 20}, true},          // Q4_1
	{22, []int{0}, [2]int{2, 6}, [2]int{6, 22}, true},         // Q5_0
	{24, []int{0, 2}, [2]int{4, 8}, [2]int{8, 24}, true},      // Q5_1
	{34, []int{0}, [2]int{}, [2]int{2, 34}, false},            // Q8_0
	{84, []int{80, 82}, [2]int{0, 16}, [2]int{16, 80}, true},  // Q2_K
	{110, []int{108}, [2]int{96, 108}, [2]int{0, 96}, true},   // Q3_K
	{144, []int{0, 2}, [2]int{4, 16}, [2]int{16, 144}, true},  // Q4_K
	{176, []int{0, 2}, [2]int{4, 16}, [2]int{16, 176}, true},  // Q5_K
	{210, []int{208}, [2]int{192, 208}, [2]int{0, 192}, true}, // Q6_K
}

// maxPeriod is the longest period of a layout.
const maxPeriod = 210

// scaleStates is how many states a change of scale is told apart by.
const scaleStates = 16

// scaleState is the state for a change of a scale: whether its sign changed,
// and by how much its other bits did.
func scaleState(flipped bool, d int) int {
	n := bits.Len(uint(max(d, -d)))
	switch {
	case flipped:
		return 13 + min(max(n-5, 0)+1, 4)/2
	case d == 0:
		return 0
	case d < 0:
		return 2 + 2*min(max(n-2, 0), 5)
	default:
		return 1 + 2*min(max(n-2, 0), 5)
	}
}

// scaleFlip is added to the class of a scale's change if its sign changed.
const scaleFlip = 128

// scaleSymbol is how a scale is coded against its base.
func scaleSymbol(v, base uint16) (sym uint8, rest uint64, extra uint, state int) {
	d := int(v&0x7fff) - int(base&0x7fff)
	z := uint64(d<<1 ^ d>>63)
	sym, extra = classOf(z)
	flipped := (v^base)>>15 != 0
	if flipped {
		sym += scaleFlip
	}
	return sym, z & (1<<extra - 1), extra, scaleState(flipped, d)
}

// stride appends the whole quantised blocks of a block to dst.
func (e *Encoder) stride(dst, plain, base []byte, l *layout) []byte {
	if len(plain) == 0 {
		return dst
	}
	e.openHeader()
	e.model.states = scaleStates
	e.record.reset()
	for ; len(plain) > 0; plain, base = plain[l.period:], base[l.period:] {
		e.recordQuants(plain[:l.period], base[:l.period], l)
	}
	e.writeRecord()
	return e.close(dst)
}

// recordQuants records a quantised block.
func (e *Encoder) recordQuants(plain, base []byte, l *layout) {
	r := &e.record
	if string(plain) == string(base) {
		r.same()
		return
	}
	u := r.begin()
	state := 0
	for i, at := range l.scales {
		b := binary.LittleEndian.Uint16(base[at:])
		sym, rest, extra, s := scaleSymbol(binary.LittleEndian.Uint16(plain[at:]), b)
		r.single(u, kindScale, 0, uint8(b>>7), sym)
		e.bits.put(rest, extra)
		if i == 0 {
			state = s
		}
	}
	for i := l.other[0]; i < l.other[1]; i++ {
		r.single(u, kindOther, min(state, 1), base[i], uint8(difference(uint64(plain[i]), uint64(base[i]), 1, 0)))
	}
	for at := l.quants[0]; at < l.quants[1]; at += groupSize {
		if !l.nibbles {
			g := r.group(u, state)
			g.recordBytes(plain[at:], base[at:], 0)
			r.count(g, false)
			continue
		}
		for shift := 0; shift < 8; shift += 4 {
			g := r.group(u, state)
			for i := range g.sym {
				v, b := plain[at+i]>>shift&15, base[at+i]>>shift&15
				d := int8((v-b)<<4) >> 4
				g.key[i], g.sym[i] = b, uint8(d<<1^d>>7)&15
			}
			r.count(g, false)
		}
	}
}

// stride decodes the whole quantised blocks of a STRIDE block into dst.
func (d *Decoder) stride(dst, in, base []byte, l *layout) bool {
	tables, ok := d.openHeader(in)
	if !ok || !d.model.read(&d.bits, tables, true) || !d.openStreams(in) {
		return false
	}
	m := &d.model
	for kind := range m.grids {
		m.grids[kind].aim(&d.slots)
	}
	var h history
	for ; len(dst) > 0; dst, base = dst[l.period:], base[l.period:] {
		bin := m.binOf(&h)
		if !d.changed(bin) {
			copy(dst[:l.period], base)
			h.see(0, 0, false)
			continue
		}
		state := 0
		for i, at := range l.scales {
			b := binary.LittleEndian.Uint16(base[at:])
			v, s := d.scale(b, bin)
			binary.LittleEndian.PutUint16(dst[at:], v)
			if i == 0 {
				state = s
			}
		}
		for i := l.other[0]; i < l.other[1]; i++ {
			s := d.rans.one(m.grids[kindOther].slots[min(state, 1)][base[i]])
			dst[i] = base[i] + uint8(unzig(uint64(s)))
		}
		row := &m.grids[kindMain].slots[m.row(kindMain, state, bin)]
		for at := l.quants[0]; at < l.quants[1]; at += groupSize {
			to, b := (*[groupSize]byte)(dst[at:]), (*[groupSize]byte)(base[at:])
			if l.nibbles {
				d.nibbles(to, b, row, &h)
			} else {
				d.bytes(to, b, row, &h)
			}
		}
	}
	return d.done()
}

// scale decodes a scale, and the state its change puts the quants in.
func (d *Decoder) scale(base uint16, bin int) (uint16, int) {
	s := d.rans.one(d.model.grids[kindScale].slots[bin][uint8(base>>7)])
	c, sign := d.classes[4], uint16(0) // a change may have 16 bits, more than two bytes' classes
	if s >= scaleFlip {
		s, sign = s-scaleFlip, 1<<15
	}
	z := c.low[s] + d.bits.get(uint(c.extra[s]))
	by := int(unzig(z))
	v := (base&0x7fff + uint16(by)) & 0x7fff
	return v | base&0x8000 ^ sign, scaleState(sign != 0, by)
}

// bytes decodes 16 quants of a byte each.
func (d *Decoder) bytes(dst, base *[groupSize]byte, row *[256]*slots, h *history) {
	for i, b := range base {
		d.table[i] = row[b]
	}
	d.rans.group(&d.sym, &d.table)
	add1(dst, base, &d.sym, 0)
	h.see(binary.LittleEndian.Uint64(d.sym[:]), binary.LittleEndian.Uint64(d.sym[8:]), false)
}

// nibbles decodes 32 quants of half a byte each: the low halves of 16 bytes,
// then the high ones.
func (d *Decoder) nibbles(dst, base *[groupSize]byte, row *[256]*slots, h *history) {
	for i, b := range base {
		d.table[i] = row[b&15]
	}
	d.rans.group(&d.sym, &d.table)
	l0, l1 := binary.LittleEndian.Uint64(d.sym[:]), binary.LittleEndian.Uint64(d.sym[8:])
	h.see(l0, l1, false)
	for i, b := range base {
		d.table[i] = row[b>>4]
	}
	d.rans.group(&d.sym, &d.table)
	h0, h1 := binary.LittleEndian.Uint64(d.sym[:]), binary.LittleEndian.Uint64(d.sym[8:])
	h.see(h0, h1, false)
	b0, b1 := binary.LittleEndian.Uint64(base[:]), binary.LittleEndian.Uint64(base[8:])
	binary.LittleEndian.PutUint64(dst[:], addNibbles(b0, l0)|addNibbles(b0>>4, h0)<<4)
	binary.LittleEndian.PutUint64(dst[8:], addNibbles(b1, l1)|addNibbles(b1>>4, h1)<<4)
}

// addNibbles adds eight differences to the low halves of eight bytes.
func addNibbles(a, sym uint64) uint64 {
	const low4 = 15 * low1
	return (a&low4 + (sym>>1&(7*low1) ^ sym&low1*15)) & low4
}
