package delta

// SELF: without a base, an element is turned left by one bit, so that its key
// is the byte above and its sign goes to the bottom, and taken apart into
// byte planes. Each plane has a table of its own, or is as it is if that is no
// longer. The header says which planes have one: a bit each, the lowest plane
// first.

// self decodes the whole groups of a SELF block.
func (d *Decoder) self(dst, in []byte, width int) bool {
	tables, ok := d.openHeader(in)
	if !ok {
		return false
	}
	var coded [8]bool
	for p := range width {
		if coded[p] = d.bits.get(1) == 1; coded[p] {
			tables--
		}
	}
	if tables != 0 || !d.openStreams(in) {
		return false
	}
	raw := d.bits.in // its whole bytes are the other planes
	var plane [8][groupSize]uint8
	step := groupSize * width
	for len(dst) >= step {
		table := uint8(0)
		for p := range width {
			if !coded[p] {
				if len(raw) < groupSize {
					return false
				}
				raw = raw[copy(plane[p][:], raw):]
				continue
			}
			for i := range d.table {
				d.table[i] = table
			}
			d.rans.group(&plane[p], &d.table)
			table++
		}
		join(dst[:step], &plane, width)
		dst = dst[step:]
	}
	return d.rans.done() && len(raw) == 0
}

// join puts the planes of a group together.
func join(dst []byte, plane *[8][groupSize]uint8, width int) {
	switch width {
	case 1:
		to := (*[groupSize]byte)(dst)
		for i, b := range plane[0] {
			to[i] = b>>1 | b<<7
		}
	case 2:
		to := (*[2 * groupSize]byte)(dst)
		for i := range groupSize {
			lo, hi := plane[0][i], plane[1][i]
			to[2*i] = lo>>1 | hi<<7
			to[2*i+1] = hi>>1 | lo<<7
		}
	default:
		for i := range groupSize {
			e := dst[i*width:][:width]
			for p := range e {
				e[p] = plane[p][i]>>1 | plane[(p+1)%width][i]<<7
			}
		}
	}
}

// self appends the whole groups of a block without a base to dst.
func (e *Encoder) self(dst, plain []byte, width int) []byte {
	e.countPlanes(plain, width)
	var coded [8]bool
	e.openHeader()
	for p := range width {
		if e.costs.with(e.planes[p][:]) < int64(len(plain)/width)*8*bit {
			coded[p] = true
			e.counts = append(e.counts, e.planes[p])
		}
	}
	if len(e.counts) == 0 {
		return append(dst, plain...) // the caller will see that it is no gain
	}
	e.writeTables()
	for p := range width {
		if coded[p] {
			e.header.put(1, 1)
		} else {
			e.header.put(0, 1)
		}
	}
	var sym, table [groupSize]uint8
	for ; len(plain) > 0; plain = plain[groupSize*width:] {
		t := uint8(0)
		for p := range width {
			for i := range sym {
				sym[i] = uint8(turn(load(plain[i*width:], width), width) >> (8 * p))
				table[i] = t
			}
			if coded[p] {
				e.rans.group(&sym, &table)
				t++
			} else {
				e.bits.out = append(e.bits.out, sym[:]...)
			}
		}
	}
	return e.close(dst)
}

// turn turns an element left by one bit.
func turn(v uint64, width int) uint64 {
	n := 8 * uint(width)
	return (v<<1 | v>>(n-1)) << (64 - n) >> (64 - n)
}
