package delivery

import (
	"context"
	"sync"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// turns has those who want the same thing go one after the other. The zero value
// is ready; nothing is kept of a thing that nobody wants any more.
type turns struct {
	mu    sync.Mutex
	lines map[fleet.Digest]*line
}

// line is who wants one thing.
type line struct {
	turn  chan struct{} // holds whose turn it is
	users int           // who waits, and whose turn it is; guarded by turns.mu
}

// take waits until nobody else has the turn.
func (q *turns) take(ctx context.Context, key fleet.Digest) (done func(), err error) {
	q.mu.Lock()
	l := q.lines[key]
	if l == nil {
		if q.lines == nil {
			q.lines = map[fleet.Digest]*line{}
		}
		l = &line{turn: make(chan struct{}, 1)}
		q.lines[key] = l
	}
	l.users++
	q.mu.Unlock()
	select {
	case l.turn <- struct{}{}:
		return func() {
			<-l.turn
			q.leave(key, l)
		}, nil
	case <-ctx.Done():
		q.leave(key, l)
		return nil, ctx.Err()
	}
}

func (q *turns) leave(key fleet.Digest, l *line) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(q.lines, key)
	}
}
