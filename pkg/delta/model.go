package delta

// A model says which table codes what: the header of a DELTA block. Elements
// are taken in groups of groupSize. What the groups before did gives a bin of
// activity and, if the model is directed, a level of trend; they and the key
// of the base's element choose the table of an element. The bin alone chooses
// that of the flag whether a group changed at all.
type model struct {
	directed bool
	edges    []uint16                // activity at which bins begin, but for the first
	ranges   []uint8                 // first keys of the key ranges; ranges[0] is 0
	flag     [maxBins]uint8          // bin to table
	cell     [maxRows + 1][256]uint8 // row and key range to table; a row is a bin, or a bin and a level; the one after the last is for replaced elements
	row      [maxRows + 1][256]uint8 // the same by row and key
	bin      [maxActivity + 1]uint8  // by activity
}

const (
	maxBins   = 16
	maxRows   = maxBins * levels
	maxRanges = 32
	always    = 63 // in place of a flag's table: every group changed
)

// rows is how many rows there are, without that of replaced elements.
func (m *model) rows() int {
	if m.directed {
		return (len(m.edges) + 1) * levels
	}
	return len(m.edges) + 1
}

// write puts the model into a header.
func (m *model) write(w *bitWriter) {
	directed := uint64(0)
	if m.directed {
		directed = 1
	}
	w.put(directed, 1)
	w.put(uint64(len(m.edges)), 4)
	for _, e := range m.edges {
		w.put(uint64(e), 14)
	}
	w.put(uint64(len(m.ranges)-1), 5)
	for _, k := range m.ranges[1:] {
		w.put(uint64(k), 8)
	}
	for b := range len(m.edges) + 1 {
		w.put(uint64(m.flag[b]), 6)
	}
	for r := range m.rows() + 1 {
		for k := range m.ranges {
			w.put(uint64(m.cell[r][k]), 6)
		}
	}
}

// read is the inverse of write, for a block of so many tables.
func (m *model) read(r *bitReader, tables int) bool {
	m.edges, m.ranges = m.edges[:0], append(m.ranges[:0], 0)
	m.directed = r.get(1) == 1
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
	for b := range len(m.edges) + 1 {
		m.flag[b] = uint8(r.get(6))
		ok = ok && (int(m.flag[b]) < tables || m.flag[b] == always)
	}
	for i := range m.rows() + 1 {
		for k := range m.ranges {
			m.cell[i][k] = uint8(r.get(6))
			ok = ok && int(m.cell[i][k]) < tables
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
	for i := range m.rows() + 1 {
		r := 0
		for k := range 256 {
			if r+1 < len(m.ranges) && k >= int(m.ranges[r+1]) {
				r++
			}
			m.row[i][k] = m.cell[i][r]
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

// rowOf is the row of a group after such a history.
func (m *model) rowOf(h *history) int {
	if m.directed {
		return int(m.bin[h.activity])*levels + h.level()
	}
	return int(m.bin[h.activity])
}

// flip says whether the difference to an element is coded negated: so that it
// is positive if the value moves as those before it did.
func (m *model) flip(h *history, base uint64, width int) uint64 {
	if m.directed {
		return h.flip() ^ signOf(base, width)
	}
	return 0
}
