package gossip

import (
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Keys are a cell's keys after one was changed.
type Keys struct {
	New    []byte        // encrypts when UseIn is over; until then it only decrypts
	Old    [][]byte      // may still be in use; the first encrypts until then
	UseIn  time.Duration // 0: at once
	DropIn time.Duration // until every key but New is forgotten
}

// turn is what is still to be done about a new key.
type turn struct {
	key       []byte
	use, drop time.Time
	used      bool // the worker's own
}

// Rekey takes over changed keys. Everything is decrypted by any of them, and by
// those that the pool had, until DropIn is over: in the meantime members change at
// their own pace and none loses the others.
func (p *Pool) Rekey(k Keys) error {
	bad := func(err error) error { return fault.New(fault.Invalid, "change cell key", p.opts.Cell, err) }
	for _, key := range append(slices.Clone(k.Old), k.New) {
		if err := p.ring.AddKey(key); err != nil {
			return bad(err)
		}
	}
	if k.UseIn > 0 && len(k.Old) > 0 {
		if err := p.ring.UseKey(k.Old[0]); err != nil {
			return bad(err)
		}
	}
	now := time.Now()
	p.turn.Store(&turn{key: k.New, use: now.Add(k.UseIn), drop: now.Add(max(k.DropIn, k.UseIn))})
	p.wake()
	return nil
}

// turnKeys does what is due about a new key. Only the worker calls it.
func (p *Pool) turnKeys(now time.Time) {
	t := p.turn.Load()
	if t == nil || now.Before(t.use) {
		return
	}
	if !t.used {
		if err := p.ring.UseKey(t.key); err != nil {
			p.opts.Logger.Error("cell key not used", "cell", p.opts.Cell, "err", err)
			return
		}
		p.opts.Logger.Info("cell key changed", "cell", p.opts.Cell)
		t.used = true
	}
	if now.Before(t.drop) {
		return
	}
	for _, key := range p.ring.GetKeys() {
		if slices.Equal(key, t.key) {
			continue
		}
		if err := p.ring.RemoveKey(key); err != nil {
			p.opts.Logger.Error("old cell key not forgotten", "cell", p.opts.Cell, "err", err)
		}
	}
	p.turn.CompareAndSwap(t, nil)
}

// Keys is how many keys the pool decrypts by.
func (p *Pool) Keys() int { return len(p.ring.GetKeys()) }
