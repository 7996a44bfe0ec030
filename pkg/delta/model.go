package delta

// A model says which table codes what: the header of a DELTA or STRIDE block.
// A block is a row of units: groups of elements, or quantised blocks. What the
// units before did gives a bin of activity. The bin chooses the table of the
// flag whether a unit changed at all, and with the state of a group its row.
type model struct {
	states int                    // of a group: 1, levels or scaleStates
	edges  []uint16               // activities at which bins begin, but for the first
	flag   [maxBins]uint8         // by bin, the table
	bin    [maxActivity + 1]uint8 // by activity
	grids  [4]grid                // by kind
}

// The kinds of symbols; each has its grid.
const (
	kindMain  = iota // elements or quants, in groups; row: state and bin
	kindFresh        // keys of replaced elements; one row
	kindScale        // scales of quantised blocks; row: bin
	kindOther        // other bytes of quantised blocks; row: whether the scale changed
)

const (
	maxBins       = 16
	maxStrideBins = 4  // with scaleStates states to each
	always        = 63 // in place of a flag's table: every unit changed
)

// rows is how many rows the grid of a kind has.
func (m *model) rows(kind int) int {
	bins := len(m.edges) + 1
	switch {
	case kind == kindMain:
		return m.states * bins
	case m.states == scaleStates && kind == kindScale:
		return bins
	case m.states == scaleStates && kind == kindOther:
		return 2
	case m.states != scaleStates && kind == kindFresh:
		return 1
	default:
		return 0
	}
}

// write puts the model into a header: for elements, a bit whether it is
// directed; the number of bins less one (4 bits) and where they begin, but for
// the first (14 bits each); the flags' tables (6 bits each); the grids.
func (m *model) write(w *bitWriter) {
	if m.states != scaleStates {
		w.put(uint64(m.states/levels), 1)
	}
	w.put(uint64(len(m.edges)), 4)
	for _, e := range m.edges {
		w.put(uint64(e), 14)
	}
	for b := range len(m.edges) + 1 {
		w.put(uint64(m.flag[b]), 6)
	}
	for kind := range m.grids {
		if m.rows(kind) > 0 {
			m.grids[kind].write(w)
		}
	}
}

// read is the inverse of write, for a block of so many tables.
func (m *model) read(r *bitReader, tables int, stride bool) bool {
	m.states = scaleStates
	if !stride {
		m.states = 1
		if r.get(1) == 1 {
			m.states = levels
		}
	}
	ok := true
	m.edges = m.edges[:0]
	for range r.get(4) {
		e := uint16(r.get(14))
		ok = ok && (len(m.edges) == 0 || e > m.edges[len(m.edges)-1])
		m.edges = append(m.edges, e)
	}
	if !ok || stride && len(m.edges) >= maxStrideBins {
		return false
	}
	for b := range len(m.edges) + 1 {
		m.flag[b] = uint8(r.get(6))
		ok = ok && (int(m.flag[b]) < tables || m.flag[b] == always)
	}
	for kind := range m.grids {
		ok = ok && m.grids[kind].read(r, m.rows(kind), tables)
	}
	m.layBins()
	return ok
}

// layBins fills in bin from edges.
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

// binOf is the bin of what comes after such a history.
func (m *model) binOf(h *history) int { return int(m.bin[h.activity&maxActivity]) }

// row is the row of a symbol.
func (m *model) row(kind, state, bin int) int {
	switch kind {
	case kindMain:
		return state*(len(m.edges)+1) + bin
	case kindScale:
		return bin
	default:
		return state
	}
}

// flip says whether the difference to an element is coded negated: so that it
// is positive if the value moves as those before it did.
func (m *model) flip(h *history, base uint64, width int) uint64 {
	if m.states == levels {
		return h.flip() ^ signOf(base, width)
	}
	return 0
}

// state is the state of a group of elements after such a history.
func (m *model) state(h *history) int {
	if m.states == levels {
		return h.level()
	}
	return 0
}
