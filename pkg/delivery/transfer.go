package delivery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

var (
	errStalled = errors.New("the stream delivered nothing for too long")
	errWrong   = errors.New("these are not the bytes that were signed")
)

// do carries out one fetch. An error is the end of the install; a source that
// fails is noted and its frames are planned again.
func (r *round) do(ctx context.Context, f Fetch, b *buffers) error {
	r.mu.Lock()
	o, t := r.offers[f.Offer], r.targets[f.File]
	dead := r.dead[o.Name] != nil
	r.mu.Unlock()
	if dead {
		return nil
	}
	var err error
	if o.Kind == Copy {
		err = r.copy(ctx, o, t, f, b)
	} else {
		err = r.persist(ctx, func(ctx context.Context) error {
			n, err := r.download(ctx, o, t, f, b)
			f.First, f.Count = f.First+n, f.Count-n // the next try begins where this one ended
			if f.Count > 0 {
				s := o.Frames[f.First]
				f.Span = Span{s.Offset, f.Span.Offset + f.Span.Length - s.Offset}
			}
			return err
		})
	}
	if _, fatal := errors.AsType[*fatalError](err); fatal || ctx.Err() != nil || err == nil {
		return err
	}
	if fault.Is(err, fault.Transient) { // patience is at its end
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead == nil {
		r.dead = map[string]error{}
	}
	r.dead[o.Name] = err
	r.o.Logger.Debug("source given up", "source", o.Name, "err", err)
	return nil
}

// fatalError ends an install: this member's disk failed, not a source.
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
func (r *round) download(ctx context.Context, o Offer, t *target, f Fetch, b *buffers) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(r.o.Stall, func() { cancel(errStalled) })
	defer watch.Stop()
	stalled := func(err error) error {
		if errors.Is(context.Cause(ctx), errStalled) {
			return fault.New(fault.Transient, "read range", o.Name, errStalled)
		}
		return err
	}
	body, err := r.o.Source.Range(ctx, o.Name, f.Span.Offset, f.Span.Length)
	if err != nil {
		return 0, stalled(err)
	}
	defer body.Close()
	src := &wire{ctx: ctx, body: body, in: r.install, watch: watch}
	var w behind
	defer w.wait() // for a panic: the write uses the buffers; every other way out waited
	for n := range f.Count {
		i := f.First + n
		if o.Kind != Raw {
			if err := w.wait(); err != nil { // the other buffer is for the packed form
				return n, err
			}
		}
		plain, err := r.frame(src, o, t, i, b)
		if errors.Is(err, errWrong) {
			r.blame(o, t, i)
			continue
		}
		if err == nil {
			b.swap()
			err = w.start(func() error { return r.guarded(func() error { return r.place(ctx, o, t, i, plain, b) }) })
		} else {
			err = errors.Join(w.wait(), stalled(err))
		}
		if err != nil {
			return n, err
		}
	}
	return f.Count, w.wait()
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

// frame reads, unpacks and verifies one frame in the worker's buffer. Bytes that
// do not unpack are errWrong, like those that were not signed.
func (r *round) frame(src io.Reader, o Offer, t *target, i int, b *buffers) ([]byte, error) {
	plain, err := b.plain()
	if err != nil {
		return nil, fatal(err)
	}
	plain = plain[:t.frameLen(i)]
	codec := artifact.Plain
	if o.Kind == Full {
		codec = t.full.Frames[i].Codec
	}
	if codec == artifact.Plain {
		if err := readFull(src, plain, o.Name); err != nil {
			return nil, err
		}
		return t.verified(i, plain)
	}
	packed, err := b.packed()
	if err != nil {
		return nil, fatal(err)
	}
	packed = packed[:o.Frames[i].Length]
	if err := readFull(src, packed, o.Name); err != nil {
		return nil, err
	}
	start := time.Now()
	if err := r.unpack.Unpack(plain, packed, nil, codec); err != nil {
		return nil, errWrong
	}
	r.meter.unpack(len(plain), time.Since(start))
	return t.verified(i, plain)
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
func (r *round) copy(ctx context.Context, o Offer, t *target, f Fetch, b *buffers) error {
	file, err := os.Open(o.Name)
	if err != nil {
		return cas.Classify("copy from", o.Name, err)
	}
	defer file.Close()
	for i := f.First; i < f.First+f.Count; i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		buf, err := b.plain()
		if err != nil {
			return fatal(err)
		}
		buf = buf[:t.frameLen(i)]
		_, err = file.ReadAt(buf, o.Frames[i].Offset)
		if err == nil {
			_, err = t.verified(i, buf)
		}
		if err != nil {
			r.mark(o, t, i, tries)
			continue
		}
		if err := r.place(ctx, o, t, i, buf, b); err != nil {
			return err
		}
	}
	return nil
}

// place writes a verified frame where it belongs. When it was the last one, the
// file is completed.
func (r *round) place(ctx context.Context, o Offer, t *target, i int, plain []byte, b *buffers) error {
	r.mu.Lock()
	err := t.open()
	s := t.sink
	r.mu.Unlock()
	if err != nil {
		return fatal(err)
	}
	if err := s.write(plain[:cap(plain)], len(plain), int64(i)*t.file.FrameSize); err != nil {
		return fatal(cas.Classify("write", t.file.Path, err))
	}
	if err := r.journal.add(t.file.Digest, i); err != nil {
		return fatal(err)
	}
	r.credit(o.Kind, int64(len(plain)))
	r.mu.Lock()
	t.have[i] = true
	t.missing--
	last := t.missing == 0
	r.mu.Unlock()
	if last {
		return fatal(r.complete(ctx, t, b))
	}
	return nil
}

// complete makes a file whose frames are all here durable and adopts it. A file
// that can only be verified whole is, now.
func (in *install) complete(ctx context.Context, t *target, b *buffers) error {
	if err := t.open(); err != nil {
		return err
	}
	s := t.sink
	in.mu.Lock()
	t.sink = nil
	in.mu.Unlock()
	if err := s.finish(); err != nil {
		// What a failed sync left on the disk is unknown: begin the file again.
		return cas.Classify("make durable", t.file.Path, errors.Join(err, os.Remove(t.part)))
	}
	frames := cas.Frames{Length: t.file.FrameSize, Digests: t.digests}
	if !t.signedFrames() {
		buf, err := b.plain()
		if err != nil {
			return err
		}
		_, right, err := t.check(ctx, t.part, buf)
		if err != nil {
			return err
		}
		if !right {
			return in.wrongWhole(t)
		}
	}
	if slices.Contains(frames.Digests, fleet.Digest{}) {
		frames = cas.Frames{}
	}
	if err := in.o.Store.Adopt(t.part, t.file.Digest, frames); err != nil {
		return err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	t.done = true
	return nil
}

// wrongWhole takes back a file whose frames were all as hinted, or unknown, and
// which as a whole is not what was signed.
func (in *install) wrongWhole(t *target) error {
	if err := os.Remove(t.part); err != nil {
		return cas.Classify("remove", t.file.Path, err)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.progress.Done -= t.file.Size
	t.blame = untrusted(t, -1, "files/"+t.file.Digest.String()+"/")
	if !t.again() {
		return t.blame
	}
	return nil
}

// blame notes that a source delivered a wrong frame.
func (r *round) blame(o Offer, t *target, i int) {
	r.o.Logger.Warn("frame is not what was signed", "path", t.file.Path, "frame", i, "source", o.Name)
	r.mark(o, t, i, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	t.blame = untrusted(t, i, o.Name)
}

func (r *round) mark(o Offer, t *target, i, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wrong == nil {
		r.wrong = map[badKey]int{}
	}
	r.wrong[badKey{o.Name, i, t.doubt}] += n
}

func untrusted(t *target, frame int, source string) error {
	what := fmt.Sprintf("frame %d of %d", frame+1, len(t.have)) // as people count
	if frame < 0 {
		what = "the file as a whole"
	}
	return fault.Newf(fault.Untrusted, "verify", t.file.Path, "%s from %s is not what was signed, and no source has other bytes", what, source).
		WithHint("the object was changed or damaged in the bucket; the member keeps what it has. Remove it there and publish the release again")
}
