package delta

import (
	"encoding/binary"
	"math/bits"
)

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
	var planes [8]struct {
		sym   [groupSize]uint8
		table [groupSize]*slots
	}
	for p, t := 0, 0; p < width; p++ {
		if coded[p] {
			for i := range planes[p].table {
				planes[p].table[i] = &d.slots[t]
			}
			t++
		}
	}
	step := groupSize * width
	for len(dst) >= step {
		for p := range width {
			q := &planes[p]
			if coded[p] {
				d.rans.group(&q.sym, &q.table)
				continue
			}
			if len(raw) < groupSize {
				return false
			}
			q.sym = [groupSize]uint8(raw)
			raw = raw[groupSize:]
		}
		switch width {
		case 1:
			join1((*[groupSize]byte)(dst), &planes[0].sym)
		case 2:
			join2((*[2 * groupSize]byte)(dst), &planes[0].sym, &planes[1].sym)
		case 4:
			join4((*[4 * groupSize]byte)(dst), &planes[0].sym, &planes[1].sym, &planes[2].sym, &planes[3].sym)
		default:
			for i := range groupSize {
				var v uint64
				for p := range &planes {
					v |= uint64(planes[p].sym[i]) << (8 * p)
				}
				binary.LittleEndian.PutUint64(dst[8*i:], bits.RotateLeft64(v, -1))
			}
		}
		dst = dst[step:]
	}
	return d.rans.done() && len(raw) == 0
}

// The joins put the planes of a group together and turn its elements back.

func join1(dst, p0 *[groupSize]byte) {
	for i, b := range p0 {
		dst[i] = bits.RotateLeft8(b, -1)
	}
}

func join2(dst *[2 * groupSize]byte, p0, p1 *[groupSize]byte) {
	for i := range p0 {
		v := uint16(p0[i]) | uint16(p1[i])<<8
		binary.LittleEndian.PutUint16(dst[2*i:], bits.RotateLeft16(v, -1))
	}
}

func join4(dst *[4 * groupSize]byte, p0, p1, p2, p3 *[groupSize]byte) {
	for i := range p0 {
		v := uint32(p0[i]) | uint32(p1[i])<<8 | uint32(p2[i])<<16 | uint32(p3[i])<<24
		binary.LittleEndian.PutUint32(dst[4*i:], bits.RotateLeft32(v, -1))
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
	var planes, tables [8][groupSize]uint8
	t := uint8(0)
	for p := range width {
		if coded[p] {
			for i := range tables[p] {
				tables[p][i] = t
			}
			t++
		}
	}
	for ; len(plain) > 0; plain = plain[groupSize*width:] {
		split(&planes, plain, width)
		for p := range width {
			if coded[p] {
				e.rans.group(&planes[p], &tables[p])
			} else {
				e.bits.out = append(e.bits.out, planes[p][:]...)
			}
		}
	}
	return e.close(dst)
}

// split takes the first group of plain apart into its planes.
func split(planes *[8][groupSize]uint8, plain []byte, width int) {
	switch width {
	case 2:
		in := (*[2 * groupSize]byte)(plain)
		for i := range groupSize {
			v := bits.RotateLeft16(binary.LittleEndian.Uint16(in[2*i:]), 1)
			planes[0][i], planes[1][i] = uint8(v), uint8(v>>8)
		}
	case 4:
		in := (*[4 * groupSize]byte)(plain)
		for i := range groupSize {
			v := bits.RotateLeft32(binary.LittleEndian.Uint32(in[4*i:]), 1)
			planes[0][i], planes[1][i], planes[2][i], planes[3][i] = uint8(v), uint8(v>>8), uint8(v>>16), uint8(v>>24)
		}
	default:
		for i := range groupSize {
			v := turn(load(plain[i*width:], width), width)
			for p := range width {
				planes[p][i] = uint8(v >> (8 * p))
			}
		}
	}
}

// turn turns an element left by one bit.
func turn(v uint64, width int) uint64 {
	n := 8 * uint(width)
	return (v<<1 | v>>((n-1)&63)) << ((64 - n) & 63) >> ((64 - n) & 63)
}
