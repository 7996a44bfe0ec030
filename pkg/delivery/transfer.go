package delivery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

var (
	errStalled = errors.New("the stream delivered nothing for too long")
	errWrong   = errors.New("these are not the bytes that were signed")
	errBuried  = errors.New("the source was given up while it was waited for")
)

// do carries out one errand. An error is the end of the job; a source that fails
// is noted, and its frames are planned again: also when only the patience with it
// is at its end, for the trouble may be that of one object.
func (j *job) do(ctx context.Context, e errand) error {
	defer j.release(e)
	if j.buried(e.offer.Name) {
		return nil
	}
	err := j.withBench(ctx, e.offer.Kind.buffers(), func(b *bench) error { return j.carry(ctx, e, b) })
	if _, fatal := errors.AsType[*fatalError](err); fatal || ctx.Err() != nil || err == nil {
		return err
	}
	j.bury(e.offer.Name, err)
	return nil
}

// buffers is how many frames of memory a fetch needs.
func (k Kind) buffers() int {
	switch k {
	case Copy, Peer:
		return 1
	case Delta:
		return 3 // packed, its base, plain
	}
	return 2 // packed and plain, or one being written and the next being read
}

func (j *job) carry(ctx context.Context, e errand, b *bench) error {
	switch e.offer.Kind {
	case Copy:
		return j.copy(ctx, e, b)
	case Peer:
		return j.ask(ctx, e, b)
	}
	end := e.First + e.Count
	return j.persist(ctx, func(ctx context.Context) error {
		if j.buried(e.offer.Name) {
			return errBuried
		}
		n, err := j.download(ctx, e, b)
		e.Fetch = e.cut(e.offer, e.First+n, end) // the next try begins where this one ended
		return err
	})
}

// fatalError ends a job: this member's disk failed, not a source.
type fatalError struct{ error }

func (f *fatalError) Unwrap() error { return f.error }

func fatal(err error) error {
	if err == nil {
		return nil
	}
	return &fatalError{err}
}

// download reads one range and keeps the frames that are right. It returns how
// many frames were settled, right or wrong.
func (j *job) download(ctx context.Context, e errand, b *bench) (int, error) {
	src := j.open(ctx, e.offer, e.Span)
	defer src.close()
	base, err := openBase(e.offer)
	if err != nil {
		return 0, err
	}
	defer base.close()
	var w behind
	defer w.wait() // for a panic: the write uses the buffers; every other way out waited
	for n := range e.Count {
		i := e.First + n
		if e.offer.codec(i) != artifact.Plain {
			if err := w.wait(); err != nil { // the other buffer is for the packed form
				return n, err
			}
		}
		plain, err := j.read(src, base, e, i, b)
		if errors.Is(err, errWrong) {
			if err := j.blame(e, i); err != nil {
				return n + 1, errors.Join(w.wait(), err)
			}
			continue
		}
		if err == nil {
			b.swap()
			err = w.start(func() error { return j.guarded(func() error { return j.keep(ctx, e.offer.Kind, e.t, i, plain, b) }) })
		} else {
			err = errors.Join(w.wait(), err)
		}
		if err != nil {
			return n, err
		}
	}
	return e.Count, w.wait()
}

// behind lets the write of one frame go on while the next one is read.
type behind struct{ pending chan error }

// start waits for the write before and begins this one.
func (w *behind) start(write func() error) error {
	if err := w.wait(); err != nil {
		return err
	}
	w.pending = make(chan error, 1)
	go func() { w.pending <- write() }()
	return nil
}

// wait waits for the write under way, if there is one.
func (w *behind) wait() error {
	if w.pending == nil {
		return nil
	}
	err := <-w.pending
	w.pending = nil
	return err
}

// read reads, unpacks and verifies one frame in the bench's memory. Bytes that
// do not unpack are errWrong, like those that were not signed.
func (j *job) read(src *stream, base *baseFile, e errand, i int, b *bench) ([]byte, error) {
	plain, err := b.plain()
	if err != nil {
		return nil, fatal(err)
	}
	plain = plain[:e.t.frameLen(i)]
	codec := e.offer.codec(i)
	src.onto(e.t, i, e.offer.Frames[i].Length)
	if codec == artifact.Plain {
		if err := readFull(src, plain, e.offer.Name); err != nil {
			return nil, err
		}
		return plain, e.t.verify(i, plain)
	}
	packed, err := b.packed()
	if err != nil {
		return nil, fatal(err)
	}
	packed = packed[:e.offer.Frames[i].Length]
	if err := readFull(src, packed, e.offer.Name); err != nil {
		return nil, err
	}
	start := time.Now()
	var old []byte
	if codec == artifact.TensorBase {
		if old, err = b.base(); err != nil {
			return nil, fatal(err)
		}
		old = old[:len(plain)]
		if err := base.read(e.offer.index.BaseSpans(i), old); err != nil {
			return nil, errWrong // a damaged base gives no right frame
		}
	}
	if err := j.unpack.Unpack(plain, packed, old, codec); err != nil {
		return nil, errWrong
	}
	gauge := &j.meter.unpack
	if e.offer.Kind == Delta {
		gauge = &j.meter.apply
	}
	j.meter.decoded(gauge, len(plain), time.Since(start))
	return plain, e.t.verify(i, plain)
}

