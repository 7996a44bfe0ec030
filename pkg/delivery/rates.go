package delivery

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// meter measures the member's rates. What was measured in one install is the
// next one's first guess.
type meter struct {
	cap int64 // bytes a second from the network; 0: none

	mu             sync.Mutex
	wire, unpacked int64         // bytes
	reading        time.Duration // spent waiting for the wire, all streams together
	unpacking      time.Duration // spent decoding, all workers together
	next           time.Time     // when the cap allows the next byte
}

// The first guesses, before anything was measured: a 1 Gbit/s link, and the
// rates of one slow core.
const (
	guessLink   = 125e6
	guessPeer   = 125e6
	guessDisk   = 1e9
	guessUnpack = 300e6
	// enough is how much must have been seen before a measurement counts.
	enough = 8 << 20
)

func (m *meter) rates(streams int) Rates {
	m.mu.Lock()
	defer m.mu.Unlock()
	cores := float64(min(streams, runtime.GOMAXPROCS(0)))
	r := Rates{Link: guessLink, Peer: guessPeer, Disk: guessDisk, Unpack: guessUnpack * cores}
	if m.wire >= enough {
		r.Link = float64(m.wire) / m.reading.Seconds() * float64(streams)
	}
	if m.unpacked >= enough {
		r.Unpack = float64(m.unpacked) / m.unpacking.Seconds() * cores
	}
	if m.cap > 0 {
		r.Link = min(r.Link, float64(m.cap))
	}
	return r
}

// read counts n bytes that took d on one stream, and waits as the cap demands.
func (m *meter) read(ctx context.Context, n int, d time.Duration) error {
	m.mu.Lock()
	m.wire += int64(n)
	m.reading += d
	if m.wire > 16*enough { // forget the past by and by: links change
		m.wire /= 2
		m.reading /= 2
	}
	var wait time.Duration
	if m.cap > 0 {
		now := time.Now()
		if m.next.Before(now) {
			m.next = now
		}
		m.next = m.next.Add(time.Duration(float64(n) / float64(m.cap) * float64(time.Second)))
		wait = m.next.Sub(now)
	}
	m.mu.Unlock()
	return sleep(ctx, wait)
}

func (m *meter) unpack(n int, d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unpacked += int64(n)
	m.unpacking += d
	if m.unpacked > 16*enough {
		m.unpacked /= 2
		m.unpacking /= 2
	}
}

// sleep waits for d or until ctx is done.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
