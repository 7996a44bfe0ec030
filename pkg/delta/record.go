package delta

import "encoding/binary"

// A record is what is to be coded of a block, in order: the encoder first
// records it, then fits the model to it, then writes it.
type record struct {
	events []event
	units  []unit
	now    history
}

// event is one symbol.
type event struct{ kind, state, key, sym uint8 }

// unit is a group of elements or a quantised block.
type unit struct {
	events   int // in order, how many of the events are its own
	activity uint
}

func (r *record) reset() { r.events, r.units, r.now = r.events[:0], r.units[:0], history{} }

// begin starts a unit; end, if it changed, must follow the last of its events.
func (r *record) begin() {
	r.units = append(r.units, unit{events: -len(r.events), activity: r.now.activity})
}

func (r *record) end() { r.units[len(r.units)-1].events += len(r.events) }

// same records an unchanged unit.
func (r *record) same() {
	r.begin()
	r.end()
	r.now.see(0, 0, false)
}

func (r *record) add(kind, state int, key, sym uint8) {
	r.events = append(r.events, event{uint8(kind), uint8(state), key, sym})
}

// group records a group and lets it count for the history.
func (r *record) group(state int, key, sym *[groupSize]uint8, directed bool) {
	for i, s := range sym {
		r.add(kindMain, state, key[i], s)
	}
	r.now.see(binary.LittleEndian.Uint64(sym[:]), binary.LittleEndian.Uint64(sym[8:]), directed)
}

// writeRecord fits the model to the record and hands everything to the range
// coder.
func (e *Encoder) writeRecord() {
	m := &e.model
	e.fitModel()
	e.writeTables()
	m.write(&e.header)
	events := e.record.events
	var sym, table [groupSize]uint8
	for _, u := range e.record.units {
		bin := int(m.bin[u.activity])
		if m.flag[bin] != always {
			e.rans.one(m.flag[bin], uint8(min(u.events, 1)))
		}
		for rest := events[:u.events]; len(rest) > 0; {
			if rest[0].kind != kindMain {
				e.rans.one(e.tableOf(&rest[0], bin), rest[0].sym)
				rest = rest[1:]
				continue
			}
			for i := range sym {
				sym[i], table[i] = rest[i].sym, e.tableOf(&rest[i], bin)
			}
			e.rans.group(&sym, &table)
			rest = rest[groupSize:]
		}
		events = events[u.events:]
	}
}

func (e *Encoder) tableOf(v *event, bin int) uint8 {
	m, kind := &e.model, int(v.kind)
	return m.grids[kind].row[m.row(kind, int(v.state), bin)][v.key]
}
