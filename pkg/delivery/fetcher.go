package delivery

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// Source is where objects are read from; every registry.Reader is one.
type Source interface {
	Get(ctx context.Context, key, ifNoneMatch string) (body []byte, etag string, err error)
	Range(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error)
}

// Options says how releases are fetched. Only Store and Source must be given.
type Options struct {
	Store  *cas.Store
	Source Source
	// Peers are the neighbours that frames are shared with; nil: there are none.
	Peers Peers
	// Streams is how many ranges are fetched at once; default 5, 2 in the
	// low-memory mode.
	Streams int
	// Memory bounds the frame buffers of all installs together; default 40 MiB, which keeps the
	// whole process under 64 MiB. LowMemory is 12 MiB instead: three frames of
	// 4 MiB, what a delta needs, keep a whole agent under 32 MiB.
	Memory    int64
	LowMemory bool
	// Reserve is disk space that an install must leave free; default 64 MiB.
	Reserve int64
	// Rate caps what is taken from the bucket, in bytes a second; 0: no cap.
	// Neighbours are near: what they send is theirs to cap. Under a cap there is
	// one range for each MiB a second, not more than Streams: ranges that all creep
	// all end late, and lose what they have when power fails.
	Rate int64
	// Stall is how long a range may deliver nothing before it is given up and
	// asked for again; default 15 s.
	Stall time.Duration
	// Patience is how long an install goes on without one new verified frame
	// while every source fails; default 2 min. After it the error is Transient.
	Patience time.Duration
	// Metered says that what comes out of the bucket costs money: the fewest bytes
	// are taken, however long that takes.
	Metered bool
	// Windows are when releases are fetched, in the member's own local time; none:
	// always. What is urgent does not wait for them.
	Windows []fleet.Window
	// Spare, when not nil, is called when an install is short of disk space: whoever
	// borrowed some gives it back. It must not call the fetcher.
	Spare func()
	// Keep lists the releases (by key) that making room must not remove, besides
	// those that are pinned. When it is nil, making room removes no release, only
	// what no release uses.
	Keep   func() []fleet.Digest
	Logger *slog.Logger
}

// Want is a release to be installed.
type Want struct {
	// Key names the release's folder: the digest of its bundle (fleet.Variant.
	// Bundle), which covers names and content. (The OMS root covers content only.)
	Key      fleet.Digest
	Path     string       // the bundle's key in the bucket; neighbours name the release by it
	Manifest oms.Manifest // believed: its signature was verified
	Size     int64        // bytes of all files as signed beside it (fleet.Variant.Size); bounds what a lying index may reserve
	// Bases are releases, by key, whose files are the likeliest bases of deltas: the
	// running one first. Others that are here are tried after them.
	Bases  []fleet.Digest
	Urgent bool // does not wait for a download window
}

// Progress is how far an install is.
type Progress struct {
	Total  int64          // plain bytes of the release
	Done   int64          // plain bytes verified
	From   map[Kind]int64 // plain bytes verified, by the kind of source they came from
	Wire   int64          // bytes taken from the bucket, wrong ones and repeats too
	Resume int64          // plain bytes found from an earlier, interrupted install
	Waits  string         // what it waits for while nothing moves; "": it moves
	// Arriving is plain bytes of frames that are on their way from the bucket:
	// what came of them so far, not verified.
	Arriving int64
	// Trouble is what went wrong last while every source fails or delivers
	// nothing; nil: frames arrive. It is tried again until Patience ends.
	Trouble error
}

func (p Progress) clone() Progress {
	p.From = maps.Clone(p.From)
	return p
}

// Result is a release that is here.
type Result struct {
	Dir      string // holds exactly the signed files
	Progress Progress
	Elapsed  time.Duration
}

// Fetcher installs releases. It may be used by many goroutines at once; installs
// of the same release take turns.
type Fetcher struct {
	o      Options
	ranges int // most that are read at once
	meter  *meter
	shop   *workshop
	wire   atomic.Int64 // bytes taken from the bucket

	turns turns // of installs, by release

	mu    sync.Mutex
	jobs  map[fleet.Digest]*job  // installs that are fetching, by key
	pulls map[fleet.Digest]*pull // frames on their way for neighbours, by digest
	known []*target              // laid out for neighbours before
}

// New returns a fetcher.
func New(o Options) (*Fetcher, error) {
	if o.Store == nil || o.Source == nil {
		return nil, fault.Newf(fault.Invalid, "make fetcher", "", "a store and a source must be given")
	}
	setDefault(&o.Streams, pick(o.LowMemory, 2, 5))
	setDefault(&o.Memory, pick(o.LowMemory, int64(12<<20), 40<<20))
	setDefault(&o.Reserve, 64<<20)
	setDefault(&o.Stall, 15*time.Second)
	setDefault(&o.Patience, 2*time.Minute)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Fetcher{
		o: o, ranges: pick(o.Rate > 0, min(o.Streams, int(max(1, o.Rate>>20))), o.Streams), meter: &meter{cap: o.Rate, metered: o.Metered}, shop: newWorkshop(o.Memory, pick(o.LowMemory, 1, runtime.GOMAXPROCS(0))),
		jobs: map[fleet.Digest]*job{}, pulls: map[fleet.Digest]*pull{},
	}, nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

func pick[T any](cond bool, yes, no T) T {
	if cond {
		return yes
	}
	return no
}

// Wire is how many bytes this fetcher ever took from the bucket: for installs
// and for neighbours.
func (f *Fetcher) Wire() int64 { return f.wire.Load() }
