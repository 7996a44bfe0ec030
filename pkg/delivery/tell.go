package delivery

import "time"

const (
	// tellApart is how far apart reports are that only say what is on its way.
	tellApart = 500 * time.Millisecond
	// troubleAfter is how long without a frame makes one failed try trouble.
	troubleAfter = 10 * time.Second
)

// tellProgress reports how far it is. The caller holds mu.
func (j *job) tellProgress() {
	j.told = time.Now()
	if j.report != nil {
		j.report(j.progress.clone())
	}
}

// arrived notes that so many plain bytes of frame i are here, not verified. The
// caller holds mu.
func (j *job) arrived(t *target, i int, n int64) {
	j.progress.Arriving += n - t.came[i]
	if n == 0 {
		delete(t.came, i)
		return
	}
	if t.came == nil {
		t.came = map[int]int64{}
	}
	t.came[i] = n
}

// arrives notes n more bytes of a stream. The caller holds mu.
func (j *job) arrives(f *arrival, n int) {
	if j.progress.Wire += int64(n); f.packed == 0 {
		return
	}
	f.got += int64(n)
	if c := f.t.claims[f.frame]; c != nil {
		c.moved = time.Now()
	}
	j.arrived(f.t, f.frame, int64(float64(f.got)/float64(f.packed)*float64(f.t.frameLen(f.frame))))
	if time.Since(j.told) >= tellApart {
		j.tellProgress()
	}
}

// arrival is a frame that a stream reads.
type arrival struct {
	t           *target
	frame       int
	packed, got int64
}

// failed notes that a try failed that is made again. It is trouble when as many
// fail as there are ranges, or no frame came for long.
func (j *job) failed(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.fails++
	if j.fails < max(2, j.ranges) && time.Since(j.lastGood) < troubleAfter {
		return
	}
	first := j.progress.Trouble == nil
	j.progress.Trouble = err
	if !j.warned {
		j.warned = true
		j.o.Logger.Warn("bucket answers slowly or not, tried again", "model", j.want.Manifest.Name, "err", err)
	}
	if first {
		j.tellProgress()
	}
}
