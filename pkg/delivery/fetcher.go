package delivery

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/modelfleet/modelfleet/pkg/cas"
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
	// Streams is how many ranges are fetched at once; default 4, 2 in the
	// low-memory mode.
	Streams int
	// Memory bounds the frame buffers together; default 48 MiB, which keeps the
	// whole process under 64 MiB. LowMemory is 16 MiB instead.
	Memory    int64
	LowMemory bool
	// Reserve is disk space that an install must leave free; default 64 MiB.
	Reserve int64
	// Rate caps what is taken from the network, in bytes a second; 0: no cap.
	Rate int64
	// Stall is how long a range may deliver nothing before it is given up and
	// asked for again; default 15 s.
	Stall time.Duration
	// Patience is how long an install goes on without one new verified frame
	// while every source fails; default 2 min. After it the error is Transient.
	Patience time.Duration
	// Keep lists releases (by key) that making room must not remove, besides
	// those that are pinned; may be nil.
	Keep   func() []fleet.Digest
	Logger *slog.Logger
}

// Want is a release to be installed.
type Want struct {
	// Key names the release's folder: the digest of its bundle (fleet.Variant.
	// Bundle), which covers names and content. (The OMS root covers content only.)
	Key      fleet.Digest
	Manifest oms.Manifest // believed: its signature was verified
	Size     int64        // bytes of all files as signed beside it (fleet.Variant.Size); bounds what a lying index may reserve
}

// Progress is how far an install is.
type Progress struct {
	Total  int64          // plain bytes of the release
	Done   int64          // plain bytes verified
	From   map[Kind]int64 // plain bytes verified, by the kind of source they came from
	Wire   int64          // bytes taken from the network, wrong ones and repeats too
	Resume int64          // plain bytes found from an earlier, interrupted install
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
	o Options
}
