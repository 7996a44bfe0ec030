package delta

// A model says which table codes what: the header of a DELTA block. Elements
// are taken in groups of groupSize. The activity of a block is a decaying sum
// of the symbols of the groups before; its bin and the base
// element's key choose the table of an element, its bin that of the flag
// whether a group changed at all.
type model struct {
	edges  []uint16                // activity at which bins begin, but for the first
	ranges []uint8                 // first keys of the key ranges; ranges[0] is 0
	flag   [maxBins]uint8          // bin to table
	cell   [maxBins + 1][256]uint8 // bin and key range to table; the row after the last bin is for replaced elements
	row    [maxBins + 1][256]uint8 // the same by bin and key
	bin    [maxActivity + 1]uint8  // by activity
}

const (
	maxBins     = 16
	maxRanges   = 32
	maxActivity = 1<<14 - 1 // over 4 times 16 symbols
	always      = 63        // in place of a flag's table: every group changed
)

// decay ages an activity and adds the symbols of one more group.
func decay(activity, sum uint) uint { return activity - activity>>2 + sum }

// write puts the model into a header.
func (m *model) write(w *bitWriter) {
	w.put(uint64(len(m.edges)), 4)
	for _, e := range m.edges {
		w.put(uint64(e), 14)
	}
	w.put(uint64(len(m.ranges)-1), 5)
	for _, k := range m.ranges[1:] {
		w.put(uint64(k), 8)
	}
	for b := range len(m.edges) + 2 {
		if b <= len(m.edges) {
			w.put(uint64(m.flag[b]), 6)
		}
		for r := range m.ranges {
			w.put(uint64(m.cell[b][r]), 6)
		}
	}
}

// read is the inverse of write, for a block of so many tables.
func (m *model) read(r *bitReader, tables int) bool {
	m.edges, m.ranges = m.edges[:0], append(m.ranges[:0], 0)
	ok := true
	for range r.get(4) {
		e := uint16(r.get(14))
		ok = ok && (len(m.edges) == 0 || e > m.edges[len(m.edges)-1])
		m.edges = append(m.edges, e)
	}
	for range r.get(5) {
		k := uint8(r.get(8))
		ok = ok && k > m.ranges[len(m.ranges)-1]
		m.ranges = append(m.ranges, k)
	}
	for b := range len(m.edges) + 2 {
		if b <= len(m.edges) {
			m.flag[b] = uint8(r.get(6))
			ok = ok && (int(m.flag[b]) < tables || m.flag[b] == always)
		}
		for i := range m.ranges {
			m.cell[b][i] = uint8(r.get(6))
			ok = ok && int(m.cell[b][i]) < tables
		}
	}
	if ok {
		m.expand()
	}
	return ok
}

// expand fills the look-up tables from what the header says.
func (m *model) expand() {
	m.layBins()
	for b := range len(m.edges) + 2 {
		r := 0
		for k := range 256 {
			if r+1 < len(m.ranges) && k >= int(m.ranges[r+1]) {
				r++
			}
			m.row[b][k] = m.cell[b][r]
		}
	}
}

func (m *model) layBins() {
	from := 0
	for b := range len(m.edges) + 1 {
		to := len(m.bin)
		if b < len(m.edges) {
			to = int(m.edges[b])
		}
		for i := from; i < to; i++ {
			m.bin[i] = uint8(b)
		}
		from = to
	}
}

// replaced is the row of replaced elements.
func (m *model) replaced() *[256]uint8 { return &m.row[len(m.edges)+1] }
