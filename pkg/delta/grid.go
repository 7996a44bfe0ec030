package delta

// A grid says which table codes a symbol: by row, which stands for what the
// symbols before tell, and by key, which stands for what the base tells. Keys
// are joined into ranges.
type grid struct {
	ranges []uint8      // first keys of the ranges; ranges[0] is 0
	cell   [][256]uint8 // by row and range, the table
	row    [][256]uint8 // by row and key, the table
	slots  [][256]*slots
}

const maxRanges = 32

// shape gives the grid so many rows, of which nothing is known yet.
func (g *grid) shape(rows int) {
	if cap(g.cell) < rows {
		g.cell = make([][256]uint8, rows)
		g.row = make([][256]uint8, rows)
	}
	g.cell, g.row = g.cell[:rows], g.row[:rows]
	g.ranges = append(g.ranges[:0], 0)
}

// write puts the grid into a header: the number of ranges less one (5 bits),
// their first keys but for 0 (8 bits each), and cell by cell, row by row, a 1
// for the table of the cell before (in the first cell of all, table 0), 01 for
// that of the cell above (in the first row, table 0), 00 and 6 bits for
// another.
func (g *grid) write(w *bitWriter) {
	w.put(uint64(len(g.ranges)-1), 5)
	for _, k := range g.ranges[1:] {
		w.put(uint64(k), 8)
	}
	var left uint8
	for r := range g.cell {
		for k := range g.ranges {
			t := g.cell[r][k]
			switch {
			case t == left:
				w.put(1, 1)
			case t == g.above(r, k):
				w.put(0b10, 2)
			default:
				w.put(uint64(t)<<2, 8)
			}
			left = t
		}
	}
}

func (g *grid) above(r, k int) uint8 {
	if r == 0 {
		return 0
	}
	return g.cell[r-1][k]
}

// read is the inverse of write, for a grid of so many rows and a block of so
// many tables.
func (g *grid) read(r *bitReader, rows, tables int) bool {
	g.shape(rows)
	if rows == 0 {
		return true
	}
	ok := true
	for range r.get(5) {
		k := uint8(r.get(8))
		ok = ok && k > g.ranges[len(g.ranges)-1]
		g.ranges = append(g.ranges, k)
	}
	var t uint8
	for i := range g.cell {
		for k := range g.ranges {
			if r.get(1) == 0 {
				if r.get(1) == 1 {
					t = g.above(i, k)
				} else {
					t = uint8(r.get(6))
				}
			}
			ok = ok && int(t) < tables
			g.cell[i][k] = t
		}
	}
	if ok {
		g.expand()
	}
	return ok
}

// expand fills in row from cell.
func (g *grid) expand() {
	for i := range g.cell {
		for r, from := range g.ranges {
			to := 256
			if r+1 < len(g.ranges) {
				to = int(g.ranges[r+1])
			}
			for k := int(from); k < to; k++ {
				g.row[i][k] = g.cell[i][r]
			}
		}
	}
}

// aim fills in slots from row.
func (g *grid) aim(tables *[maxTables]slots) {
	if cap(g.slots) < len(g.row) {
		g.slots = make([][256]*slots, cap(g.row))
	}
	g.slots = g.slots[:len(g.row)]
	for i := range g.row {
		for k, t := range &g.row[i] {
			g.slots[i][k] = &tables[t&(maxTables-1)]
		}
	}
}
