package delta

import "encoding/binary"

// diff decodes the whole groups of a DELTA block into dst from a base of the
// same length, a multiple of groupSize elements.
func (d *Decoder) diff(dst, in, base []byte, width int) bool {
	tables, ok := d.openHeader(in)
	if !ok || !d.model.read(&d.bits, tables) || !d.openStreams(in) {
		return false
	}
	m, c := &d.model, d.classes[width]
	step := groupSize * width
	activity := uint(0)
	for b := range len(m.edges) + 2 {
		for k, t := range &m.row[b] {
			d.rows[b][k] = &d.slots[t]
		}
	}
	replaced := &d.rows[len(m.edges)+1]
	for len(dst) >= step {
		bin := m.bin[activity&maxActivity] & (maxBins - 1)
		if f := m.flag[bin]; f != always && d.rans.one(&d.slots[f&(maxTables-1)]) == 0 {
			copy(dst[:step], base)
			activity = decay(activity, 0)
		} else {
			keys(&d.table, &d.rows[bin], base[:step], width)
			d.rans.group(&d.sym, &d.table)
			lo, hi := binary.LittleEndian.Uint64(d.sym[:]), binary.LittleEndian.Uint64(d.sym[8:])
			switch width {
			case 1:
				add1((*[groupSize]byte)(dst), (*[groupSize]byte)(base), lo, hi)
			case 2:
				add2((*[2 * groupSize]byte)(dst), (*[2 * groupSize]byte)(base), &d.sym, &d.bits, c)
			case 4:
				add4((*[4 * groupSize]byte)(dst), (*[4 * groupSize]byte)(base), &d.sym, &d.bits, c)
			default:
				add8((*[8 * groupSize]byte)(dst), (*[8 * groupSize]byte)(base), &d.sym, &d.bits, c)
			}
			activity = decay(activity, sum16(lo, hi))
			if (hasReplace(lo) || hasReplace(hi)) && width > 1 {
				d.replaceIn(dst[:step], base, replaced, width)
			}
		}
		dst, base = dst[step:], base[step:]
	}
	return d.done()
}

// replaceIn decodes the replaced elements of a group.
func (d *Decoder) replaceIn(dst, base []byte, row *[256]*slots, width int) {
	for i, s := range &d.sym {
		if s == replace {
			key := d.rans.one(row[keyOf(load(base[i*width:], width), width)])
			rest := d.bits.get(8 * uint(width-1))
			store(dst[i*width:], width, unkey(key, rest, width))
		}
	}
}

// keys looks up the tables of a group's elements.
func keys(table *[groupSize]*slots, row *[256]*slots, base []byte, width int) {
	switch width {
	case 1:
		b := (*[groupSize]byte)(base)
		for i := range table {
			table[i] = row[b[i]]
		}
	case 2:
		b := (*[2 * groupSize]byte)(base)
		for i := range table {
			table[i] = row[uint8(binary.LittleEndian.Uint16(b[2*i:])>>7)]
		}
	case 4:
		b := (*[4 * groupSize]byte)(base)
		for i := range table {
			table[i] = row[uint8(binary.LittleEndian.Uint16(b[4*i+2:])>>7)]
		}
	default:
		b := (*[8 * groupSize]byte)(base)
		for i := range table {
			table[i] = row[uint8(binary.LittleEndian.Uint16(b[8*i+6:])>>4)]
		}
	}
}

// Eight symbols at a time, a byte each.
const (
	low1  = 0x0101010101010101
	low7  = 0x7f * low1
	high1 = 0x80 * low1
	odd16 = 0x00ff00ff00ff00ff
)

// unzig8 undoes the zigzag of eight bytes.
func unzig8(v uint64) uint64 { return v>>1&low7 ^ v&low1*0xff }

// add8x1 adds eight bytes to eight bytes.
func add8x1(a, b uint64) uint64 { return (a&low7 + b&low7) ^ (a^b)&high1 }

// sum16 adds up sixteen bytes.
func sum16(a, b uint64) uint {
	s := a&odd16 + a>>8&odd16 + b&odd16 + b>>8&odd16
	return uint(s * 0x0001000100010001 >> 48)
}

// hasReplace reports whether one of eight symbols is replace.
func hasReplace(v uint64) bool { return (^v-low1)&v&high1 != 0 }

// The adds add the differences of a group to its base. Where every symbol is
// an exact difference, nothing is read.

func add1(dst, base *[groupSize]byte, lo, hi uint64) {
	a, b := binary.LittleEndian.Uint64(base[:]), binary.LittleEndian.Uint64(base[8:])
	binary.LittleEndian.PutUint64(dst[:], add8x1(a, unzig8(lo)))
	binary.LittleEndian.PutUint64(dst[8:], add8x1(b, unzig8(hi)))
}

func add2(to, b *[2 * groupSize]byte, sym *[groupSize]uint8, r *bitReader, c *classes) {
	acc, n, pos, in := r.acc, r.n, r.pos, r.in
	for i := 0; i < groupSize; i += 4 {
		if pos+8 <= len(in) {
			acc |= binary.LittleEndian.Uint64(in[pos:]) << (n & 63)
			pos += int(63-n) >> 3
			n |= 56
		} else {
			acc, n, pos = refillEnd(acc, n, pos, in)
		}
		y, v, to := (*[4]uint8)(sym[i:]), (*[8]byte)(b[2*i:]), (*[8]byte)(to[2*i:])
		for j, s := range y {
			x := c.extra[s]
			z := c.low[s] + acc&(1<<(x&63)-1)
			acc >>= x & 63
			n -= uint(x)
			binary.LittleEndian.PutUint16(to[2*j:], binary.LittleEndian.Uint16(v[2*j:])+uint16(unzig(z)))
		}
	}
	r.acc, r.n, r.pos = acc, n, pos
}

func add2exact(to, b *[2 * groupSize]byte, sym uint64) {
	d := unzig8(sym)
	for i := 0; i < groupSize; i += 2 {
		v := binary.LittleEndian.Uint16(b[i:]) + uint16(int8(d))
		binary.LittleEndian.PutUint16(to[i:], v)
		d >>= 8
	}
}

func add4(to, b *[4 * groupSize]byte, sym *[groupSize]uint8, r *bitReader, c *classes) {
	acc, n, pos, in := r.acc, r.n, r.pos, r.in
	for i := 0; i < groupSize; i += 2 {
		if pos+8 <= len(in) {
			acc |= binary.LittleEndian.Uint64(in[pos:]) << (n & 63)
			pos += int(63-n) >> 3
			n |= 56
		} else {
			acc, n, pos = refillEnd(acc, n, pos, in)
		}
		y, v, to := (*[2]uint8)(sym[i:]), (*[8]byte)(b[4*i:]), (*[8]byte)(to[4*i:])
		for j, s := range y {
			x := c.extra[s]
			z := c.low[s] + acc&(1<<(x&63)-1)
			acc >>= x & 63
			n -= uint(x)
			binary.LittleEndian.PutUint32(to[4*j:], binary.LittleEndian.Uint32(v[4*j:])+uint32(unzig(z)))
		}
	}
	r.acc, r.n, r.pos = acc, n, pos
}

func add8(to, b *[8 * groupSize]byte, sym *[groupSize]uint8, r *bitReader, c *classes) {
	for i, s := range sym {
		z := c.low[s] + r.get(uint(c.extra[s]))
		binary.LittleEndian.PutUint64(to[8*i:], binary.LittleEndian.Uint64(b[8*i:])+unzig(z))
	}
}
