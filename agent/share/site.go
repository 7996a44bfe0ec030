package share

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/gossip"
)

var errWrong = errors.New("these are not the bytes that were signed")

// Fetch fills dst with a frame without asking neighbours. What it fetches for a
// release that is being installed here becomes part of that install.
// delivery.Fetcher.Frame is it.
type Fetch func(ctx context.Context, w delivery.Want, r delivery.FrameRef, dst []byte) error

// Options say who shares, and how much. Those above Rate must be given.
type Options struct {
	Self  fleet.MemberID
	Dir   string     // of the cache
	Store *cas.Store // of this member's releases: frames are given from there, and from installs under way
	// Certificate is the member's newest.
	Certificate func() tls.Certificate
	// Identify judges a neighbour's certificate: by whom it was issued, for which
	// fleet, whether it was revoked. It is asked at each connection and question.
	Identify func(certificate []byte) (gossip.Identity, error)
	// Backed finds a release that the newest trust pack backs by its key. It is
	// asked at each question.
	Backed func(release fleet.Digest) (path string, ok bool)
	// Want reads what such a release consists of, verified.
	Want func(ctx context.Context, path string, release fleet.Digest) (delivery.Want, error)

	Rate      int64 // bytes a second that neighbours are served at, all together; default 32 MiB, a quarter of a gigabit link
	Disk      int64 // bytes of frames kept for neighbours; default 512 MiB, below 0 none
	Streams   int   // frames being sent at once; default 8
	LowMemory bool  // fetch one frame at a time for neighbours instead of two
	Logger    *slog.Logger
	Timing    Timing
}

// Timing sets what is waited for. Zero fields take the defaults.
type Timing struct {
	Dial  time.Duration // a connection with its handshake; default 5 s
	Pulse time.Duration // between signs of life from an owner that is still fetching; default 2 s
	Stall time.Duration // without a byte or a sign of life, either way; default 15 s
	Wait  time.Duration // for an owner's answer, however lively; default 5 min
	Age   time.Duration // of one frame being sent; default 2 min
	Queue time.Duration // for one of Streams to be free; default 5 s
	Head  time.Duration // for a handshake, and for a question; default 5 s
	News  time.Duration // for a trust pack that backs what an owner is asked for; default 3 s
	Meet  time.Duration // for neighbours to be seen, once, after the start; default 3 s
	Rest  time.Duration // that a neighbour is not asked after it failed, doubled each time; default 15 s
}

// longestRest is also how long a neighbour is not asked for a release that it
// was not told of.
const longestRest = 10 * time.Minute

// Site is the site as one member sees it, and the member's part in it. It is
// safe for concurrent use.
type Site struct {
	o      Options
	began  time.Time
	cache  *cache
	upload *rate.Limiter
	client *http.Client
	sends  chan struct{} // a token for each frame being sent
	pulls  chan struct{} // likewise being fetched for neighbours, or in memory since
	passes chan struct{} // likewise asked of a better owner
	count  counters
	work   sync.WaitGroup // questions and flights under way; grows only under mu, while not closed

	mu      sync.Mutex // guards the rest
	closed  bool
	view    view
	seen    time.Time // when the owners last changed
	liars   map[fleet.MemberID]bool
	liar    fleet.MemberID // the last of them
	resting map[fleet.MemberID]rest
	strange map[stranger]time.Time // until when who is not asked for what
	news    chan struct{}          // closed when a trust pack was believed
	flights map[flightKey]*flight
	known   []delivery.Want        // releases that were asked for, the newest last
	guests  map[fleet.MemberID]int // questions being answered
}

// rest is how long a neighbour that failed is left alone.
type rest struct {
	until time.Time
	last  time.Duration
}

// stranger is a neighbour whose trust pack does not back a release: it is of
// another group.
type stranger struct {
	member  fleet.MemberID
	release fleet.Digest
}

// view is the cell as the pool sees it.
type view struct {
	owners []fleet.MemberID          // who shares, this member too if it does
	addrs  map[fleet.MemberID]string // of owners
	here   map[fleet.MemberID]bool   // everybody
}

