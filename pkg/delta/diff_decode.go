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
	replaced := m.replaced()
	for len(dst) >= step {
		bin := m.bin[activity&maxActivity] & (maxBins - 1)
		if d.rans.one(m.flag[bin]) == 0 {
			copy(dst[:step], base)
			activity = decay(activity, 0)
		} else {
			keys(&d.table, &m.row[bin], base[:step], width)
			d.rans.group(&d.sym, &d.table)
			switch width {
			case 1:
				add1(dst[:step], base, &d.sym)
			case 2:
				add2(dst[:step], base, &d.sym, &d.bits, c)
			case 4:
				add4(dst[:step], base, &d.sym, &d.bits, c)
			default:
				add8(dst[:step], base, &d.sym, &d.bits, c)
			}
			sum := uint(0)
			most := uint8(0)
			for _, s := range &d.sym {
				sum += uint(c.weight[s])
				most = max(most, s)
			}
			activity = decay(activity, sum)
			if most == replace && width > 1 {
				d.replaceIn(dst[:step], base, replaced, width)
			}
		}
		dst, base = dst[step:], base[step:]
	}
	return d.done()
}

// replaceIn decodes the replaced elements of a group.
func (d *Decoder) replaceIn(dst, base []byte, row *[256]uint8, width int) {
	for i, s := range &d.sym {
		if s == replace {
			key := d.rans.one(row[keyOf(load(base[i*width:], width), width)])
			rest := d.bits.get(8 * uint(width-1))
			store(dst[i*width:], width, unkey(key, rest, width))
		}
	}
}

// keys looks up the tables of a group's elements.
func keys(table *[groupSize]uint8, row *[256]uint8, base []byte, width int) {
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

func add1(dst, base []byte, sym *[groupSize]uint8) {
	to, b := (*[groupSize]byte)(dst), (*[groupSize]byte)(base)
	for i, s := range sym {
		to[i] = b[i] + (s>>1 ^ -(s & 1))
	}
}

func add2(dst, base []byte, sym *[groupSize]uint8, r *bitReader, c *classes) {
	to, b := (*[2 * groupSize]byte)(dst), (*[2 * groupSize]byte)(base)
	for i := 0; i < groupSize; i += 8 {
		r.refill()
		acc, n := r.acc, r.n
		for j := i; j < i+8; j++ {
			s := sym[j]
			x := c.extra[s]
			z := c.low[s] + acc&(1<<(x&63)-1)
			acc >>= x & 63
			n -= uint(x)
			v := binary.LittleEndian.Uint16(b[2*j:]) + uint16(unzig(z))
			binary.LittleEndian.PutUint16(to[2*j:], v)
		}
		r.acc, r.n = acc, n
	}
}

func add4(dst, base []byte, sym *[groupSize]uint8, r *bitReader, c *classes) {
	to, b := (*[4 * groupSize]byte)(dst), (*[4 * groupSize]byte)(base)
	for i := 0; i < groupSize; i += 2 {
		r.refill()
		z := c.low[sym[i]] + r.take(uint(c.extra[sym[i]]))
		v := binary.LittleEndian.Uint32(b[4*i:]) + uint32(unzig(z))
		binary.LittleEndian.PutUint32(to[4*i:], v)
		z = c.low[sym[i+1]] + r.take(uint(c.extra[sym[i+1]]))
		v = binary.LittleEndian.Uint32(b[4*i+4:]) + uint32(unzig(z))
		binary.LittleEndian.PutUint32(to[4*i+4:], v)
	}
}

func add8(dst, base []byte, sym *[groupSize]uint8, r *bitReader, c *classes) {
	for i, s := range sym {
		z := c.low[s] + r.get(uint(c.extra[s]))
		v := binary.LittleEndian.Uint64(base[8*i:]) + unzig(z)
		binary.LittleEndian.PutUint64(dst[8*i:], v)
	}
}
