package delivery

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/guard"
)

// job is the fetching of frames: for an install all that are missing, for a
// neighbour one. Workers take errands until no frame is wanted any more.
type job struct {
	*Fetcher
	want   Want
	frame  int64 // longest frame
	unpack *artifact.Unpacker
	asks   bool // neighbours are asked
	// keep takes a verified frame; the last one of a file completes it. The bytes
	// are the caller's again when it returns.
	keep   func(ctx context.Context, k Kind, t *target, i int, plain []byte, b *bench) error
	report func(Progress)

	targets []*target // distinct contents of which frames are wanted
	damaged map[fleet.Digest]string

	mu       sync.Mutex // guards what follows and the targets' state
	offers   []Offer
	wrong    map[lie]int
	strikes  map[string]int   // wrong frames of a source
	dead     map[string]error // sources that were given up, by name
	weary    bool             // the patience came to its end, and no read succeeded since
	plan     []Fetch          // what is to be done next
	stale    bool             // the plan is of the past
	planned  int64            // Progress.Done when it was made
	guessed  bool             // the link was not measured by then
	sharers  int              // members of the site when neighbours were offered
	asking   int              // errands to neighbours under way
	reading  int              // errands to the bucket under way
	fails    int              // tries that failed since the last frame
	warned   bool             // of trouble
	told     time.Time        // when progress was reported last
	settled  chan struct{}    // closed when a frame is here or let go of
	progress Progress
	lastGood time.Time // when a frame was verified last
	retired  bool      // nothing may be kept any more
	broken   error     // keeping a frame for a neighbour failed

	visits sync.RWMutex // held by neighbours' pulls while they keep a frame
}

type lie struct {
	source       string
	file         fleet.Digest
	frame, doubt int
}

// errand is one fetch, and what it needs to know.
type errand struct {
	Fetch
	offer Offer
	t     *target
}

func (f *Fetcher) job(w Want) *job {
	return &job{
		Fetcher: f, want: w, progress: Progress{Total: w.Size, From: map[Kind]int64{}}, lastGood: time.Now(),
		wrong: map[lie]int{}, strikes: map[string]int{}, dead: map[string]error{}, settled: make(chan struct{}),
	}
}

// fetch carries out errands until every frame is here.
func (j *job) fetch(ctx context.Context) error {
	j.mu.Lock()
	j.offers, j.stale, j.sharers = nil, true, 0
	clear(j.dead) // in another download window they may be well again
	j.offerLocal()
	for i := range j.targets {
		j.offer(i)
	}
	j.mu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	for range j.o.Streams {
		g.Go(func() error {
			return j.guarded(func() error {
				for {
					e, err := j.next(ctx)
					if e == nil || err != nil {
						return err
					}
					if err := j.do(ctx, *e); err != nil {
						return err
					}
				}
			})
		})
	}
	return g.Wait()
}

