package delta

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
	if string(plain) == string(base) {
		e.record.same()
		return
	}
	m, r, c := &e.model, &e.record, e.classes[width]
	r.begin()
	past := r.now
	var key, sym [groupSize]uint8
	for i := range sym {
		v, b := load(plain[i*width:], width), load(base[i*width:], width)
		flip := m.flip(&past, b, width)
		key[i] = keyOf(b, width)
		sym[i], _ = symbol(v, b, width, limit, flip)
		if n := c.extra[sym[i]]; n > 0 {
			e.bits.put(difference(v, b, width, flip)&(1<<n-1), uint(n))
		}
	}
	r.group(m.state(&past), &key, &sym, m.states == levels)
	for i, s := range sym {
		if s == replace && width > 1 {
			v := load(plain[i*width:], width)
			r.add(kindFresh, 0, key[i], keyOf(v, width))
			e.bits.put(restOf(v, width), 8*uint(width-1))
		}
	}
	r.end()
}
