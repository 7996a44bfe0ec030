package delivery

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Read fills dst with a verified frame that is here, in the store or in an
// install under way. One that is not here, or is damaged, is NotFound.
func (f *Fetcher) Read(r FrameRef, dst []byte) error {
	file, _, err := f.find(r, func(at *io.SectionReader) bool {
		_, err := io.ReadFull(at, dst)
		return err == nil && r.Digest == sha256.Sum256(dst)
	})
	if err != nil {
		return err
	}
	return cas.Classify("read frame", file.Name(), file.Close())
}

// Open is like Read, but the frame's bytes are read from what it returns, so
// that a reader in no hurry needs no memory for them. They were verified before.
func (f *Fetcher) Open(r FrameRef) (io.ReadCloser, error) {
	buf := make([]byte, 64<<10)
	file, at, err := f.find(r, func(at *io.SectionReader) bool {
		h := sha256.New()
		n, err := io.CopyBuffer(h, struct{ io.Reader }{at}, buf)
		return err == nil && n == int64(r.Length) && fleet.Digest(h.Sum(nil)) == r.Digest
	})
	if err != nil {
		return nil, err
	}
	return &frameFile{io.NewSectionReader(file, at, int64(r.Length)), file}, nil
}

type frameFile struct {
	io.Reader
	io.Closer
}

// find looks for a frame that is right in the files it may lie in.
func (f *Fetcher) find(r FrameRef, right func(*io.SectionReader) bool) (*os.File, int64, error) {
	lengths := []int64{int64(r.Length), artifact.FrameSize, 1 << 20} // all frames but the last are equally long
	if fr, ok := f.o.Store.Frames(r.File); ok {
		lengths = []int64{fr.Length}
	}
	for _, path := range []string{f.o.Store.FilePath(r.File), PartPath(f.o.Store.StagingDir(r.Release), r.File)} {
		file, err := os.Open(path)
		if err != nil {
			continue
		}
		for _, length := range lengths {
			at := int64(r.Frame) * length
			// What was not written yet is a hole.
			if nextData(file, at) == at && right(io.NewSectionReader(file, at, int64(r.Length))) {
				return file, at, nil
			}
		}
		_ = file.Close() // it was only read
	}
	return nil, 0, fault.Newf(fault.NotFound, "read frame", r.File.Short(), "frame %d is not here", r.Frame)
}

// pull is one frame on its way for neighbours.
type pull struct {
	done    chan struct{}
	readers sync.WaitGroup // they copy from dst
	dst     []byte
	err     error
}

// Frame fills dst with one frame of a release, by the best plan of this member:
// from here, or out of the bucket. It is for neighbours that ask for a frame
// which this member owns; it asks no neighbour itself. However many ask at once
// for one frame, it is fetched once; when the release is being installed here,
// the frame becomes part of the install.
func (f *Fetcher) Frame(ctx context.Context, w Want, r FrameRef, dst []byte) error {
	file, err := frameOf(w, r, len(dst))
	if err != nil {
		return err
	}
	if !fleet.InWindow(f.o.Windows, time.Now()) && f.Read(r, dst) != nil {
		return fault.Newf(fault.Transient, "read frame", r.File.Short(), "outside of the download window, %s", windows(f.o.Windows))
	}
	for alone := false; ; {
		if err := f.Read(r, dst); err == nil {
			return nil
		}
		f.mu.Lock()
		p, mine := f.pulls[r.Digest], false
		if mine = p == nil; mine {
			p = &pull{done: make(chan struct{}), dst: dst}
			f.pulls[r.Digest] = p
		} else {
			p.readers.Add(1)
		}
		f.mu.Unlock()
		if mine {
			err = f.lead(p, r.Digest, func() error { return f.pull(ctx, w, file, r.Frame, dst, alone) })
			alone = errors.Is(err, errHere) // what cannot be read now is damaged: it is fetched beside the install
		} else {
			err = p.read(ctx, dst)
		}
		// Who fetched it for all may have been cancelled; then it is another's turn.
		if again := errors.Is(err, errHere) || fault.Is(err, fault.Canceled); !again || ctx.Err() != nil {
			return err
		}
	}
}

// errHere says that an install brought the frame in the meantime.
var errHere = errors.New("the frame is here")

// errPanicked is what those who waited are told when fetching panicked.
var errPanicked = errors.New("fetching the frame panicked")

// lead fetches a frame for all that wait for it. They are told even of a panic.
func (f *Fetcher) lead(p *pull, frame fleet.Digest, fetch func() error) error {
	p.err = errPanicked
	defer func() {
		f.mu.Lock()
		delete(f.pulls, frame)
		f.mu.Unlock()
		close(p.done)
		p.readers.Wait()
	}()
	p.err = fetch()
	return p.err
}

