package relay

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// maxHeld bounds the messages of a hold; what is oldest goes first, windows
// before rows.
const maxHeld = 2048

// hold keeps one message a slot, the one that wins, until the coordinator has it
// and a while longer.
type hold map[telemetry.Slot]*item

// item is a message that is held. What it says, and of whom, never changes: a
// newer message is another item.
type item struct {
	msg     telemetry.Message
	member  fleet.MemberID
	since   time.Time // waiting, or handed over, since
	own     bool
	urgent  bool
	handed  bool // the coordinator has it
	retries int  // of an own message, to the relays
}

// put takes a message. known is true when the coordinator has it already.
func (h hold) put(m telemetry.Message, member fleet.MemberID, own bool, now time.Time) (known bool) {
	slot := m.Slot()
	old := h[slot]
	if old == nil {
		if len(h) >= maxHeld {
			h.evict()
		}
		h[slot] = &item{msg: m, member: member, since: now, own: own, urgent: changed(nil, m.Row)}
		return false
	}
	old.own = old.own || own
	if bytes.Equal(m.Raw, old.msg.Raw) || !m.Wins(old.msg) {
		return old.handed && bytes.Equal(m.Raw, old.msg.Raw)
	}
	next := &item{msg: m, member: member, since: now, own: old.own, urgent: changed(old.msg.Row, m.Row)}
	if !old.handed {
		next.since, next.urgent = old.since, next.urgent || old.urgent
	}
	h[slot] = next
	return false
}

// changed reports whether a row says something that should be known at once.
func changed(old, now *telemetry.Row) bool {
	if now == nil {
		return false
	}
	if old == nil || old.Freshness != now.Freshness || len(old.Models) != len(now.Models) {
		return true
	}
	for i, m := range now.Models {
		o := old.Models[i]
		if m.Model != o.Model || m.Phase != o.Phase || m.Running != o.Running || m.Failure != o.Failure ||
			m.Rollout != o.Rollout || m.Arm != o.Arm || len(m.Series) != len(o.Series) {
			return true
		}
		for j, s := range m.Series {
			if s.Alarm != o.Series[j].Alarm || s.Fatal != o.Series[j].Fatal {
				return true
			}
		}
	}
	return false
}

// waiting lists up to n items that the coordinator lacks, longest waiting first.
func (h hold) waiting(own bool, n int) []*item {
	var out []*item
	for _, it := range h {
		if !it.handed && (it.own || !own) {
			out = append(out, it)
		}
	}
	slices.SortFunc(out, func(a, b *item) int {
		return cmp.Or(a.since.Compare(b.since), bytes.Compare(a.msg.Raw, b.msg.Raw))
	})
	return out[:min(n, len(out))]
}

// handed notes that the coordinator has a message.
func (it *item) hand(now time.Time) { it.handed, it.urgent, it.since = true, false, now }

// evict drops the message that can best be missed: one that the coordinator
// has, else a window, else a row; the oldest of them.
func (h hold) evict() {
	rank := func(it *item) int {
		switch {
		case it.handed:
			return 0
		case it.msg.Window != nil:
			return 1
		default:
			return 2
		}
	}
	var worst *item
	for _, it := range h {
		if worst == nil || cmp.Or(cmp.Compare(rank(it), rank(worst)), it.since.Compare(worst.since)) < 0 {
			worst = it
		}
	}
	if worst != nil {
		delete(h, worst.msg.Slot())
	}
}

// prune drops what is older than age: what the coordinator has, and with others,
// when relays carry, also what they were given: other members' messages, and own
// windows that no relay took.
func (h hold) prune(now time.Time, age time.Duration, others bool) {
	for slot, it := range h {
		if now.Sub(it.since) > age && (it.handed || (others && (!it.own || it.msg.Window != nil))) {
			delete(h, slot)
		}
	}
}
