package delta

import "encoding/binary"

// A record is what is to be coded of a block, in order: the encoder first
// records it, then fits the model to it, then writes it.
type record struct {
	units   []unit
	groups  []group  // of kindMain
	singles []single // of the other kinds
	now     history
}

// unit is a group of elements or a quantised block, unchanged if it has no
// groups. Of elements, the group comes before the singles; of a quantised
// block, after them.
type unit struct {
	activity        uint16
	groups, singles uint16 // how many are its own
}

// group is the symbols of a group and their keys.
type group struct {
	key, sym [groupSize]uint8
	state    uint8
}

// single is a symbol on its own.
type single struct{ kind, state, key, sym uint8 }

func (r *record) reset() {
	r.units, r.groups, r.singles, r.now = r.units[:0], r.groups[:0], r.singles[:0], history{}
}

// begin starts a unit and returns it; until the next one starts it may be
// added to.
func (r *record) begin() *unit {
	r.units = append(r.units, unit{activity: uint16(r.now.activity)})
	return &r.units[len(r.units)-1]
}

// same records an unchanged unit.
func (r *record) same() {
	r.begin()
	r.now.see(0, 0, false)
}

// single adds a symbol to the unit.
func (r *record) single(u *unit, kind, state int, key, sym uint8) {
	r.singles = append(r.singles, single{uint8(kind), uint8(state), key, sym})
	u.singles++
}

// group adds a group to the unit, to be filled in.
func (r *record) group(u *unit, state int) *group {
	r.groups = append(r.groups, group{state: uint8(state)})
	u.groups++
	return &r.groups[len(r.groups)-1]
}

// count lets a group count for the history.
func (r *record) count(g *group, directed bool) {
	r.now.see(binary.LittleEndian.Uint64(g.sym[:]), binary.LittleEndian.Uint64(g.sym[8:]), directed)
}

// visit calls unit for each unit, with its groups and singles.
func (r *record) visit(unit func(u *unit, groups []group, singles []single)) {
	groups, singles := r.groups, r.singles
	for i := range r.units {
		u := &r.units[i]
		unit(u, groups[:u.groups], singles[:u.singles])
		groups, singles = groups[u.groups:], singles[u.singles:]
	}
}

// writeRecord fits the model to the record and hands everything to the range
// coder.
func (e *Encoder) writeRecord() {
	m := &e.model
	e.fitModel()
	e.writeTables()
	m.write(&e.header)
	var table [groupSize]uint8
	e.record.visit(func(u *unit, groups []group, singles []single) {
		bin := int(m.bin[u.activity])
		if m.flag[bin] != always {
			e.rans.one(m.flag[bin], uint8(min(u.groups, 1)))
		}
		if m.states == scaleStates {
			e.writeSingles(singles, bin)
		}
		for i := range groups {
			g := &groups[i]
			row := &m.grids[kindMain].row[m.row(kindMain, int(g.state), bin)]
			for i, k := range &g.key {
				table[i] = row[k]
			}
			e.rans.group(&g.sym, &table)
		}
		if m.states != scaleStates {
			e.writeSingles(singles, bin)
		}
	})
}

func (e *Encoder) writeSingles(singles []single, bin int) {
	for _, s := range singles {
		kind := int(s.kind)
		row := &e.model.grids[kind].row[e.model.row(kind, int(s.state), bin)]
		e.rans.one(row[s.key], s.sym)
	}
}
