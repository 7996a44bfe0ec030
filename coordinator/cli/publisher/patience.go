package publisher

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

// patient is a store that waits for the network to come back: what failed in
// passing is tried again until the patience has worn out. What is made by it never
// changes, so a second try does no harm.
type patient struct {
	registry.Store
	patience time.Duration
}

// Get reads a small object.
func (p patient) Get(ctx context.Context, key, ifNoneMatch string) (body []byte, etag string, err error) {
	err = p.persist(ctx, func() error { body, etag, err = p.Store.Get(ctx, key, ifNoneMatch); return err })
	return body, etag, err
}

// Range opens a part of an object.
func (p patient) Range(ctx context.Context, key string, offset, length int64) (body io.ReadCloser, err error) {
	err = p.persist(ctx, func() error { body, err = p.Store.Range(ctx, key, offset, length); return err })
	return body, err
}

// Create makes an object; of a large one the parts that were sent stay.
func (p patient) Create(ctx context.Context, key string, b registry.Body) (made bool, err error) {
	err = p.persist(ctx, func() error { made, err = p.Store.Create(ctx, key, b); return err })
	return made, err
}

// persist tries until it works, fails for good, or has failed for longer than the
// patience. A try that took longer than that got on meanwhile.
func (p patient) persist(ctx context.Context, try func() error) error {
	var since time.Time // when it began to fail
	for n := 0; ; n++ {
		began := time.Now()
		err := try()
		if !fault.Is(err, fault.Transient) {
			return err
		}
		if since.IsZero() || time.Since(began) > p.patience {
			since = time.Now()
		}
		wait := rand.N(min(10*time.Second, 500*time.Millisecond<<min(n, 5)))
		if after, ok := registry.RetryAfter(err); ok {
			wait += after
		}
		if time.Since(since)+wait > p.patience {
			if f, ok := errors.AsType[*fault.Error](err); ok && p.patience > 0 {
				return f.WithHint("the network or the bucket is in trouble; what was sent stays there, and the same command goes on from it")
			}
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}
