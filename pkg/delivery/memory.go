package delivery

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// workshop is what all transfers of a fetcher share: memory up to a limit and
// decoders. Both are given back when the last transfer ends.
type workshop struct {
	limit    int64
	decoders int                 // at once
	sem      *semaphore.Weighted // in bytes

	mu     sync.Mutex
	users  int
	unpack *artifact.Unpacker
	idle   [][]byte // buffers that nobody uses
}

func newWorkshop(limit int64, decoders int) *workshop {
	return &workshop{limit: limit, decoders: decoders, sem: semaphore.NewWeighted(limit)}
}

// enter begins a use of the workshop; leave ends it.
func (w *workshop) enter() (*artifact.Unpacker, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unpack == nil {
		var err error
		if w.unpack, err = artifact.NewUnpacker(w.decoders); err != nil {
			return nil, err
		}
	}
	w.users++
	return w.unpack, nil
}

func (w *workshop) leave() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.users--; w.users > 0 {
		return nil
	}
	w.unpack.Close()
	w.unpack = nil
	var errs []error
	for _, b := range w.idle {
		errs = append(errs, freeBuffer(b))
	}
	w.idle = nil
	return errors.Join(errs...)
}

// take waits until there is memory for so many frames at once and returns a
// bench to work at.
func (w *workshop) take(ctx context.Context, frame int64, frames int) (*bench, error) {
	size := roundUp(frame)
	weight := min(size*int64(frames), w.limit)
	if err := w.sem.Acquire(ctx, weight); err != nil {
		return nil, err
	}
	return &bench{w: w, size: size, weight: weight}, nil
}

// fits refuses frames of which not even two fit into the memory.
func (w *workshop) fits(name string, frame int64) error {
	if 2*roundUp(frame) <= w.limit {
		return nil
	}
	return fault.Newf(fault.Exhausted, "install", name, "frames of %d MiB do not fit into %d MiB of memory", frame>>20, w.limit>>20).
		WithHint("give the member more memory, or sign the release with smaller shards")
}

func (w *workshop) buffer(size int64) ([]byte, error) {
	w.mu.Lock()
	for i, b := range w.idle {
		if int64(len(b)) == size {
			w.idle[i] = w.idle[len(w.idle)-1]
			w.idle = w.idle[:len(w.idle)-1]
			w.mu.Unlock()
			return b, nil
		}
	}
	w.mu.Unlock()
	b, err := newBuffer(size)
	return b, cas.Classify("take memory", "", err)
}

// bench is the memory of one transfer: aligned buffers of a frame each, made
// when they are first needed.
type bench struct {
	w            *workshop
	size, weight int64
	bufs         [3][]byte
}

func (b *bench) plain() ([]byte, error)  { return b.get(0) } // the frame being made
func (b *bench) packed() ([]byte, error) { return b.get(1) } // its packed form, or the frame before
func (b *bench) base() ([]byte, error)   { return b.get(2) } // what it is a difference to

// swap makes the other buffer the next plain one.
func (b *bench) swap() { b.bufs[0], b.bufs[1] = b.bufs[1], b.bufs[0] }

func (b *bench) get(i int) (_ []byte, err error) {
	if b.bufs[i] == nil {
		b.bufs[i], err = b.w.buffer(b.size)
	}
	return b.bufs[i], err
}

// giveBack ends the use of the memory.
func (b *bench) giveBack() {
	b.w.mu.Lock()
	for _, buf := range b.bufs {
		if buf != nil {
			b.w.idle = append(b.w.idle, buf)
		}
	}
	b.w.mu.Unlock()
	b.w.sem.Release(b.weight)
}
