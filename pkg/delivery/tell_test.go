package delivery_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

type closer func() error

func (c closer) Close() error { return c() }

// Under a cap few ranges are read at once, so that frames come one after the
// other, and what is on its way is told before the first is whole.
func TestUnderACapFewRangesAreRead(t *testing.T) {
	for name, c := range map[string]struct {
		rate int64
		most int32
	}{"little": {100 << 10, 1}, "some": {2 << 20, 2}, "much": {64 << 20, 5}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				m := model{"model.bin": noise(12<<20, 6)}
				want := w.publish(m, oms.Files) // frames are as long as a real model's
				var open, peak atomic.Int32
				w.src.body = func(_ context.Context, _ string, _ int64, rc io.ReadCloser) io.ReadCloser {
					if n := open.Add(1); n > peak.Load() {
						peak.Store(n)
					}
					return body{rc, closer(func() error { open.Add(-1); return rc.Close() })}
				}
				began := time.Now()
				var first time.Duration
				var last delivery.Progress
				res, err := w.fetcher(func(o *delivery.Options) { o.Rate = c.rate }).Install(t.Context(), want, func(p delivery.Progress) {
					if last = p; p.Arriving > 0 && first == 0 {
						first = time.Since(began)
					}
					if p.Done+p.Arriving > p.Total {
						t.Errorf("%d here and %d on their way of %d", p.Done, p.Arriving, p.Total)
					}
				})
				if err != nil {
					t.Fatal(err)
				}
				w.holds(res.Dir, m)
				if peak.Load() > c.most {
					t.Errorf("%d ranges were read at once, want at most %d", peak.Load(), c.most)
				}
				if took := time.Since(began); took > 2*time.Second && (first == 0 || first > time.Second) {
					t.Errorf("what arrives was told after %s of %s", first, took)
				}
				if last.Arriving != 0 || res.Progress.Arriving != 0 {
					t.Errorf("%d and %d bytes are on their way of what is here", last.Arriving, res.Progress.Arriving)
				}
			})
		})
	}
}

// A bucket that fails, or takes requests and delivers nothing, is told while it
// is tried again, to the log once, and not any more when frames come.
func TestABucketInTroubleIsTold(t *testing.T) {
	for name, c := range map[string]struct {
		hangs bool
		after time.Duration
		says  string
	}{"fails": {false, 5 * time.Second, "503"}, "hangs": {true, 20 * time.Second, "nothing for too long"}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				m := big()
				want := w.publish(m, oms.Shards)
				began := time.Now()
				ill := func() bool { return time.Since(began) < 45*time.Second }
				w.src.open = func(string, int64, int64) error {
					if !c.hangs && ill() {
						return busy(time.Second)
					}
					return nil
				}
				w.src.body = func(ctx context.Context, _ string, _ int64, rc io.ReadCloser) io.ReadCloser {
					if c.hangs && ill() {
						return body{hang{ctx}, rc}
					}
					return rc
				}
				var log bytes.Buffer
				first := time.Duration(-1)
				var last delivery.Progress
				res, err := w.fetcher(func(o *delivery.Options) {
					o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
				}).Install(t.Context(), want, func(p delivery.Progress) {
					if last = p; p.Trouble == nil || first >= 0 {
						return
					}
					first = time.Since(began)
					if !strings.Contains(p.Trouble.Error(), c.says) || !fault.Is(p.Trouble, fault.Transient) || p.Waits != "" {
						t.Errorf("told %v, waits for %q", p.Trouble, p.Waits)
					}
				})
				if err != nil {
					t.Fatal(err)
				}
				w.holds(res.Dir, m)
				if first < 0 || first > c.after {
					t.Errorf("told after %s", first)
				}
				if last.Trouble != nil || res.Progress.Trouble != nil {
					t.Errorf("all is here, and it says %v, %v", last.Trouble, res.Progress.Trouble)
				}
				if n := strings.Count(log.String(), "bucket answers slowly or not"); n != 1 {
					t.Errorf("logged %d times:\n%s", n, log.String())
				}
			})
		})
	}
}

// One try that fails is no trouble.
func TestOneFailedTryIsNoTrouble(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		want := w.publish(big(), oms.Shards)
		var calls atomic.Int32
		w.src.open = func(string, int64, int64) error {
			if calls.Add(1) == 1 {
				return busy(0)
			}
			return nil
		}
		_, err := w.fetcher(nil).Install(t.Context(), want, func(p delivery.Progress) {
			if p.Trouble != nil {
				t.Errorf("told %v", p.Trouble)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
