package telemetry

import (
	"math"
	"time"
)

// The moments that a pace is made of: apart from each other, not too long ago,
// and no more than that.
const (
	paceApart  = time.Second
	paceWindow = time.Minute
	paceMost   = 8
	// paceStill is how long nothing must have come before it is said to stand
	// still, and twice what it took before: much may come at once, but seldom.
	paceStill = 10 * time.Second
)

// Pace is how fast something that counts bytes goes, by where it was at a few
// moments of the last minute. The zero value knows nothing. It is a value: At
// returns another one.
type Pace struct {
	seen  [paceMost]moment
	n     int
	moved time.Time     // when it was seen to have gone on last
	step  time.Duration // what that took
}

type moment struct {
	at   time.Time
	done uint64
}

// At is the pace after it was seen at done. A count or a clock that went back
// begins anew.
func (p Pace) At(now time.Time, done uint64) Pace {
	begin := Pace{seen: [paceMost]moment{{now, done}}, n: 1, moved: now}
	if p.n == 0 {
		return begin
	}
	last := p.seen[p.n-1]
	if done < last.done || now.Before(last.at) {
		return begin
	}
	if done > last.done {
		if took := now.Sub(p.moved); took >= paceApart {
			p.step = took
		}
		p.moved = now
	}
	// The newest moment moves on until it is far enough from the one before it.
	if p.n > 1 && last.at.Sub(p.seen[p.n-2].at) < max(paceApart, paceWindow/paceMost) {
		p.seen[p.n-1] = moment{now, done}
	} else {
		if p.n == paceMost {
			p.drop()
		}
		p.seen[p.n] = moment{now, done}
		p.n++
	}
	for p.n > 2 && now.Sub(p.seen[1].at) >= paceWindow {
		p.drop()
	}
	return p
}

func (p *Pace) drop() {
	copy(p.seen[:], p.seen[1:p.n])
	p.n--
}

// Rate is bytes a second, 0 of what stands still; ok is false while it is not
// known: it was seen once, or for less than a second.
func (p Pace) Rate() (perSecond float64, ok bool) {
	if p.n < 2 {
		return 0, false
	}
	first, last := p.seen[0], p.seen[p.n-1]
	span := last.at.Sub(first.at)
	if span < paceApart {
		return 0, false
	}
	if last.at.Sub(p.moved) >= max(paceStill, 2*p.step) {
		return 0, true
	}
	return float64(last.done-first.done) / span.Seconds(), true
}

// longestLeft bounds what Left says: beyond it nobody believes a number.
const longestLeft = 30 * 24 * time.Hour

// Left is how long the remaining bytes take at this pace; ok is false when that
// is not known, since the rate is not, or nothing moves.
func (p Pace) Left(remaining uint64) (left time.Duration, ok bool) {
	rate, ok := p.Rate()
	if !ok || rate <= 0 {
		return 0, false
	}
	s := math.Ceil(float64(remaining) / rate)
	if s > longestLeft.Seconds() {
		return 0, false
	}
	return time.Duration(s) * time.Second, true
}
