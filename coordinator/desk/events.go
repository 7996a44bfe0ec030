package desk

import (
	"context"
	"sync"

	"github.com/modelfleet/modelfleet/pkg/api"
)

// Events spreads what happens to whoever listens. Nobody is waited for: a reader
// that is behind by a full buffer loses events. The zero value is ready.
type Events struct {
	mu     sync.Mutex
	nextID int
	subs   map[int]subscriber
}

// subscriber is one who listens, and what it is to hear; nil: everything.
type subscriber struct {
	ch   chan api.Event
	hear func(api.Event) bool
}

const eventBuffer = 256

// Publish gives an event to every listener.
func (e *Events) Publish(ev api.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.subs {
		if s.hear != nil && !s.hear(ev) {
			continue
		}
		select {
		case s.ch <- ev:
		default:
		}
	}
}

// Subscribe returns a channel that is closed when ctx ends, with the events that
// hear affirms; nil: with all. hear is called by whoever publishes.
func (e *Events) Subscribe(ctx context.Context, hear func(api.Event) bool) <-chan api.Event {
	ch := make(chan api.Event, eventBuffer)
	e.mu.Lock()
	if e.subs == nil {
		e.subs = map[int]subscriber{}
	}
	id := e.nextID
	e.nextID++
	e.subs[id] = subscriber{ch, hear}
	e.mu.Unlock()
	context.AfterFunc(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.subs, id)
		close(ch)
	})
	return ch
}
