package delivery

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

// Install brings the release here. It may be called again at any time: what is
// here is hashed again, what is missing or damaged is fetched. progress may be
// nil; it is called by one goroutine at a time and must not block.
func (f *Fetcher) Install(ctx context.Context, w Want, progress func(Progress)) (Result, error) {
	start := time.Now()
	done, err := f.turns.take(ctx, w.Key)
	if err != nil {
		return Result{}, err
	}
	defer done()
	in, err := f.begin(w, progress)
	if err != nil {
		return Result{}, err
	}
	defer in.close()
	for _, step := range []func(context.Context) error{in.survey, in.layOut, in.makeRoom, in.resume, in.fetchAll} {
		if err := step(ctx); err != nil {
			if f, ok := errors.AsType[*fatalError](err); ok {
				err = f.error
			}
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return Result{}, err
		}
	}
	dir, err := in.finish()
	return Result{Dir: dir, Progress: in.snapshot(), Elapsed: time.Since(start)}, err
}

// install is one call of Install.
type install struct {
	*job
	files   []artifact.File
	staging string
	unhold  func()
}

func (f *Fetcher) begin(w Want, report func(Progress)) (*install, error) {
	files, err := artifact.FilesOf(w.Manifest)
	if err != nil {
		return nil, err
	}
	if w.Key.IsZero() || len(files) == 0 {
		return nil, fault.Newf(fault.Invalid, "install", w.Manifest.Name, "no key, or no files").
			WithHint("publish the release again, from a folder with files")
	}
	in := &install{job: f.job(w), files: files, staging: f.o.Store.StagingDir(w.Key)}
	in.keep, in.asks, in.report, in.damaged = in.place, true, report, map[fleet.Digest]string{}
	in.frame = artifact.FrameSize
	digests := make([]fleet.Digest, 0, len(files))
	for _, file := range files {
		in.frame = max(in.frame, file.FrameSize)
		digests = append(digests, file.Digest)
	}
	if err := f.shop.fits(w.Manifest.Name, in.frame); err != nil {
		return nil, err
	}
	if in.unpack, err = f.shop.enter(); err != nil {
		return nil, err
	}
	in.unhold = f.o.Store.Hold(w.Key, digests)
	return in, nil
}

// close lets go of everything; partial files stay for the next attempt.
func (in *install) close() {
	in.Fetcher.retire(in.job)
	var errs []error
	for _, t := range in.targets {
		if t.sink != nil {
			errs = append(errs, t.sink.f.Close())
		}
	}
	errs = append(errs, in.shop.leave())
	in.unhold()
	if err := errors.Join(errs...); err != nil {
		// Nothing depends on it: what matters was closed and checked before.
		in.o.Logger.Debug("install left handles", "err", err)
	}
}

