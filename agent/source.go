package agent

import (
	"context"
	"io"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
)

// medium is a folder that releases are read from: a bucket's copy that travels on
// a stick, perhaps. It is opened at each use, since it may not be plugged in when
// the agent starts, and may be another one the next time.
type medium string

func (m medium) open() (*dir.Store, error) {
	s, err := dir.Open(string(m))
	if err != nil {
		return nil, fault.New(fault.Transient, "open source", string(m), err).WithHint("plug the medium in, or mount it there")
	}
	return s, nil
}

// Get reads an object whole.
func (m medium) Get(ctx context.Context, key, ifNoneMatch string) (body []byte, etag string, err error) {
	s, err := m.open()
	if err != nil {
		return nil, "", err
	}
	defer s.Close()
	return s.Get(ctx, key, ifNoneMatch)
}

// Range opens a part of an object; it outlives the folder's handle.
func (m medium) Range(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	s, err := m.open()
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Range(ctx, key, offset, length)
}