// next is what to do next; nil: nothing is left. It waits while all that is left
// is being done by others, since they may fail.
func (j *job) next(ctx context.Context) (*errand, error) {
	for {
		j.mu.Lock()
		e, busy, err := j.take()
		if j.broken != nil {
			err = j.broken
		}
		settled := j.settled
		j.mu.Unlock()
		if e != nil || err != nil || !busy {
			return e, err
		}
		select {
		case <-settled:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// take claims the first frames of the plan that there is room for.
func (j *job) take() (e *errand, busy bool, err error) {
	for {
		if j.stale || len(j.plan) == 0 {
			if busy, err = j.replan(); err != nil || len(j.plan) == 0 {
				return nil, busy, err
			}
		}
		i := slices.IndexFunc(j.plan, j.room)
		if i < 0 {
			return nil, true, nil
		}
		f := j.plan[i]
		j.plan = slices.Delete(j.plan, i, i+1)
		if e := j.claim(f); e != nil {
			return e, true, nil
		}
	}
}

// room reports whether a fetch may begin now: errands to neighbours, who may let
// one wait for long, never keep all workers, and few ranges are read under a cap.
func (j *job) room(f Fetch) bool {
	switch j.offers[f.Offer].Kind {
	case Copy:
		return true
	case Peer:
		return j.asking < max(1, j.o.Streams-1)
	}
	return j.reading < j.ranges
}

// count adds n to the errands of a kind that are under way. The caller holds mu.
func (j *job) count(k Kind, n int) {
	switch k {
	case Copy:
	case Peer:
		j.asking += n
	default:
		j.reading += n
	}
}

// claim takes the frames of a fetch that are still wanted: the first of them in
// a row, the others stay in the plan. nil: none.
func (j *job) claim(f Fetch) *errand {
	o, t := j.offers[f.Offer], j.targets[f.File]
	is := func(i int) bool { return t.frames[i] == wanted }
	end := f.First + f.Count
	first := f.First
	for first < end && !is(first) {
		first++
	}
	last, mine, c := first, claimed, &claim{time.Now()}
	if o.Kind == Peer {
		mine = asked
	}
	for last < end && is(last) {
		t.frames[last], t.claims[last] = mine, c
		t.busy++
		last++
	}
	if last < end {
		j.plan = slices.Insert(j.plan, 0, f.cut(o, last, end))
	}
	if first == last {
		return nil
	}
	j.count(o.Kind, 1)
	return &errand{f.cut(o, first, last), o, t}
}

// cut is the part of a fetch from one frame to before another.
func (f Fetch) cut(o Offer, first, end int) Fetch {
	f.First, f.Count = first, end-first
	f.Span = Span{}
	if f.Count > 0 {
		last := o.Frames[end-1]
		f.Span = Span{o.Frames[first].Offset, last.Offset + last.Length - o.Frames[first].Offset}
	}
	return f
}

// release lets go of the frames of an errand that are not here, and tells who waits.
func (j *job) release(e errand) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.count(e.offer.Kind, -1)
	for i := e.First; i < e.First+e.Count; i++ {
		if s := e.t.frames[i]; s == claimed || s == asked {
			e.t.frames[i] = wanted
			e.t.busy--
			j.arrived(e.t, i, 0)
			j.stale = true
		}
	}
	j.tell()
}

func (j *job) tell() {
	close(j.settled)
	j.settled = make(chan struct{})
}

// parallel calls do for 0..n-1, some at once. What they read is foreign.
func (j *job) parallel(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(j.o.Streams)
	for i := range n {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return j.guarded(func() error { return do(ctx, i) })
		})
	}
	return g.Wait()
}

// withBench calls do with memory for so many frames.
func (j *job) withBench(ctx context.Context, frames int, do func(b *bench) error) error {
	b, err := j.shop.take(ctx, j.frame, frames)
	if err != nil {
		return err
	}
	defer b.giveBack()
	return do(b)
}

// guarded is for what runs in goroutines of the job's own.
func (j *job) guarded(f func() error) error {
	return guard.Do(j.o.Logger, "install", j.want.Manifest.Name, f)
}

// landed notes that a frame is here. It reports whether it was the file's last.
func (j *job) landed(k Kind, t *target, i int) (last bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if s := t.frames[i]; s == claimed || s == asked {
		t.busy--
	}
	t.frames[i] = here
	t.missing--
	j.arrived(t, i, 0)
	j.credit(k, t.frameLen(i))
	j.tell()
	return t.missing == 0
}

// credit counts bytes that are verified and here by the kind of source they came
// from, and reports. The caller holds mu.
func (j *job) credit(k Kind, n int64) {
	j.progress.From[k] += n
	j.advance(n)
}

func (j *job) advance(n int64) {
	j.progress.Done += n
	j.lastGood, j.weary = time.Now(), false
	j.fails, j.progress.Trouble = 0, nil
	after := max(replanAfter, j.progress.Total/64)
	if j.guessed {
		after = probeAfter
	}
	if j.progress.Done-j.planned > after {
		j.stale = true
	}
	j.tellProgress()
}

func (j *job) snapshot() Progress {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.progress.clone()
}