// New makes the member's part in its site. Until [Site.See] tells of others it
// is alone.
func New(o Options) (*Site, error) {
	if o.Self == "" || o.Dir == "" || o.Store == nil || o.Certificate == nil || o.Identify == nil || o.Backed == nil || o.Want == nil {
		return nil, fault.Newf(fault.Invalid, "share frames", string(o.Self), "self, dir, store, certificate, identify, backed and want must be given")
	}
	o.Rate, o.Disk, o.Streams = cmp.Or(o.Rate, 32<<20), cmp.Or(o.Disk, 512<<20), cmp.Or(o.Streams, 8)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	t := &o.Timing
	for _, d := range []struct {
		to *time.Duration
		by time.Duration
	}{
		{&t.Dial, 5 * time.Second}, {&t.Pulse, 2 * time.Second}, {&t.Stall, 15 * time.Second}, {&t.Wait, 5 * time.Minute},
		{&t.Age, 2 * time.Minute}, {&t.Queue, 5 * time.Second}, {&t.Head, 5 * time.Second}, {&t.News, 3 * time.Second}, {&t.Meet, 3 * time.Second}, {&t.Rest, 15 * time.Second},
	} {
		*d.to = cmp.Or(*d.to, d.by)
	}
	c, err := openCache(o.Dir, max(o.Disk, 0), o.Logger)
	if err != nil {
		return nil, err
	}
	pulls := 2
	if o.LowMemory {
		pulls = 1
	}
	s := &Site{
		o: o, began: time.Now(), cache: c, upload: rate.NewLimiter(rate.Limit(o.Rate), step(o.Rate)),
		sends: make(chan struct{}, o.Streams), pulls: make(chan struct{}, pulls), passes: make(chan struct{}, pulls),
		liars: map[fleet.MemberID]bool{}, resting: map[fleet.MemberID]rest{},
		strange: map[stranger]time.Time{}, news: make(chan struct{}),
		flights: map[flightKey]*flight{}, guests: map[fleet.MemberID]int{},
	}
	s.client = s.newClient()
	return s, nil
}

// step is how much is sent at a time: little, so that a low rate holds over
// moments too.
func step(rate int64) int { return int(min(piece, max(rate/8, 1<<10))) }

// See tells the site who is in the cell now.
func (s *Site) See(members []gossip.Member) {
	v := view{addrs: map[fleet.MemberID]string{}, here: map[fleet.MemberID]bool{}}
	for _, m := range members {
		v.here[m.Name] = true
		host, _, err := net.SplitHostPort(m.Addr)
		if err != nil || m.Share == 0 || m.Metered || m.Coordinator || !m.Proven {
			continue
		}
		v.owners = append(v.owners, m.Name)
		v.addrs[m.Name] = net.JoinHostPort(host, strconv.Itoa(int(m.Share)))
	}
	slices.Sort(v.owners)
	s.mu.Lock()
	defer s.mu.Unlock()
	for m := range s.resting { // one that comes back gets its chance at once
		if !v.here[m] {
			delete(s.resting, m)
		}
	}
	if !slices.Equal(s.view.owners, v.owners) {
		s.seen = time.Now()
	}
	s.view = v
}

// Meet waits until the site was seen and did not change for a while, but not
// long after the start: so that an install that begins with the agent does not
// begin alone.
func (s *Site) Meet(ctx context.Context) {
	for ctx.Err() == nil {
		s.mu.Lock()
		calm := s.o.Timing.Meet // when there is nobody else
		if len(s.view.owners) > 1 {
			calm = min(s.seen.Add(s.o.Timing.Meet/2).Sub(s.began), 2*s.o.Timing.Meet)
		}
		s.mu.Unlock()
		wait := time.Until(s.began.Add(calm))
		if wait <= 0 {
			return
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// Believed tells the site that a newer trust pack was believed: neighbours may
// be waiting for what it backs.
func (s *Site) Believed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.news)
	s.news = make(chan struct{})
}

// line lists who may be asked for a frame, the owner first.
func (s *Site) line(r delivery.FrameRef, n int) []fleet.MemberID {
	return top(r.Digest, s.present(r.Release), n)
}

// present lists the sharing members that nothing speaks against.
func (s *Site) present(release fleet.Digest) []fleet.MemberID {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	return slices.DeleteFunc(slices.Clone(s.view.owners), func(m fleet.MemberID) bool {
		return s.liars[m] || now.Before(s.resting[m].until) || now.Before(s.strange[stranger{m, release}])
	})
}

// Sharers is how many members the site's link to the bucket is shared among,
// this one included.
func (s *Site) Sharers(release fleet.Digest) int {
	present := s.present(release)
	if !slices.Contains(present, s.o.Self) {
		return len(present) + 1
	}
	return len(present)
}

// Owns reports whether this member is the one to take a frame out of the
// bucket: it is first in line, and neither keeps the frame already nor is
// fetching it for neighbours.
func (s *Site) Owns(r delivery.FrameRef) bool {
	line := s.line(r, 1)
	return len(line) == 1 && line[0] == s.o.Self && !s.pulling(r.Digest) && !s.cache.has(r.Digest)
}

// join is the fetch of a frame for neighbours that is under way, and not only
// meant to be: one that begins later becomes part of the install that asks. It
// must be left.
func (s *Site) join(frame fleet.Digest) *flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flights[flightKey{frame, false}]
	if f == nil || !f.begun.Load() {
		return nil
	}
	f.users++
	return f
}

