package httpapi

import "sync"

// How many requests may stand open: each holds memory and a connection.
const (
	maxStreams  = 32  // of events, by person
	maxWaits    = 512 // for a pack, by all who show no certificate
	maxWaitsOne = 64  // of them by one address: a site's new members may share it
)

// room bounds what stands open at once, by whom it is and in all.
type room struct {
	one, all int // all 0: only by whom

	mu  sync.Mutex
	sum int
	by  map[string]int
}

func newRoom(one, all int) *room { return &room{one: one, all: all, by: map[string]int{}} }

// enter takes a place, or says that there is none.
func (r *room) enter(who string) (leave func(), ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by[who] >= r.one || r.all > 0 && r.sum >= r.all {
		return nil, false
	}
	r.by[who]++
	r.sum++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.sum--
		if r.by[who]--; r.by[who] == 0 {
			delete(r.by, who)
		}
	}, true
}