// survey finds out which files are here, by hashing them, and takes damaged
// ones out of the store. What remains becomes the targets.
func (in *install) survey(ctx context.Context) error {
	if _, err := in.o.Store.Stage(in.want.Key); err != nil {
		return err
	}
	var distinct []artifact.File
	seen := map[fleet.Digest]bool{}
	for _, file := range in.files {
		if !seen[file.Digest] {
			distinct = append(distinct, file)
		}
		seen[file.Digest] = true
	}
	err := in.parallel(ctx, len(distinct), func(ctx context.Context, i int) error {
		t := &target{file: distinct[i], part: PartPath(in.staging, distinct[i].Digest)}
		if size, ok := in.o.Store.FileSize(t.file.Digest); ok {
			good, err := in.recheck(ctx, t)
			if err != nil {
				return err
			}
			if good {
				in.mu.Lock()
				defer in.mu.Unlock()
				in.credit(Copy, size)
				return nil
			}
		}
		in.mu.Lock()
		defer in.mu.Unlock()
		in.targets = append(in.targets, t)
		return nil
	})
	slices.SortFunc(in.targets, func(a, b *target) int { return strings.Compare(a.file.Path, b.file.Path) })
	for _, t := range in.targets {
		// Also one that an earlier, interrupted attempt set aside.
		if aside := cas.DamagedPath(in.staging, t.file.Digest); exists(aside) {
			in.damaged[t.file.Digest] = aside
		}
	}
	return err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// recheck hashes a file of the store and takes it out when it is damaged.
func (in *install) recheck(ctx context.Context, t *target) (good bool, err error) {
	err = in.withBench(ctx, 1, func(b *bench) error {
		buf, err := b.plain()
		if err != nil {
			return err
		}
		good, err = t.check(ctx, in.o.Store.FilePath(t.file.Digest), buf)
		return err
	})
	if err != nil || good {
		return good, err
	}
	in.o.Logger.Warn("stored file is damaged, fetched again", "path", t.file.Path, "file", t.file.Digest.Short())
	return false, in.o.Store.Discard(t.file.Digest, in.want.Key)
}

// makeRoom checks the disk budget, and collects what nothing uses when it is
// short.
func (in *install) makeRoom(ctx context.Context) error {
	sum, need := in.progress.Done, in.o.Reserve
	for _, t := range in.targets {
		sum += t.file.Size
		need += max(0, roundUp(t.file.Size)-allocated(t.part))
	}
	in.progress.Total = max(sum, in.progress.Total)
	if len(in.targets) == 0 {
		return nil
	}
	free, err := freeSpace(in.o.Store.Dir())
	if err != nil || free >= need {
		return cas.Classify("look up free space", in.o.Store.Dir(), err)
	}
	keep, err := in.o.Store.Releases()
	if err != nil {
		return err
	}
	if in.o.Keep != nil {
		keep = append(in.o.Keep(), in.want.Key)
	}
	if in.o.Spare != nil {
		in.o.Spare()
	}
	got, err := in.o.Store.Collect(ctx, keep...)
	if err != nil {
		return err
	}
	in.o.Logger.Info("store collected to make room", "releases", got.Releases, "files", got.Files, "bytes", got.Bytes)
	if free, err = freeSpace(in.o.Store.Dir()); err != nil {
		return cas.Classify("look up free space", in.o.Store.Dir(), err)
	}
	if free < need {
		return fault.Newf(fault.Exhausted, "install", in.want.Manifest.Name,
			"needs %d MiB and %d MiB that stay free, but the disk has %d MiB", (need-in.o.Reserve)>>20, in.o.Reserve>>20, free>>20).
			WithHint("free space on the device, or remove models it need not keep")
	}
	return nil
}

// resume hashes the frames that an earlier attempt wrote: wherever a partial
// file has data.
func (in *install) resume(ctx context.Context) error {
	return in.parallel(ctx, len(in.targets), func(ctx context.Context, i int) error {
		t := in.targets[i]
		f, err := os.Open(t.part)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return cas.Classify("resume", t.file.Path, err)
		}
		defer f.Close()
		return in.withBench(ctx, 1, func(b *bench) error { return in.resumeFile(ctx, t, f, b) })
	})
}

func (in *install) resumeFile(ctx context.Context, t *target, f *os.File, b *bench) error {
	buf, err := b.plain()
	if err != nil {
		return err
	}
	for at := nextData(f, 0); at < t.file.Size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		i := int(at / t.file.FrameSize)
		plain, off := buf[:t.frameLen(i)], int64(i)*t.file.FrameSize
		// What did not survive, or cannot be verified by itself, is fetched again.
		if _, err := f.ReadAt(plain, off); err == nil && !t.digests[i].IsZero() && t.verify(i, plain) == nil {
			in.mu.Lock()
			t.frames[i] = here
			t.missing--
			in.progress.Resume += int64(len(plain))
			in.advance(int64(len(plain)))
			in.mu.Unlock()
		}
		at = nextData(f, off+t.file.FrameSize)
	}
	return nil
}

// fetchAll fetches what is missing, when that is allowed, and keeps syncing what
// came, so that a power cut costs moments of work.
func (in *install) fetchAll(ctx context.Context) error {
	missing := false
	for _, t := range in.targets {
		if t.missing > 0 {
			missing = true
			continue
		}
		// An empty file, or one that was found whole.
		if err := in.withBench(ctx, 1, func(b *bench) error { return in.complete(ctx, t, b) }); err != nil {
			return err
		}
		missing = missing || !t.done
	}
	if !missing {
		return nil
	}
	in.Fetcher.enlist(in.job)
	return in.whileOpen(ctx, func(ctx context.Context) error {
		stop := in.checkpointing()
		defer stop()
		return in.fetch(ctx)
	})
}

// finish makes the release visible: every file is whole and verified, and the
// folder holds exactly the signed files.
func (in *install) finish() (string, error) {
	var entries []cas.Entry
	for _, f := range in.files {
		size, ok := in.o.Store.FileSize(f.Digest)
		if !ok || (f.Size >= 0 && size != f.Size) {
			return "", fault.Newf(fault.Internal, "install", f.Path, "the file is not in the store after it was fetched")
		}
		entries = append(entries, cas.Entry{Path: f.Path, Digest: f.Digest, Size: size})
	}
	dir, err := in.o.Store.Assemble(in.want.Key, entries)
	if err != nil {
		return "", err
	}
	return dir, in.o.Store.DropStaging(in.want.Key)
}

var _ Source = registry.Reader(nil)
