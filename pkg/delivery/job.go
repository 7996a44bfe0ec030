package delivery

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/guard"
)

const (
	maxSpan = 16 << 20 // one ranged read
	// replanAfter is how many bytes are fetched before the rest is planned anew:
	// by then the rates are known better. Before the link was measured it is less,
	// and so is what one read may take.
	replanAfter, probeAfter, probeSpan = 32 << 20, enough, 4 << 20
	// probeFrom is how much must be wanted before a few plain frames are worth
	// knowing the link by.
	probeFrom = 32 * enough
	// tries is how often one source may deliver a wrong frame: the first may
	// have been the wire, the second is the source.
	tries = 2
	// lies is how many frames of a delta may be wrong before all of it is
	// distrusted: then its base is not the one it was made from.
	lies = 3
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
	last, mine := first, claimed
	if o.Kind == Peer {
		mine = asked
	}
	for last < end && is(last) {
		t.frames[last] = mine
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

// replan plans what is wanted now. busy: somebody is fetching frames.
func (j *job) replan() (busy bool, err error) {
	j.meet()
	needs := make([]Need, len(j.targets))
	for i, t := range j.targets {
		needs[i] = t.need()
		// A file that is whole is still being made durable, which may fail.
		busy = busy || t.busy > 0 || (t.missing == 0 && !t.done)
	}
	total := left(needs)
	rates, measured := j.meter.rates(total >= probeFrom && !j.offered(Delta))
	span := min(maxSpan, total/int64(2*j.o.Streams)+1) // near the end all streams have work
	if j.guessed = !measured; j.guessed {
		span = min(span, probeSpan)
	}
	fetches, lacking := Plan(needs, j.offers, rates, span)
	for _, id := range lacking {
		if t := j.targets[id.File]; t.busy == 0 { // else what is under way may still bring it about
			if err := j.lacks(t, id); err != nil {
				return busy, err
			}
			return j.replan()
		}
	}
	j.plan, j.stale, j.planned = j.mixed(fetches), false, j.progress.Done
	return busy, nil
}

// left is how many bytes are wanted.
func left(needs []Need) (total int64) {
	for _, n := range needs {
		for i, w := range n.Wanted {
			if w {
				total += n.FrameLen(i)
			}
		}
	}
	return total
}

// offered reports whether there is a source of a kind.
func (j *job) offered(k Kind) bool {
	return slices.ContainsFunc(j.offers, func(o Offer) bool { return o.Kind == k })
}

// mixed spreads the errands to neighbours, in random order, evenly among the
// others: the members of a site must not all want the same frame at once, and
// both links are to be busy.
func (j *job) mixed(fs []Fetch) []Fetch {
	var peers, rest []Fetch
	for _, f := range fs {
		if j.offers[f.Offer].Kind == Peer {
			peers = append(peers, f)
		} else {
			rest = append(rest, f)
		}
	}
	if len(peers) == 0 || len(rest) == 0 {
		rest = append(rest, peers...)
	}
	if len(peers) == 0 {
		return rest
	}
	rand.Shuffle(len(peers), func(a, b int) { peers[a], peers[b] = peers[b], peers[a] })
	if len(rest) == len(peers) && len(fs) == len(peers) {
		return peers
	}
	out := make([]Fetch, 0, len(fs))
	for i, f := range rest {
		out = append(out, f)
		out = append(out, peers[i*len(peers)/len(rest):(i+1)*len(peers)/len(rest)]...)
	}
	return out
}

// lacks decides what becomes of a frame that no source has (any more): another
// way of fetching its file, or the end.
func (j *job) lacks(t *target, id FrameID) error {
	ends := []error{j.dead[artifact.RawKey(t.file.Digest)], j.dead[artifact.FullKey(t.file.Digest)]}
	for _, err := range ends {
		if fault.Is(err, fault.Transient) { // whatever else was wrong: it may have the frame
			return err
		}
	}
	if t.blame != nil && t.again() {
		j.renew(t)
		return nil
	}
	if err := cmp.Or(t.blame, ends[0], ends[1]); err != nil {
		return err
	}
	return fault.Newf(fault.NotFound, "install", t.file.Path, "no source has frame %d of files/%s", id.Frame, t.file.Digest)
}

// renew offers anew what there is for a target that is fetched another way now.
func (j *job) renew(t *target) {
	file := slices.Index(j.targets, t)
	for i := range j.offers {
		if j.offers[i].File == file {
			j.offers[i].Frames = nil
		}
	}
	j.offer(file)
	j.stale = true
	j.tell()
}

// bury takes a source out of the plan.
func (j *job) bury(name string, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.dead[name] == nil {
		j.dead[name] = err
	}
	for i := range j.offers {
		if j.offers[i].Name == name {
			j.offers[i].Frames = nil
		}
	}
	j.stale = true
	j.o.Logger.Debug("source given up", "source", name, "err", err)
}

func (j *job) buried(name string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.dead[name] != nil
}

// mark notes that a source delivered a wrong frame n times; after a while it is
// not asked for it any more.
func (j *job) mark(e errand, i, n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	l := lie{e.offer.Name, e.t.file.Digest, i, e.t.doubt}
	if j.wrong[l] += n; j.wrong[l] < tries || i >= len(j.offers[e.Offer].Frames) {
		return
	}
	frames := slices.Clone(j.offers[e.Offer].Frames) // errands under way have the old ones
	frames[i].Length = 0
	j.offers[e.Offer].Frames = frames
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