func (p *pull) read(ctx context.Context, dst []byte) error {
	defer p.readers.Done()
	select {
	case <-p.done:
		copy(dst, p.dst)
		return p.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// frameOf finds the file of a frame in the manifest, which alone is believed.
func frameOf(w Want, r FrameRef, length int) (artifact.File, error) {
	files, err := artifact.FilesOf(w.Manifest)
	if err != nil {
		return artifact.File{}, err
	}
	for _, file := range files {
		if file.Digest == r.File && r.Frame >= 0 && r.Frame < len(file.Frames) && file.Frames[r.Frame] == r.Digest &&
			int64(length) == min(file.FrameSize, file.Size-int64(r.Frame)*file.FrameSize) {
			return file, nil
		}
	}
	return artifact.File{}, fault.Newf(fault.Invalid, "read frame", r.File.Short(), "the release has no such frame %d", r.Frame)
}

// pull fetches one frame, for the install under way too if there is one, unless
// it is to be fetched alone.
func (f *Fetcher) pull(ctx context.Context, w Want, file artifact.File, frame int, dst []byte, alone bool) error {
	var host *job
	var t *target
	var err error
	if !alone {
		if host, t, err = f.host(ctx, w, file, frame); err != nil {
			return err
		}
	}
	if host != nil {
		defer host.release(errand{Fetch: Fetch{First: frame, Count: 1}, t: t})
	}
	j := f.job(w)
	j.frame = max(artifact.FrameSize, file.FrameSize)
	if err := f.shop.fits(file.Path, j.frame); err != nil {
		return err
	}
	if j.unpack, err = f.shop.enter(); err != nil {
		return err
	}
	defer func() {
		if err := f.shop.leave(); err != nil {
			f.o.Logger.Debug("memory not given back", "err", err)
		}
	}()
	mine, err := f.layOutFor(ctx, j, t, file)
	if err != nil {
		return err
	}
	for i := range mine.frames {
		mine.frames[i] = here
	}
	mine.frames[frame], mine.missing = wanted, 1
	j.targets = []*target{mine}
	j.keep = func(ctx context.Context, k Kind, _ *target, i int, plain []byte, b *bench) error {
		copy(dst, plain)
		if host != nil {
			if err := host.visit(func() error { return host.keep(ctx, k, t, i, plain, b) }); err != nil {
				return err
			}
		}
		j.mu.Lock()
		mine.done = true
		j.mu.Unlock()
		j.landed(k, mine, i)
		return nil
	}
	return j.fetch(ctx)
}

// host claims the frame in the install of its release that is under way; nil:
// there is none. While the install itself is fetching the frame it waits, but not
// for a range that stalls: the neighbour must not wait for this member's patience.
func (f *Fetcher) host(ctx context.Context, w Want, file artifact.File, frame int) (*job, *target, error) {
	f.mu.Lock()
	j := f.jobs[w.Key]
	f.mu.Unlock()
	if j == nil {
		return nil, nil, nil
	}
	i := slices.IndexFunc(j.targets, func(t *target) bool { return t.file.Digest == file.Digest })
	if i < 0 {
		return nil, nil, nil
	}
	t := j.targets[i]
	for {
		j.mu.Lock()
		state, settled := t.frames[frame], j.settled
		if state == wanted && !j.retired {
			t.frames[frame], t.claims[frame] = claimed, &claim{time.Now()}
			t.busy++
		}
		retired := j.retired
		var stalls time.Duration // until the range is not waited for any more
		if c := t.claims[frame]; c != nil {
			stalls = f.o.Stall - time.Since(c.moved)
		}
		j.mu.Unlock()
		switch {
		case retired, state == asked, state == claimed && stalls <= 0:
			// A neighbour that the install asks may be waiting for this very pull.
			return nil, t, nil
		case state == here:
			return nil, nil, errHere
		case state == wanted:
			return j, t, nil
		}
		select {
		case <-settled:
		case <-time.After(stalls):
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// maxKnown is how many laid-out files are remembered for neighbours.
const maxKnown = 8

// layOutFor is a target of the file with its sources known: the install's, one
// of an earlier pull, or a new one.
func (f *Fetcher) layOutFor(ctx context.Context, j *job, installed *target, file artifact.File) (*target, error) {
	f.mu.Lock()
	if i := slices.IndexFunc(f.known, func(t *target) bool { return t.file.Digest == file.Digest }); i >= 0 && installed == nil {
		installed = f.known[i]
	}
	f.mu.Unlock()
	t := &target{file: file}
	if installed != nil {
		t.digests, t.full, t.deltas = file.Frames, installed.full, installed.deltas
		t.clear()
		return t, nil
	}
	j.targets = []*target{t}
	if err := j.layOut(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known = append(f.known, &target{file: file, full: t.full, deltas: t.deltas}); len(f.known) > maxKnown {
		f.known = f.known[1:]
	}
	return t, nil
}

// enlist lets neighbours take part in an install; retire ends that.
func (f *Fetcher) enlist(j *job) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.jobs[j.want.Key] = j
}

func (f *Fetcher) retire(j *job) {
	f.mu.Lock()
	if f.jobs[j.want.Key] == j {
		delete(f.jobs, j.want.Key)
	}
	f.mu.Unlock()
	j.visits.Lock() // waits for those that write
	defer j.visits.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.retired = true
}

// visit keeps a frame for a neighbour as the job does for itself, unless it is over.
func (j *job) visit(keep func() error) error {
	j.visits.RLock()
	defer j.visits.RUnlock()
	j.mu.Lock()
	over := j.retired
	j.mu.Unlock()
	if over {
		return nil
	}
	err := keep()
	if err != nil {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.broken = err
		j.tell()
	}
	return err
}
