package delivery

import (
	"errors"

	"github.com/modelfleet/modelfleet/pkg/cas"
)

// buffers are one worker's, aligned, made when they are first needed: a frame
// and its packed form, or one frame being written and the next being read.
type buffers struct {
	size int64
	a, b []byte
}

func (b *buffers) plain() ([]byte, error)  { return b.get(&b.a) }
func (b *buffers) packed() ([]byte, error) { return b.get(&b.b) }

// swap makes the other buffer the next plain one.
func (b *buffers) swap() { b.a, b.b = b.b, b.a }

func (b *buffers) get(p *[]byte) ([]byte, error) {
	if *p == nil {
		buf, err := newBuffer(b.size)
		if err != nil {
			return nil, cas.Classify("take memory", "", err)
		}
		*p = buf
	}
	return *p, nil
}

func (b *buffers) free() error {
	err := errors.Join(freeBuffer(b.a), freeBuffer(b.b))
	b.a, b.b = nil, nil
	return err
}
