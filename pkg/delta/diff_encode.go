package delta

// symbol is how an element is coded against its base, and how many bits follow.
func symbol(v, base uint64, width int, limit uint) (uint8, uint) {
	z := zigzag(v, base, width)
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
	width := h.width
	if len(plain) == 0 {
		return dst
	}
	e.openHeader()
	e.classify(plain, base, width, h.limit)
	e.fitModel()
	e.writeTables()
	e.model.write(&e.header)
	m, f := &e.model, &e.fit
	var table [groupSize]uint8
	for g, changed := range f.changed {
		bin := m.bin[f.activity[g]]
		if !changed {
			e.rans.one(m.flag[bin], 0)
			continue
		}
		if m.flag[bin] != always {
			e.rans.one(m.flag[bin], 1)
		}
		at := g * groupSize
		sym := (*[groupSize]uint8)(f.sym[at:])
		for i := range table {
			table[i] = m.row[bin][f.key[at+i]]
		}
		e.rans.group(sym, &table)
		if width > 1 {
			e.tail(plain[at*width:], base[at*width:], sym, f.key[at:], width)
		}
	}
	return e.close(dst)
}

// tail writes what follows the symbols of a group: bits of classes, then the
// replaced elements.
func (e *Encoder) tail(plain, base []byte, sym *[groupSize]uint8, key []uint8, width int) {
	c := e.classes[width]
	for i, s := range sym {
		if n := c.extra[s]; n > 0 {
			z := zigzag(load(plain[i*width:], width), load(base[i*width:], width), width)
			e.bits.put(z&(1<<n-1), uint(n))
		}
	}
	for i, s := range sym {
		if s == replace {
			v := load(plain[i*width:], width)
			e.rans.one(e.model.replaced()[key[i]], keyOf(v, width))
			e.bits.put(restOf(v, width), 8*uint(width-1))
		}
	}
}

// classify fills in the symbols, keys and groups of a block.
func (e *Encoder) classify(plain, base []byte, width int, limit uint) {
	f := &e.fit
	f.sym, f.key, f.new = f.sym[:0], f.key[:0], f.new[:0]
	f.activity, f.changed = f.activity[:0], f.changed[:0]
	activity := uint(0)
	for at := 0; at < len(plain); at += groupSize * width {
		sum, any := uint(0), false
		for i := at; i < at+groupSize*width; i += width {
			v, b := load(plain[i:], width), load(base[i:], width)
			s, _ := symbol(v, b, width, limit)
			f.sym = append(f.sym, s)
			f.key = append(f.key, keyOf(b, width))
			f.new = append(f.new, keyOf(v, width))
			sum += uint(s)
			any = any || s != 0
		}
		f.activity = append(f.activity, uint16(activity))
		f.changed = append(f.changed, any)
		activity = decay(activity, sum)
	}
}
