package delta

import "encoding/binary"

// symbol is how an element is coded against its base, and how many bits follow.
// A difference of more than limit bits is not one.
func symbol(v, base uint64, width int, limit uint, flip uint64) (uint8, uint) {
	z := difference(v, base, width, flip)
	if width == 1 {
		return uint8(z), 0
	}
	n := 8 * uint(width)
	if (v^base)>>(n-1) != 0 || z>>limit != 0 {
		return replace, n - 8
	}
	return classOf(z)
}

// diff appends the whole groups of a block against a base to dst.
func (e *Encoder) diff(dst, plain, base []byte, h head) []byte {
	if len(plain) == 0 {
		return dst
	}
	e.openHeader()
	e.model.states = 1
	if h.directed {
		e.model.states = levels
	}
	e.record.reset()
	step := groupSize * h.width
	for ; len(plain) > 0; plain, base = plain[step:], base[step:] {
		e.recordGroup(plain[:step], base[:step], h.width, h.limit)
	}
	e.writeRecord()
	return e.close(dst)
}

// recordGroup records a group of elements.
func (e *Encoder) recordGroup(plain, base []byte, width int, limit uint) {
	m, r := &e.model, &e.record
	if string(plain) == string(base) {
		r.same()
		return
	}
	u := r.begin()
	g := r.group(u, m.state(&r.now))
	if width == 1 {
		g.recordBytes(plain, base, m.flip(&r.now, 0, 1))
	} else {
		e.recordElements(g, plain, base, width, limit)
	}
	r.count(g, m.states == levels)
	for i, s := range &g.sym {
		if s == replace && width > 1 {
			v := load(plain[i*width:], width)
			r.single(u, kindFresh, 0, g.key[i], keyOf(v, width))
			e.bits.put(restOf(v, width), 8*uint(width-1))
		}
	}
}

// recordBytes fills in the keys and symbols of bytes, eight at a time.
func (g *group) recordBytes(plain, base []byte, flip uint64) {
	copy(g.key[:], base[:groupSize])
	for i := 0; i < groupSize; i += 8 {
		d := sub8(binary.LittleEndian.Uint64(plain[i:]), binary.LittleEndian.Uint64(base[i:]))
		d = add8(d^flip, flip&low1)
		binary.LittleEndian.PutUint64(g.sym[i:], zigzag8(d))
	}
}

// recordElements fills in the keys and symbols of wider elements, and writes
// the bits that follow them.
func (e *Encoder) recordElements(g *group, plain, base []byte, width int, limit uint) {
	past, c := e.record.now, e.classes[width]
	for i := range g.sym {
		v, b := load(plain[i*width:], width), load(base[i*width:], width)
		flip := e.model.flip(&past, b, width)
		g.key[i] = keyOf(b, width)
		g.sym[i], _ = symbol(v, b, width, limit, flip)
		if n := c.extra[g.sym[i]]; n > 0 {
			e.bits.put(difference(v, b, width, flip)&(1<<n-1), uint(n))
		}
	}
}
