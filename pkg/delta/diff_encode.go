package delta

import "encoding/binary"

// symbol is how an element is coded against its base, and how many bits follow.
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
	width := h.width
	if len(plain) == 0 {
		return dst
	}
	e.openHeader()
	e.model.directed = h.directed
	e.classify(plain, base, width, h.limit)
	e.fitModel()
	e.writeTables()
	e.model.write(&e.header)
	m, f := &e.model, &e.fit
	var table [groupSize]uint8
	for g, changed := range f.changed {
		bin := m.bin[f.past[g].activity]
		if !changed {
			e.rans.one(m.flag[bin], 0)
			continue
		}
		if m.flag[bin] != always {
			e.rans.one(m.flag[bin], 1)
		}
		at := g * groupSize
		sym := (*[groupSize]uint8)(f.sym[at:])
		row := &m.row[m.rowOf(&f.past[g])]
		for i := range table {
			table[i] = row[f.key[at+i]]
		}
		e.rans.group(sym, &table)
		if width > 1 {
			e.tail(plain[at*width:], base[at*width:], g, width)
		}
	}
	return e.close(dst)
}

// tail writes what follows the symbols of a group: bits of classes, then the
// replaced elements.
func (e *Encoder) tail(plain, base []byte, g int, width int) {
	c, f := e.classes[width], &e.fit
	at := g * groupSize
	sym := f.sym[at : at+groupSize]
	for i, s := range sym {
		if n := c.extra[s]; n > 0 {
			b := load(base[i*width:], width)
			z := difference(load(plain[i*width:], width), b, width, e.model.flip(&f.past[g], b, width))
			e.bits.put(z&(1<<n-1), uint(n))
		}
	}
	row := &e.model.row[e.model.rows()]
	for i, s := range sym {
		if s == replace {
			v := load(plain[i*width:], width)
			e.rans.one(row[f.key[at+i]], keyOf(v, width))
			e.bits.put(restOf(v, width), 8*uint(width-1))
		}
	}
}

// classify fills in the symbols, keys and groups of a block.
func (e *Encoder) classify(plain, base []byte, width int, limit uint) {
	f, m := &e.fit, &e.model
	f.sym, f.key, f.new = f.sym[:0], f.key[:0], f.new[:0]
	f.past, f.changed = f.past[:0], f.changed[:0]
	var h history
	for at := 0; at < len(plain); at += groupSize * width {
		for i := at; i < at+groupSize*width; i += width {
			v, b := load(plain[i:], width), load(base[i:], width)
			s, _ := symbol(v, b, width, limit, m.flip(&h, b, width))
			f.sym = append(f.sym, s)
			f.key = append(f.key, keyOf(b, width))
			f.new = append(f.new, keyOf(v, width))
		}
		sym := f.sym[len(f.sym)-groupSize:]
		lo, hi := binary.LittleEndian.Uint64(sym), binary.LittleEndian.Uint64(sym[8:])
		f.past = append(f.past, h)
		f.changed = append(f.changed, lo|hi != 0)
		h.see(lo, hi, m.directed && lo|hi != 0)
	}
}
