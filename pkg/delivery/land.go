package delivery

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// syncEvery is how often what came is made durable while more comes.
const syncEvery = time.Second

// place writes a verified frame where it belongs. When it was the last one, the
// file is completed.
func (in *install) place(ctx context.Context, k Kind, t *target, i int, plain []byte, b *bench) error {
	in.mu.Lock()
	err := in.reserve(t)
	s := t.sink
	in.mu.Unlock()
	if err != nil {
		return fatal(err)
	}
	if err := s.write(plain[:cap(plain)], len(plain), int64(i)*t.file.FrameSize); err != nil {
		return fatal(cas.Classify("write", t.file.Path, err))
	}
	s.fresh.Store(true)
	if in.landed(k, t, i) {
		return fatal(in.complete(ctx, t, b))
	}
	return nil
}

// reserve opens a target's partial file. Disk that was borrowed since room was made
// is asked back. The caller holds mu.
func (in *install) reserve(t *target) error {
	err := t.open()
	if in.o.Spare != nil && fault.Is(err, fault.Exhausted) {
		in.o.Spare()
		err = t.open()
	}
	return err
}

// complete makes a file whose frames are all here durable and adopts it. A file
// that can only be verified whole is, now.
func (in *install) complete(ctx context.Context, t *target, b *bench) error {
	in.mu.Lock()
	err := in.reserve(t)
	s := t.sink
	t.sink = nil
	in.mu.Unlock()
	if err != nil {
		return err
	}
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
		right, err := t.check(ctx, t.part, buf)
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
	in.tell()
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
	in.renew(t)
	return nil
}

// checkpointing makes what was written durable once a second, until it is stopped.
func (in *install) checkpointing() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for sleep(ctx, syncEvery) == nil {
			for _, t := range in.targets {
				in.mu.Lock()
				s := t.sink
				in.mu.Unlock()
				if s != nil {
					s.checkpoint(s.f)
				}
			}
		}
	}()
	return func() { cancel(); <-done }
}
