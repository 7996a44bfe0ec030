package delivery

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/guard"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

// Install brings the release here. It may be called again at any time: what is
// here is hashed again, what is missing or damaged is fetched. progress may be
// nil; it is called by one goroutine at a time and must not block.
func (f *Fetcher) Install(ctx context.Context, w Want, progress func(Progress)) (Result, error) {
	start := time.Now()
	done, err := f.turn(ctx, w.Key)
	if err != nil {
		return Result{}, err
	}
	defer done()
	in, err := f.begin(w, progress)
	if err != nil {
		return Result{}, err
	}
	defer in.close()
	for _, step := range []func(context.Context) error{in.survey, in.layOut, in.makeRoom, in.resume, in.fetch} {
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
	*Fetcher
	want    Want
	files   []artifact.File
	staging string
	workers int
	bufs    []*buffers // one per worker; made when they are needed
	unhold  func()
	unpack  *artifact.Unpacker
	report  func(Progress)
	journal *journal

	mu       sync.Mutex // guards what follows and the targets' state
	targets  []*target  // distinct contents that are not here yet
	damaged  map[fleet.Digest]string
	progress Progress
	lastGood time.Time // when a frame was verified last
}

func (f *Fetcher) begin(w Want, report func(Progress)) (*install, error) {
	files, err := artifact.FilesOf(w.Manifest)
	if err != nil {
		return nil, err
	}
	if w.Key.IsZero() || len(files) == 0 {
		return nil, fault.Newf(fault.Invalid, "install", w.Manifest.Name, "no key, or no files")
	}
	in := &install{
		Fetcher: f, want: w, files: files, staging: f.o.Store.StagingDir(w.Key), report: report,
		damaged: map[fleet.Digest]string{}, lastGood: time.Now(),
	}
	in.progress.From = map[Kind]int64{}
	in.progress.Total = w.Size
	frame := int64(artifact.FrameSize)
	digests := make([]fleet.Digest, 0, len(files))
	for _, file := range files {
		frame = max(frame, file.FrameSize)
		digests = append(digests, file.Digest)
	}
	// A worker holds a frame and its packed form.
	in.workers = int(min(int64(f.o.Streams), f.o.Memory/(2*roundUp(frame))))
	if in.workers == 0 {
		return nil, fault.Newf(fault.Exhausted, "install", w.Manifest.Name, "frames of %d MiB do not fit into %d MiB of memory", frame>>20, f.o.Memory>>20).
			WithHint("give the member more memory, or sign the release with smaller shards")
	}
	if in.unpack, err = artifact.NewUnpacker(in.workers); err != nil {
		return nil, err
	}
	for range in.workers {
		in.bufs = append(in.bufs, &buffers{size: frame})
	}
	in.unhold = f.o.Store.Hold(w.Key, digests)
	return in, nil
}

// close lets go of everything; partial files and the journal stay for the next
// attempt.
func (in *install) close() {
	var errs []error
	for _, t := range in.targets {
		if t.sink != nil {
			errs = append(errs, t.sink.f.Close())
		}
	}
	if in.journal != nil {
		errs = append(errs, in.journal.close())
	}
	for _, b := range in.bufs {
		errs = append(errs, b.free())
	}
	in.unpack.Close()
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
	seen := map[fleet.Digest]bool{}
	err := in.parallel(ctx, len(in.files), func(ctx context.Context, i int, b *buffers) error {
		file := in.files[i]
		in.mu.Lock()
		twice := seen[file.Digest]
		seen[file.Digest] = true
		in.mu.Unlock()
		if twice {
			return nil
		}
		t := &target{file: file, part: partPath(in.staging, file.Digest)}
		size, here := in.o.Store.FileSize(file.Digest)
		if here {
			good, err := in.recheck(ctx, t, b)
			if err != nil {
				return err
			}
			if good {
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
func (in *install) recheck(ctx context.Context, t *target, b *buffers) (bool, error) {
	buf, err := b.plain()
	if err != nil {
		return false, err
	}
	_, good, err := t.check(ctx, in.o.Store.FilePath(t.file.Digest), buf)
	if err != nil || good {
		return good, err
	}
	in.o.Logger.Warn("stored file is damaged, fetched again", "path", t.file.Path, "file", t.file.Digest.Short())
	return false, in.o.Store.Discard(t.file.Digest, in.want.Key)
}

// layOut learns the sizes and indexes of what must be fetched.
func (in *install) layOut(ctx context.Context) error {
	if p, ok := in.o.Source.(interface {
		Prepare(ctx context.Context, keys []string) error
	}); ok && len(in.targets) > 0 {
		var keys []string
		for _, t := range in.targets {
			raw := artifact.RawKey(t.file.Digest)
			keys = append(keys, raw, artifact.IndexKey(raw))
		}
		// Only to ask once instead of often; a failure shows when the keys are read.
		if err := p.Prepare(ctx, keys); err != nil {
			in.o.Logger.Debug("urls not prepared", "err", err)
		}
	}
	err := in.parallel(ctx, len(in.targets), func(ctx context.Context, i int, _ *buffers) error {
		return in.targets[i].layOut(ctx, in)
	})
	if err != nil {
		return err
	}
	sum := in.progress.Done
	for _, t := range in.targets {
		sum += t.file.Size
	}
	in.progress.Total = max(sum, in.progress.Total)
	return nil
}

// index reads an object's index, with the patience of every read.
func (in *install) index(ctx context.Context, key string, kind artifact.Kind, t *target) (artifact.Index, error) {
	var x artifact.Index
	err := in.persist(ctx, func(ctx context.Context) error {
		b, _, err := in.o.Source.Get(ctx, artifact.IndexKey(key), "")
		if err != nil {
			return err
		}
		if x, err = artifact.ParseIndex(b); err != nil {
			return fault.New(fault.Untrusted, "read index", artifact.IndexKey(key), err)
		}
		return nil
	})
	if err != nil {
		return x, err
	}
	f := t.file
	if x.Kind != kind || x.File != f.Digest || (!f.Whole() && (x.Size != f.Size || x.FrameSize != f.FrameSize)) ||
		x.FrameSize > in.bufs[0].size {
		return x, fault.Newf(fault.Untrusted, "read index", artifact.IndexKey(key), "it is not of this file")
	}
	return x, nil
}

// makeRoom checks the disk budget, and collects what nothing uses when it is
// short.
func (in *install) makeRoom(ctx context.Context) error {
	need := in.o.Reserve
	for _, t := range in.targets {
		need += max(0, roundUp(t.file.Size)-allocated(t.part))
	}
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

// resume hashes the frames that an earlier attempt wrote.
func (in *install) resume(ctx context.Context) error {
	path := filepath.Join(in.staging, "journal")
	marked, err := readJournal(path)
	if err != nil {
		return err
	}
	err = in.parallel(ctx, len(in.targets), func(ctx context.Context, i int, b *buffers) error {
		return in.resumeFile(ctx, in.targets[i], marked[keyOf(in.targets[i].file.Digest)], b)
	})
	if err != nil {
		return err
	}
	in.journal, err = openJournal(path)
	return err
}

func (in *install) resumeFile(ctx context.Context, t *target, marked []int, b *buffers) error {
	f, err := os.Open(t.part)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return cas.Classify("resume", t.file.Path, err)
	}
	defer f.Close()
	for _, i := range marked {
		if i >= len(t.have) || t.have[i] || t.digests[i].IsZero() {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		buf, err := b.plain()
		if err != nil {
			return err
		}
		buf = buf[:t.frameLen(i)]
		_, err = f.ReadAt(buf, int64(i)*t.file.FrameSize)
		if err == nil {
			_, err = t.verified(i, buf)
		}
		if err != nil {
			continue // it did not survive: fetched again
		}
		t.have[i] = true
		t.missing--
		in.advance(int64(len(buf)), func(p *Progress) { p.Resume += int64(len(buf)) })
	}
	return nil
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

// parallel calls do for 0..n-1 by the workers, each with its own buffers. What
// they read is foreign.
func (in *install) parallel(ctx context.Context, n int, do func(ctx context.Context, i int, b *buffers) error) error {
	g, ctx := errgroup.WithContext(ctx)
	work := make(chan int)
	g.Go(func() error {
		defer close(work)
		for i := range n {
			select {
			case work <- i:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for w := range min(in.workers, n) {
		g.Go(func() error {
			for i := range work {
				if err := in.guarded(func() error { return do(ctx, i, in.bufs[w]) }); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// guarded is for what runs in goroutines of the install's own.
func (in *install) guarded(f func() error) error {
	return guard.Do(in.o.Logger, "install", in.want.Manifest.Name, f)
}

// credit counts bytes that came from a kind of source.
func (in *install) credit(k Kind, n int64) {
	in.advance(n, func(p *Progress) { p.From[k] += n })
}

// advance counts bytes that are verified and here, and reports.
func (in *install) advance(n int64, count func(*Progress)) {
	in.mu.Lock()
	defer in.mu.Unlock()
	count(&in.progress)
	in.progress.Done += n
	in.lastGood = time.Now()
	if in.report != nil {
		in.report(in.copyProgress())
	}
}

func (in *install) snapshot() Progress {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.copyProgress()
}

func (in *install) copyProgress() Progress {
	p := in.progress
	p.From = map[Kind]int64{}
	for k, n := range in.progress.From {
		p.From[k] = n
	}
	return p
}

// Bundle reads a release's bundle and checks that it is the one that was
// signed. Its signature is the caller's to verify.
func Bundle(ctx context.Context, src Source, key string, digest fleet.Digest) ([]byte, error) {
	b, _, err := src.Get(ctx, key, "")
	if err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	if fleet.DigestOf(b) != digest {
		return nil, fault.Newf(fault.Untrusted, "read bundle", key, "its bytes are not the ones the fleet was told to run").
			WithHint("someone changed the object; publish the release again")
	}
	return b, nil
}

var _ Source = registry.Reader(nil)
