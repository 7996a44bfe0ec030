// Package scrub looks at the files of the releases on a device again and again,
// and tells which were damaged since they were verified: flash loses bits, and a
// file that is only read keeps its wrong ones for ever. It reads slowly, past the
// page cache, when nobody else wants the disk.
//
//	releases ──▶ entries ──▶ cas.Store.Verify ──▶ Found ──▶ agent/update: Damaged ──▶ Mend
//
// It repairs nothing: installing the release again compares it with what was
// signed and mends it frame by frame. A release that was damaged is looked at
// again soon, until it is whole.
package scrub

import (
	"context"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/guard"
)

// Options say what is looked at. Store, Releases, Found and Logger must be given.
type Options struct {
	Store *cas.Store
	// Releases are those whose files should be here, by key.
	Releases func() []fleet.Digest
	// Found is told of a release that is not what it was.
	Found func(ctx context.Context, release fleet.Digest)
	// Every is the time between looks, with a tenth of jitter; default 24 h.
	// Negative: nothing is ever looked at.
	Every time.Duration
	// Rate is how fast files are read, in bytes a second; default 16 MiB.
	Rate   int64
	Logger *slog.Logger
}

// Soonest and again bound the time to the next look after damage was found: it
// doubles from the first to the other.
const (
	soonest = time.Minute
	again   = time.Hour
)

// Scrub looks at files. Make it with [New].
type Scrub struct {
	o       Options
	damaged atomic.Uint64
	bad     map[fleet.Digest]bool // files that were damaged when last looked at; of the goroutine of Run
}

// New makes a scrub that has looked at nothing.
func New(o Options) *Scrub {
	if o.Every == 0 {
		o.Every = 24 * time.Hour
	}
	if o.Rate <= 0 {
		o.Rate = 16 << 20
	}
	return &Scrub{o: o, bad: map[fleet.Digest]bool{}}
}

// Damaged is how many files were found damaged so far; one that stays so is
// counted once.
func (s *Scrub) Damaged() uint64 { return s.damaged.Load() }

// Run looks at once, and then again and again until ctx ends.
func (s *Scrub) Run(ctx context.Context) {
	if s.o.Every < 0 {
		return
	}
	yield(s.o.Logger)
	for wait := soonest; ctx.Err() == nil; {
		var found int
		err := guard.Do(s.o.Logger, "scrub", "", func() (err error) {
			found, err = s.look(ctx)
			return err
		})
		if err != nil && ctx.Err() == nil {
			s.o.Logger.Warn("files were not all looked at", "err", err)
		}
		next := s.o.Every - s.o.Every/10 + rand.N(s.o.Every/5+1)
		if found > 0 {
			next = min(next, wait)
			wait = min(2*wait, again)
		} else {
			wait = soonest
		}
		pause(ctx, next)
	}
}

// look looks at every release once and says how many are not what they were.
// What could not be looked at does not keep it from the rest.
func (s *Scrub) look(ctx context.Context) (found int, err error) {
	whole := map[fleet.Digest]bool{} // files, of this look
	for _, r := range s.o.Releases() {
		intact, e := s.release(ctx, r, whole)
		if ctx.Err() != nil {
			return found, ctx.Err()
		}
		if e != nil {
			err = e
			continue
		}
		if !intact {
			found++
			s.o.Found(ctx, r)
		}
	}
	return found, err
}

// release reports whether a release is what it was.
func (s *Scrub) release(ctx context.Context, key fleet.Digest, whole map[fleet.Digest]bool) (intact bool, err error) {
	entries, err := s.o.Store.Entries(key)
	if fault.Is(err, fault.NotFound) {
		if !slices.Contains(s.o.Releases(), key) || s.o.Store.HasRelease(key) {
			return true, nil // it was collected, or is being put right
		}
		s.o.Logger.Error("release is gone from the disk", "release", key.Short())
		return false, nil
	}
	if err != nil {
		return false, err
	}
	// A file that the store set aside is still in the folder, for those who have it
	// open, but is no entry.
	n, err := s.count(key)
	if err != nil {
		return false, err
	}
	intact = n == len(entries)
	for _, e := range entries {
		ok, seen := whole[e.Digest]
		if !seen {
			ok, err = s.o.Store.Verify(ctx, e.Digest, func(n int) error { return s.pace(ctx, n) })
			if fault.Is(err, fault.NotFound) {
				return true, nil // it is being put right, or was collected
			}
			if err != nil {
				return false, err
			}
			whole[e.Digest] = ok
			s.note(key, e, ok)
		}
		intact = intact && ok
	}
	return intact, nil
}

// count is how many files a release's folder holds.
func (s *Scrub) count(key fleet.Digest) (n int, err error) {
	err = filepath.WalkDir(s.o.Store.ReleaseDir(key), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	return n, cas.Classify("look at release", key.Short(), err)
}

// note counts a file that was damaged since the last look.
func (s *Scrub) note(release fleet.Digest, e cas.Entry, whole bool) {
	if whole {
		delete(s.bad, e.Digest)
		return
	}
	if s.bad[e.Digest] {
		return
	}
	s.bad[e.Digest] = true
	s.damaged.Add(1)
	s.o.Logger.Error("file is damaged on the disk", "release", release.Short(), "path", e.Path, "file", e.Digest.Short())
}

// pace waits as long as n bytes may take.
func (s *Scrub) pace(ctx context.Context, n int) error {
	pause(ctx, time.Duration(float64(n)/float64(s.o.Rate)*float64(time.Second)))
	return ctx.Err()
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
