package telemetry

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
)

// Table is the lawful merge of messages: in whatever order, how often and over
// however many tables they come, the result is the same (commutative,
// associative, idempotent). Each (member key, epoch) has its newest row, and
// with it the newest values of series that later rows no longer repeat; each
// window is kept once. It is not safe for concurrent use.
//
// A table believes what it is given: verify before you insert.
type Table struct {
	rows    map[Slot]*entry
	windows map[Slot]Message
}

// entry is what is known of one (member key, epoch).
type entry struct {
	newest  Message
	dropped map[modelSeries]keptSeries // not in newest
}

type modelSeries struct {
	model Prefix
	key   SeriesKey
}

type keptSeries struct {
	from   Message // the newest row that has it
	series Series
}

// NewTable returns an empty table.
func NewTable() *Table {
	return &Table{rows: map[Slot]*entry{}, windows: map[Slot]Message{}}
}

// Insert merges one message and reports whether it was news. The table keeps
// the message's memory.
func (t *Table) Insert(m Message) bool {
	slot := m.Slot()
	if m.Window != nil {
		if old, ok := t.windows[slot]; ok && !m.Wins(old) {
			return false
		}
		t.windows[slot] = m
		return true
	}
	e := t.rows[slot]
	if e == nil {
		t.rows[slot] = &entry{newest: m}
		return true
	}
	if bytes.Equal(m.Raw, e.newest.Raw) {
		return false
	}
	older, newer := e.newest, m
	won := newer.Wins(older)
	if !won {
		older, newer = newer, older
	}
	e.newest = newer
	changed := e.keep(older)
	for k := range e.dropped {
		if has(newer, k) {
			delete(e.dropped, k)
		}
	}
	return won || changed
}

// keep remembers the series of a row that is not the newest.
func (e *entry) keep(old Message) bool {
	changed := false
	for _, m := range old.Row.Models {
		for _, s := range m.Series {
			k := modelSeries{m.Model, s.SeriesKey}
			if has(e.newest, k) {
				continue
			}
			kept, ok := e.dropped[k]
			if ok && !old.Wins(kept.from) || !ok && !e.room(old.Row.Seq) {
				continue
			}
			if e.dropped == nil {
				e.dropped = map[modelSeries]keptSeries{}
			}
			e.dropped[k] = keptSeries{old, s}
			changed = true
		}
	}
	return changed
}

// MaxDropped is how many series that newer rows do not repeat are kept of one
// (member key, epoch): more than a member has in years, and a bound for one that
// makes them up. Beyond it those heard of longest ago go.
const MaxDropped = 128

// room makes room for a series of a row with a sequence, if it is not itself the
// one that must go.
func (e *entry) room(seq uint64) bool {
	if len(e.dropped) < MaxDropped {
		return true
	}
	var oldest modelSeries
	low := seq
	for k, s := range e.dropped {
		if at := s.from.Row.Seq; at < low || at == low && low < seq && k.less(oldest) {
			oldest, low = k, at
		}
	}
	if low == seq {
		return false
	}
	delete(e.dropped, oldest)
	return true
}

func (k modelSeries) less(o modelSeries) bool {
	return cmp.Or(bytes.Compare(k.model[:], o.model[:]), bytes.Compare(k.key.Release[:], o.key.Release[:]),
		bytes.Compare(k.key.Rollout[:], o.key.Rollout[:]), cmp.Compare(k.key.Arm, o.key.Arm)) < 0
}

func has(m Message, k modelSeries) bool {
	p, ok := m.Row.Model(k.model)
	return ok && slices.ContainsFunc(p.Series, func(s Series) bool { return s.SeriesKey == k.key })
}

// Merge inserts everything that o knows.
func (t *Table) Merge(o *Table) {
	for _, m := range o.Messages() {
		t.Insert(m)
	}
}

// Newest is the newest row of a member's key: that of the highest epoch.
func (t *Table) Newest(key KeyID) (Message, bool) {
	var best *Message
	for slot, e := range t.rows {
		if slot.Key == key && (best == nil || slot.Epoch > best.Row.Epoch) {
			best = &e.newest
		}
	}
	if best == nil {
		return Message{}, false
	}
	return *best, true
}

// Row is the newest row of one boot epoch of a member.
func (t *Table) Row(key KeyID, epoch uint64) (Row, bool) {
	e := t.rows[Slot{Key: key, Epoch: epoch}]
	if e == nil {
		return Row{}, false
	}
	return *e.newest.Row, true
}

// Total is the sum of everything counted under a model's series, over all
// members and epochs.
func (t *Table) Total(model Prefix, key SeriesKey) Counters {
	var sum Counters
	for _, e := range t.rows {
		for _, s := range e.series(model) {
			if s.SeriesKey == key {
				sum.Add(s.Counters)
			}
		}
	}
	return sum
}

// Series lists everything a member counted of a model in one epoch, oldest
// first, each series with its newest known values.
func (t *Table) Series(key KeyID, epoch uint64, model Prefix) []Series {
	e := t.rows[Slot{Key: key, Epoch: epoch}]
	if e == nil {
		return nil
	}
	return e.series(model)
}

func (e *entry) series(model Prefix) []Series {
	var out []Series
	for k, s := range e.dropped {
		if k.model == model {
			out = append(out, s.series)
		}
	}
	slices.SortFunc(out, func(a, b Series) int {
		return cmp.Or(cmp.Compare(a.Since, b.Since), bytes.Compare(a.Release[:], b.Release[:]),
			bytes.Compare(a.Rollout[:], b.Rollout[:]), cmp.Compare(a.Arm, b.Arm))
	})
	m, _ := e.newest.Row.Model(model)
	return append(out, m.Series...)
}

// Sketch is the merge of every window's sketch that f accepts.
func (t *Table) Sketch(f func(WindowKey) bool) *Sketch {
	sum := &Sketch{}
	for _, m := range t.windows {
		if f(m.Window.WindowKey) {
			sum.Merge(m.Window.Sketch)
		}
	}
	return sum
}

// Messages lists everything needed to make the same table again, in a fixed
// order: windows, rows, and the rows that last held a dropped series.
func (t *Table) Messages() []Message {
	all := slices.Collect(maps.Values(t.windows))
	for _, e := range t.rows {
		all = append(all, e.newest)
		for _, kept := range e.dropped {
			all = append(all, kept.from)
		}
	}
	slices.SortFunc(all, func(a, b Message) int { return bytes.Compare(a.Raw, b.Raw) })
	return slices.CompactFunc(all, func(a, b Message) bool { return bytes.Equal(a.Raw, b.Raw) })
}

// Len is the number of rows and windows kept.
func (t *Table) Len() int { return len(t.rows) + len(t.windows) }

// Remove drops what is in a slot.
func (t *Table) Remove(s Slot) {
	delete(t.rows, s)
	delete(t.windows, s)
}

// Forget drops everything of the slots that f accepts.
func (t *Table) Forget(f func(Slot) bool) {
	for s := range t.rows {
		if f(s) {
			delete(t.rows, s)
		}
	}
	for s := range t.windows {
		if f(s) {
			delete(t.windows, s)
		}
	}
}
