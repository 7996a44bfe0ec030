package delivery

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// The first guesses, before anything was measured: a 1 Gbit/s link, and the
// rates of one slow core.
const (
	guessLink   = 125e6
	guessPeer   = 100e6
	guessDisk   = 1e9
	guessUnpack = 300e6
	guessApply  = 250e6
	// enough is how much must have been seen before a measurement counts.
	enough = 8 << 20
	// unhurried is how much is decoded, with the link never waited for, before
	// the link is taken for fast: until plain frames say how fast.
	unhurried = 3 * enough
	fastLink  = 4e9
	// waited is how long a read takes at least that the link kept waiting.
	waited = 100 * time.Microsecond
)

// meter measures the member's rates. What was measured in one install is the
// next one's first guess.
type meter struct {
	cap     int64 // bytes a second from the bucket; 0: none
	metered bool  // bytes from the bucket cost more than time

	mu            sync.Mutex
	plain, packed gauge // the link, by what was read from it
	ready         int64 // bytes of packed frames that had arrived before they were asked for
	peer          gauge
	unpack, apply gauge
	next          time.Time // when the cap allows the next byte
}

// gauge is bytes over the time that somebody waited for them.
type gauge struct {
	bytes   int64
	took    time.Duration
	waiting int // those who wait now
	since   time.Time
}

func (g *gauge) begin() {
	if g.waiting++; g.waiting == 1 {
		g.since = time.Now()
	}
}

func (g *gauge) end(n int) {
	if g.waiting--; g.waiting == 0 {
		g.took += time.Since(g.since)
	}
	g.add(n, 0)
}

func (g *gauge) add(n int, d time.Duration) {
	g.bytes += int64(n)
	g.took += d
	if g.bytes > 16*enough { // forget the past by and by: links change
		g.bytes /= 2
		g.took /= 2
	}
}

// rate is what was measured, or the guess.
func (g *gauge) rate(guess float64) float64 {
	if g.bytes < enough || g.took <= 0 {
		return guess
	}
	return float64(g.bytes) / g.took.Seconds()
}

// rates are the best known. While frames are decoded the network fills buffers:
// what packed frames say of the link is what was waited for; when nothing was,
// only plain ones, which nothing holds up, can tell. measured: something is known
// of the link. probe asks for a guess that has plain frames read first.
func (m *meter) rates(probe bool) (r Rates, measured bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	cores := float64(runtime.GOMAXPROCS(0))
	r = Rates{
		Link:   m.plain.rate(m.packed.rate(guessLink)),
		Peer:   m.peer.rate(guessPeer),
		Disk:   guessDisk,
		Unpack: cores * m.unpack.rate(guessUnpack),
		Apply:  cores * m.apply.rate(guessApply),
	}
	measured = max(m.plain.bytes, m.packed.bytes) >= enough
	if !measured && (probe || m.ready >= unhurried) {
		r.Link = fastLink
	}
	if m.cap > 0 {
		r.Link = min(r.Link, float64(m.cap))
	}
	if m.metered {
		r.Link = 1 // then bytes alone decide
	}
	return r, measured
}

// timed calls read and counts the bytes it returns on a gauge of the meter.
func (m *meter) timed(g *gauge, read func() (int, error)) (int, error) {
	m.mu.Lock()
	g.begin()
	m.mu.Unlock()
	began := time.Now()
	n, err := read()
	took := time.Since(began)
	m.mu.Lock()
	defer m.mu.Unlock()
	if g == &m.packed && took < waited {
		m.ready += int64(n)
		g.end(0)
	} else {
		g.end(n)
	}
	return n, err
}

// decoded counts plain bytes that one core took d to make.
func (m *meter) decoded(g *gauge, n int, d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g.add(n, d)
}

// hold waits as the cap demands after n bytes.
func (m *meter) hold(ctx context.Context, n int) error {
	if m.cap <= 0 {
		return nil
	}
	m.mu.Lock()
	now := time.Now()
	if m.next.Before(now) {
		m.next = now
	}
	m.next = m.next.Add(time.Duration(float64(n) / float64(m.cap) * float64(time.Second)))
	wait := m.next.Sub(now)
	m.mu.Unlock()
	return sleep(ctx, wait)
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