// pulling says whether there is such a fetch.
func (s *Site) pulling(frame fleet.Digest) bool {
	f := s.join(frame)
	if f != nil {
		s.leave(f)
	}
	return f != nil
}

// Frame fills dst with a frame that is kept here (then from is "") or that an
// owner gives. It is NotFound when this member itself is next in line. It waits
// for an owner as long as that one shows that it is at work; its bytes are the
// caller's to verify.
func (s *Site) Frame(ctx context.Context, r delivery.FrameRef, dst []byte) (from string, err error) {
	if kept, err := s.kept(ctx, r, dst); kept || err != nil {
		return "", err
	}
	err = fault.Newf(fault.NotFound, "ask neighbours", r.Digest.Short(), "nobody shares")
	for hop, owner := range s.line(r, owners) {
		if owner == s.o.Self {
			return "", fault.Newf(fault.NotFound, "ask neighbours", r.Digest.Short(), "it is this member's to fetch")
		}
		if err = s.ask(ctx, owner, r, min(hop, 1), dst); err == nil {
			return string(owner), nil
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
	}
	return "", err
}

// kept fills dst with a frame that was, or is being, fetched for neighbours.
func (s *Site) kept(ctx context.Context, r delivery.FrameRef, dst []byte) (bool, error) {
	if f := s.join(r.Digest); f != nil {
		defer s.leave(f)
		// Not for ever: it might have begun this moment, and wait for the install.
		limit := time.NewTimer(s.o.Timing.Stall)
		defer limit.Stop()
		select {
		case <-f.done:
		case <-limit.C:
			return false, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
		if f.data != nil {
			return copy(dst, f.data) == len(dst), nil
		}
	}
	body, err := s.cache.open(r.Digest, r.Length)
	if err != nil {
		return false, nil
	}
	_, err = io.ReadFull(body, dst)
	return errors.Join(err, body.Close()) == nil, nil // else it is fetched
}

// Lied leaves out a neighbour that delivered other bytes than were signed, until
// this agent starts again.
func (s *Site) Lied(from string, r delivery.FrameRef) {
	if from == "" {
		s.cache.drop(r.Digest)
		return
	}
	s.mu.Lock()
	first := !s.liars[fleet.MemberID(from)]
	s.liars[fleet.MemberID(from)], s.liar = true, fleet.MemberID(from)
	s.mu.Unlock()
	if first {
		s.o.Logger.Error("neighbour left out", "device", from, "file", r.File.Short(), "frame", r.Frame, "why", errWrong.Error())
	}
}

// Liars is how many neighbours were left out since the agent started, and the
// last of them.
func (s *Site) Liars() (n int, last fleet.MemberID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.liars), s.liar
}

// Spare gives back the disk that the cache takes.
func (s *Site) Spare() { s.cache.clear() }

// failed has a neighbour rest; answered ends that.
func (s *Site) failed(m fleet.MemberID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.resting[m]
	if time.Now().Before(r.until) {
		return // it rests already; others had asked it too
	}
	r.last = min(max(2*r.last, s.o.Timing.Rest), longestRest)
	r.until = time.Now().Add(r.last)
	s.resting[m] = r
}

// unknown has a neighbour not be asked for a release that its pack does not back.
func (s *Site) unknown(m fleet.MemberID, release fleet.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(s.strange, func(_ stranger, until time.Time) bool { return now.After(until) })
	s.strange[stranger{m, release}] = now.Add(longestRest)
}

func (s *Site) answered(m fleet.MemberID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.resting, m)
}

// Stats counts what a member did for its site and the site for it.
type Stats struct {
	Served    uint64 // frames sent to neighbours
	Taken     uint64 // frames that neighbours gave
	Pulled    uint64 // frames fetched from the bucket for neighbours
	Forwarded uint64 // questions passed on to a better owner
	Busy      uint64 // questions answered by 503
	Refused   uint64 // certificates, and questions for what is not to be given
}

type counters struct {
	served, taken, pulled, forwarded, busy, refused atomic.Uint64
}

// Stats is what was counted since the agent started.
func (s *Site) Stats() Stats {
	c := &s.count
	return Stats{
		Served: c.served.Load(), Taken: c.taken.Load(), Pulled: c.pulled.Load(), Forwarded: c.forwarded.Load(),
		Busy: c.busy.Load(), Refused: c.refused.Load(),
	}
}

var _ delivery.Peers = (*Site)(nil)
