package delta

import "encoding/binary"

// diff decodes the whole groups of a DELTA block into dst from a base of the
// same length, a multiple of groupSize elements.
func (d *Decoder) diff(dst, in, base []byte, width int) bool {
	tables, ok := d.openHeader(in)
	if !ok || !d.model.read(&d.bits, tables, false) || !d.openStreams(in) {
		return false
	}
	m := &d.model
	m.grids[kindMain].aim(&d.slots)
	m.grids[kindFresh].aim(&d.slots)
	rows := m.grids[kindMain].slots
	var h history
	step := groupSize * width
	for len(dst) >= step {
		bin := m.binOf(&h)
		if !d.changed(bin) {
			copy(dst[:step], base)
			h.see(0, 0, false)
		} else {
			keys(&d.table, &rows[m.row(kindMain, m.state(&h), bin)], base[:step], width)
			d.rans.group(&d.sym, &d.table)
			d.add(dst[:step], base[:step], width, m.flip(&h, 0, width))
			lo, hi := binary.LittleEndian.Uint64(d.sym[:]), binary.LittleEndian.Uint64(d.sym[8:])
			h.see(lo, hi, m.states == levels)
			if (hasReplace(lo) || hasReplace(hi)) && width > 1 {
				d.replaceIn(dst[:step], base, width)
			}
		}
		dst, base = dst[step:], base[step:]
	}
	return d.done()
}

// changed decodes the flag of a unit.
func (d *Decoder) changed(bin int) bool {
	f := d.model.flag[bin&(maxBins-1)]
	return f == always || d.rans.one(&d.slots[f&(maxTables-1)]) != 0
}

// replaceIn decodes the replaced elements of a group.
func (d *Decoder) replaceIn(dst, base []byte, width int) {
	row := &d.model.grids[kindFresh].slots[0]
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

// add adds the differences of a group to its base.
func (d *Decoder) add(dst, base []byte, width int, flip uint64) {
	signs := uint64(0)
	if d.model.states == levels {
		signs = ^signs
	}
	switch c := d.classes[width]; width {
	case 1:
		add1((*[groupSize]byte)(dst), (*[groupSize]byte)(base), &d.sym, flip)
	case 2:
		add2((*[2 * groupSize]byte)(dst), (*[2 * groupSize]byte)(base), &d.sym, &d.bits, c, uint16(flip), uint16(signs))
	case 4:
		add4((*[4 * groupSize]byte)(dst), (*[4 * groupSize]byte)(base), &d.sym, &d.bits, c, uint32(flip), uint32(signs))
	default:
		for i, s := range &d.sym {
			b := binary.LittleEndian.Uint64(base[8*i:])
			f := flip ^ signOf(b, 8)&signs
			v := unzig(c.low[s] + d.bits.get(uint(c.extra[s])))
			binary.LittleEndian.PutUint64(dst[8*i:], b+(v^f-f))
		}
	}
}

func add1(dst, base, sym *[groupSize]byte, flip uint64) {
	for i := 0; i < groupSize; i += 8 {
		v := unzig8(binary.LittleEndian.Uint64(sym[i:])) ^ flip
		v = add8(v, flip&low1)
		binary.LittleEndian.PutUint64(dst[i:], add8(binary.LittleEndian.Uint64(base[i:]), v))
	}
}

func add2(to, b *[2 * groupSize]byte, sym *[groupSize]uint8, r *bitReader, c *classes, flip, signs uint16) {
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
			b := binary.LittleEndian.Uint16(v[2*j:])
			f := uint16(int16(b)>>15)&signs ^ flip
			binary.LittleEndian.PutUint16(to[2*j:], b+(uint16(unzig(z))^f-f))
		}
	}
	r.acc, r.n, r.pos = acc, n, pos
}

func add4(to, b *[4 * groupSize]byte, sym *[groupSize]uint8, r *bitReader, c *classes, flip, signs uint32) {
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
			b := binary.LittleEndian.Uint32(v[4*j:])
			f := uint32(int32(b)>>31)&signs ^ flip
			binary.LittleEndian.PutUint32(to[4*j:], b+(uint32(unzig(z))^f-f))
		}
	}
	r.acc, r.n, r.pos = acc, n, pos
}
