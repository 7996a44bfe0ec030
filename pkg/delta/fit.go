package delta

import (
	"cmp"
	"slices"
)

// fit is the scratch of fitting a model to a record.
type fit struct {
	units [maxActivity + 1]uint32 // by activity
	parts []part
	keys  [4][256]part // by kind and key
	cells [4][]cell    // by kind, row and range
	flags [maxBins]cell
	order []ranked
}

// ranked is a cell's index by its mean symbol.
type ranked struct {
	mean uint64
	cell int
}

// cell is the statistics of what shares a table.
type cell struct {
	histogram
	table *uint8 // where the table's number goes
}

// tableLimits is how many tables each kind may have; with one for every flag
// they are less than maxTables.
var tableLimits = [4]int{30, 4, 6, 6}

// fitModel chooses bins, key ranges and tables for what was recorded.
func (e *Encoder) fitModel() {
	f, m := &e.fit, &e.model
	bins := maxBins
	if m.states == scaleStates {
		bins = maxStrideBins
	}
	e.fitBins(bins)
	e.fitRanges()
	for kind := range m.grids {
		g := &m.grids[kind]
		f.cells[kind] = f.cells[kind][:0]
		for r := range g.cell {
			for k := range g.ranges {
				f.cells[kind] = append(f.cells[kind], cell{table: &g.cell[r][k]})
			}
		}
	}
	e.count()
	for kind := range m.grids {
		e.assign(f.cells[kind], tableLimits[kind])
		m.grids[kind].fill(f.cells[kind])
		m.grids[kind].expand()
	}
	flags := f.flags[:len(m.edges)+1]
	for b := range flags {
		if flags[b].histogram[0] == 0 {
			flags[b].histogram[1] = 0
		}
	}
	e.assign(flags, maxBins)
	for b := range flags {
		if flags[b].histogram[0] == 0 {
			m.flag[b] = always
		}
	}
}

// count counts the symbols of every cell and flag.
func (e *Encoder) count() {
	f, m := &e.fit, &e.model
	for b := range f.flags {
		f.flags[b] = cell{table: &m.flag[b]}
	}
	var rangeOf [4][256]uint8
	for kind := range m.grids {
		r, ranges := 0, m.grids[kind].ranges
		for k := range 256 {
			if r+1 < len(ranges) && k >= int(ranges[r+1]) {
				r++
			}
			rangeOf[kind][k] = uint8(r)
		}
	}
	e.record.visit(func(u *unit, groups []group, singles []single) {
		bin := int(m.bin[u.activity])
		f.flags[bin].histogram[min(u.groups, 1)]++
		for i := range groups {
			g := &groups[i]
			row := f.cells[kindMain][m.row(kindMain, int(g.state), bin)*len(m.grids[kindMain].ranges):]
			for i, k := range &g.key {
				row[rangeOf[kindMain][k]].histogram[g.sym[i]]++
			}
		}
		for _, s := range singles {
			kind := int(s.kind)
			at := m.row(kind, int(s.state), bin)*len(m.grids[kind].ranges) + int(rangeOf[kind][s.key])
			f.cells[kind][at].histogram[s.sym]++
		}
	})
}

// fitBins divides the activities into bins of about as many units each, and
// joins those that need not be told apart.
func (e *Encoder) fitBins(most int) {
	f, m := &e.fit, &e.model
	clear(f.units[:])
	for _, u := range e.record.units {
		f.units[u.activity]++
	}
	m.edges = m.edges[:0]
	var seen int
	for a, n := range f.units {
		if n == 0 {
			continue
		}
		if b := seen * most / len(e.record.units); b > len(m.edges) && len(m.edges) < most-1 {
			m.edges = append(m.edges, uint16(a))
		}
		seen += int(n)
	}
	m.layBins()
	f.parts = slices.Grow(f.parts[:0], most)[:len(m.edges)+1]
	for b := range f.parts {
		f.parts[b] = part{first: b}
	}
	e.record.visit(func(u *unit, groups []group, _ []single) {
		h := &f.parts[m.bin[u.activity]].histogram
		if u.groups == 0 {
			h[replace-1]++
		}
		for i := range groups {
			for _, s := range &groups[i].sym {
				h[s]++
			}
		}
	})
	f.parts = e.costs.merge(f.parts, most, 60)
	for b, p := range f.parts[1:] {
		m.edges[b] = m.edges[p.first-1]
	}
	m.edges = m.edges[:len(f.parts)-1]
	m.layBins()
	for kind := range m.grids {
		m.grids[kind].shape(m.rows(kind))
	}
}

// fitRanges divides the keys of every kind into ranges.
func (e *Encoder) fitRanges() {
	f, m := &e.fit, &e.model
	f.keys = [4][256]part{}
	for i := range e.record.groups {
		g := &e.record.groups[i]
		for i, k := range &g.key {
			f.keys[kindMain][k].histogram[g.sym[i]]++
		}
	}
	for _, s := range e.record.singles {
		f.keys[s.kind][s.key].histogram[s.sym]++
	}
	for kind := range m.grids {
		f.parts = f.parts[:0]
		for k := range f.keys[kind] {
			if f.keys[kind][k].histogram != (histogram{}) {
				f.keys[kind][k].first = k
				f.parts = append(f.parts, f.keys[kind][k])
			}
		}
		if len(f.parts) > 16 || m.states != scaleStates { // nibbles stay apart
			f.parts = e.costs.merge(f.parts, maxRanges, int64(8+2*m.rows(kind)))
		}
		for i := 1; i < len(f.parts); i++ {
			m.grids[kind].ranges = append(m.grids[kind].ranges, uint8(f.parts[i].first))
		}
	}
}

// assign gives the cells that occur tables to share, at most limit of them.
// Cells are sorted by their mean symbol and neighbours joined.
func (e *Encoder) assign(cells []cell, limit int) {
	f := &e.fit
	f.order = f.order[:0]
	for i := range cells {
		if cells[i].histogram != (histogram{}) {
			f.order = append(f.order, ranked{cells[i].mean(), i})
		}
	}
	slices.SortStableFunc(f.order, func(a, b ranked) int { return cmp.Compare(a.mean, b.mean) })
	f.parts = f.parts[:0]
	for at, r := range f.order {
		f.parts = append(f.parts, part{histogram: cells[r.cell].histogram, first: at})
	}
	f.parts = e.costs.merge(f.parts, limit, 0)
	for p := range f.parts {
		to := len(f.order)
		if p+1 < len(f.parts) {
			to = f.parts[p+1].first
		}
		for _, r := range f.order[f.parts[p].first:to] {
			*cells[r.cell].table = uint8(len(e.counts))
		}
		e.counts = append(e.counts, f.parts[p].histogram)
	}
}

// fill gives cells that do not occur the table of the cell before.
func (g *grid) fill(cells []cell) {
	t := uint8(0)
	for i := range cells {
		if cells[i].histogram == (histogram{}) {
			*cells[i].table = t
		}
		t = *cells[i].table
	}
}