// baseFile is the file that a delta is a difference to.
type baseFile struct{ f *os.File }

func openBase(o Offer) (*baseFile, error) {
	if o.base == "" {
		return &baseFile{}, nil
	}
	f, err := os.Open(o.base)
	return &baseFile{f}, cas.Classify("read base", o.base, err)
}

func (b *baseFile) close() {
	if b.f != nil {
		_ = b.f.Close() // it was only read
	}
}

// read fills dst with what a frame is a difference to.
func (b *baseFile) read(spans []artifact.Region, dst []byte) error {
	at := int64(0)
	for _, s := range spans {
		clear(dst[at:s.New])
		at = s.New + s.Length
		if _, err := b.f.ReadAt(dst[s.New:at], s.Base); err != nil {
			return err
		}
	}
	clear(dst[at:])
	return nil
}

func readFull(src io.Reader, b []byte, name string) error {
	_, err := io.ReadFull(src, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fault.New(fault.Transient, "read range", name, io.ErrUnexpectedEOF)
	}
	if err != nil && fault.KindOf(err) == fault.Internal {
		return fault.New(fault.Transient, "read range", name, err) // the connection broke
	}
	return err
}

// copy takes frames from a file that is here. Wrong ones, and files that are
// gone meanwhile, are simply fetched.
func (j *job) copy(ctx context.Context, e errand, b *bench) error {
	file, err := os.Open(e.offer.Name)
	if err != nil {
		return cas.Classify("copy from", e.offer.Name, err)
	}
	defer file.Close()
	buf, err := b.plain()
	if err != nil {
		return fatal(err)
	}
	for i := e.First; i < e.First+e.Count; i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		plain := buf[:e.t.frameLen(i)]
		_, err = file.ReadAt(plain, e.offer.Frames[i].Offset)
		if err == nil {
			err = e.t.verify(i, plain)
		}
		if err != nil {
			j.mark(e, i, tries)
			continue
		}
		if err := j.keep(ctx, Copy, e.t, i, plain, b); err != nil {
			return err
		}
	}
	return nil
}

// ask takes a frame from a neighbour. What goes wrong is taken from elsewhere.
func (j *job) ask(ctx context.Context, e errand, b *bench) error {
	buf, err := b.plain()
	if err != nil {
		return fatal(err)
	}
	plain, r := buf[:e.t.frameLen(e.First)], j.ref(e.t, e.First)
	for range tries {
		var from string
		_, err := j.meter.timed(&j.meter.peer, func() (int, error) {
			var err error
			from, err = j.o.Peers.Frame(ctx, r, plain)
			return len(plain), err
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			j.o.Logger.Debug("frame not had from a neighbour", "path", e.t.file.Path, "frame", e.First, "err", err)
			break
		}
		if e.t.verify(e.First, plain) == nil {
			return j.keep(ctx, Peer, e.t, e.First, plain, b)
		}
		j.o.Logger.Warn("frame is not what was signed", "path", e.t.file.Path, "frame", e.First, "source", from)
		j.o.Peers.Lied(from, r)
	}
	j.mark(e, e.First, tries)
	return nil
}

// blame notes that a source delivered a wrong frame. The error says that the
// source is wrong altogether.
func (j *job) blame(e errand, i int) error {
	j.o.Logger.Warn("frame is not what was signed", "path", e.t.file.Path, "frame", i, "source", e.offer.Name)
	delta := e.offer.Kind == Delta
	if delta {
		j.mark(e, i, tries)
	} else {
		j.mark(e, i, 1)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	e.t.blame = untrusted(e.t, i, e.offer.Name)
	if j.strikes[e.offer.Name]++; delta && j.strikes[e.offer.Name] >= lies {
		return e.t.blame
	}
	return nil
}

func untrusted(t *target, frame int, source string) error {
	what := fmt.Sprintf("frame %d of %d", frame+1, len(t.frames)) // as people count
	if frame < 0 {
		what = "the file as a whole"
	}
	return fault.Newf(fault.Untrusted, "verify", t.file.Path, "%s from %s is not what was signed, and no source has other bytes", what, source).
		WithHint("the object was changed or damaged in the bucket; the member keeps what it has. Remove it there and publish the release again")
}
