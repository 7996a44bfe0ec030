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
	subs   map[int]chan api.Event
}

const eventBuffer = 256

// Publish gives an event to every listener.
func (e *Events) Publish(ev api.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ch := range e.subs {
		select {
		case ch <- ev:
		default:
		}
	}
}

// Subscribe returns a channel that is closed when ctx ends.
func (e *Events) Subscribe(ctx context.Context) <-chan api.Event {
	ch := make(chan api.Event, eventBuffer)
	e.mu.Lock()
	if e.subs == nil {
		e.subs = map[int]chan api.Event{}
	}
	id := e.nextID
	e.nextID++
	e.subs[id] = ch
	e.mu.Unlock()
	context.AfterFunc(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.subs, id)
		close(ch)
	})
	return ch
}
