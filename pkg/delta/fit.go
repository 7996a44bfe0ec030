package delta

import (
	"cmp"
	"slices"
)

// fit is the scratch of fitting a model to a block.
type fit struct {
	sym     []uint8                 // of the elements
	key     []uint8                 // of their base elements
	new     []uint8                 // of themselves
	past    []history               // before each group
	changed []bool                  // groups
	groups  [maxActivity + 1]uint32 // by activity
	parts   []part
	keys    [256]part
	cells   []cell
}

// cell is the statistics of one bin and key range, or of one bin's flags.
type cell struct {
	histogram
	table *uint8 // where its table's number goes
}

// fitModel chooses bins, key ranges and tables for what classify found.
func (e *Encoder) fitModel() {
	f, m := &e.fit, &e.model
	e.fitBins()
	e.fitRanges()
	bins, rows, ranges := len(m.edges)+1, m.rows(), len(m.ranges)
	f.cells = f.cells[:0]
	for i := range rows + 1 {
		for r := range ranges {
			f.cells = append(f.cells, cell{table: &m.cell[i][r]})
		}
	}
	for b := range bins {
		f.cells = append(f.cells, cell{table: &m.flag[b]})
	}
	fresh, flags := f.cells[rows*ranges:], f.cells[(rows+1)*ranges:]
	var rangeOf [256]uint8
	for k, r := 0, 0; k < 256; k++ {
		if r+1 < ranges && k >= int(m.ranges[r+1]) {
			r++
		}
		rangeOf[k] = uint8(r)
	}
	for g, changed := range f.changed {
		b := m.bin[f.past[g].activity]
		if !changed {
			flags[b].histogram[0]++
			continue
		}
		flags[b].histogram[1]++
		row := f.cells[m.rowOf(&f.past[g])*ranges:]
		for i := g * groupSize; i < (g+1)*groupSize; i++ {
			r := rangeOf[f.key[i]]
			row[r].histogram[f.sym[i]]++
			if f.sym[i] == replace {
				fresh[r].histogram[f.new[i]]++
			}
		}
	}
	e.assign(f.cells[:rows*ranges], maxTables-1-maxBins-4)
	e.assign(fresh[:ranges], 4)
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
	m.expand()
}

// fitBins divides the activities into bins of about as many groups each, and
// joins those that need not be told apart.
func (e *Encoder) fitBins() {
	f, m := &e.fit, &e.model
	clear(f.groups[:])
	for i := range f.past {
		f.groups[f.past[i].activity]++
	}
	m.edges = m.edges[:0]
	var seen int
	for a, n := range f.groups {
		if n == 0 {
			continue
		}
		if b := seen * maxBins / len(f.past); seen > 0 && b > len(m.edges) && len(m.edges) < maxBins-1 {
			m.edges = append(m.edges, uint16(a))
		}
		seen += int(n)
	}
	m.layBins()
	f.parts = slices.Grow(f.parts[:0], maxBins)[:len(m.edges)+1]
	for b := range f.parts {
		f.parts[b] = part{first: b}
	}
	for g, changed := range f.changed {
		h := &f.parts[m.bin[f.past[g].activity]].histogram
		if !changed {
			h[replace-1]++
			continue
		}
		for _, s := range f.sym[g*groupSize : (g+1)*groupSize] {
			h[s]++
		}
	}
	f.parts = e.costs.merge(f.parts, maxBins, 60)
	for b, p := range f.parts[1:] {
		m.edges[b] = m.edges[p.first-1]
	}
	m.edges = m.edges[:len(f.parts)-1]
	m.layBins()
}

// fitRanges divides the keys into ranges.
func (e *Encoder) fitRanges() {
	f, m := &e.fit, &e.model
	f.keys = [256]part{}
	for g, changed := range f.changed {
		if changed {
			for i := g * groupSize; i < (g+1)*groupSize; i++ {
				f.keys[f.key[i]].histogram[f.sym[i]]++
			}
		}
	}
	f.parts = f.parts[:0]
	for k := range f.keys {
		if f.keys[k].histogram != (histogram{}) {
			f.keys[k].first = k
			f.parts = append(f.parts, f.keys[k])
		}
	}
	f.parts = e.costs.merge(f.parts, maxRanges, int64(8+6*m.rows()))
	m.ranges = append(m.ranges[:0], 0)
	for i := 1; i < len(f.parts); i++ {
		m.ranges = append(m.ranges, uint8(f.parts[i].first))
	}
}

// assign gives the cells that occur tables to share, at most limit of them.
func (e *Encoder) assign(cells []cell, limit int) {
	f := &e.fit
	order := make([]int, 0, len(cells))
	for i := range cells {
		*cells[i].table = 0
		if cells[i].histogram != (histogram{}) {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(cells[a].mean(), cells[b].mean()) })
	f.parts = f.parts[:0]
	for at, i := range order {
		f.parts = append(f.parts, part{histogram: cells[i].histogram, first: at})
	}
	f.parts = e.costs.merge(f.parts, limit, 0)
	for p := range f.parts {
		to := len(order)
		if p+1 < len(f.parts) {
			to = f.parts[p+1].first
		}
		for _, i := range order[f.parts[p].first:to] {
			*cells[i].table = uint8(len(e.counts))
		}
		e.counts = append(e.counts, f.parts[p].histogram)
	}
}
