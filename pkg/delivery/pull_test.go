package delivery_test

import (
	"context"
	"crypto/sha256"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// A neighbour waits for a range of the install only while the range delivers: one
// that stalls is left to the install, and the frame is fetched beside it. The
// bytes of a slow one are not fetched twice.
func TestANeighbourWaitsForALivelyInstallOnly(t *testing.T) {
	const stall = 10 * time.Second
	for name, c := range map[string]struct {
		read        func(ctx context.Context, rc io.Reader) io.Reader // of the install's ranges
		least, most time.Duration
		twice       bool
	}{
		"stalls":  {func(ctx context.Context, rc io.Reader) io.Reader { return hang{ctx} }, stall, stall + time.Second, true},
		"is slow": {func(ctx context.Context, rc io.Reader) io.Reader { return slow{ctx, rc, 2 * time.Second} }, 2 * stall, time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				want := w.publish(model{"model.bin": noise(64*shard, 6)}, oms.Shards)
				alone := 0
				w.src.body = func(ctx context.Context, _ string, off int64, rc io.ReadCloser) io.ReadCloser {
					if off == shard { // for the neighbour; the install's range begins before
						alone++
						return rc
					}
					return body{c.read(ctx, rc), rc}
				}
				f := w.fetcher(func(o *delivery.Options) { o.Streams, o.Stall = 1, stall })
				ctx, cancel := context.WithCancel(t.Context())
				installed := make(chan struct{})
				go func() {
					defer close(installed)
					_, _ = f.Install(ctx, want, nil)
				}()
				synctest.Wait()
				began, r := time.Now(), ref(w, want, "model.bin", 1)
				dst := make([]byte, r.Length)
				if err := f.Frame(t.Context(), want, r, dst); err != nil || sha256.Sum256(dst) != r.Digest {
					t.Error(err)
				}
				if took := time.Since(began); took < c.least || took > c.most {
					t.Errorf("the neighbour waited %v", took)
				}
				if (alone > 0) != c.twice {
					t.Errorf("the frame was fetched alone %d times", alone)
				}
				cancel()
				<-installed
			})
		})
	}
}

// slow delivers a little at a time.
type slow struct {
	ctx   context.Context
	r     io.Reader
	every time.Duration
}

func (s slow) Read(p []byte) (int, error) {
	select {
	case <-time.After(s.every):
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	}
	return s.r.Read(p[:min(len(p), shard/8)])
}
