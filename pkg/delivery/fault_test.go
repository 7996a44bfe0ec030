package delivery_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

// inBubble runs a test on fake time: hours of outage take no time.
func inBubble(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { test(t, newWorld(t)) })
}

func big() model { return model{"model.bin": noise(64*shard+17, 6), "config.json": []byte("{}")} }

func busy(after time.Duration) error {
	return fault.New(fault.Transient, "read range", "key", errors.Join(errors.New("503 Slow Down"), registry.Busy{After: after}))
}

func TestATruncatedStreamIsAskedForItsRest(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		m := big()
		want := w.publish(m, oms.Shards)
		w.src.body = func(_ context.Context, _ string, _ int64, rc io.ReadCloser) io.ReadCloser {
			return body{io.LimitReader(rc, 3*shard+shard/2), rc} // three frames and a half
		}
		res, err := w.fetcher(nil).Install(t.Context(), want, nil)
		if err != nil {
			t.Fatal(err)
		}
		w.holds(res.Dir, m)
		if extra := res.Progress.Wire - want.Size; extra > want.Size/6+shard {
			t.Errorf("%d bytes more than needed came over the wire: whole frames were read twice", extra)
		}
	})
}

// flip changes a byte of the first n streams at a place.
func flip(n int32, at int64) func(context.Context, string, int64, io.ReadCloser) io.ReadCloser {
	var calls atomic.Int32
	return func(_ context.Context, _ string, _ int64, rc io.ReadCloser) io.ReadCloser {
		if calls.Add(1) > n {
			return rc
		}
		return body{&flipper{r: rc, at: at}, rc}
	}
}

type flipper struct {
	r  io.Reader
	at int64
}

func (f *flipper) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if f.at >= 0 && f.at < int64(n) {
		p[f.at] ^= 1
	}
	f.at -= int64(n)
	return n, err
}

func TestAWrongFrameIsFetchedAgainAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		m := model{"model.bin": noise(64*shard, 6)}
		want := w.publish(m, oms.Shards)
		w.src.body = flip(1, 5)
		res, err := w.fetcher(nil).Install(t.Context(), want, nil)
		if err != nil {
			t.Fatal(err)
		}
		w.holds(res.Dir, m)
		if res.Progress.Wire != want.Size+shard {
			t.Errorf("%d bytes more than needed for one wrong frame of %d", res.Progress.Wire-want.Size, shard)
		}
	})
}

func TestRetryAfterIsObeyed(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		m := big()
		want := w.publish(m, oms.Shards)
		begin := time.Now()
		w.src.open = func(string, int64, int64) error {
			if time.Since(begin) < 20*time.Second {
				return busy(7 * time.Second)
			}
			return nil
		}
		res, err := w.fetcher(nil).Install(t.Context(), want, nil)
		if err != nil {
			t.Fatal(err)
		}
		w.holds(res.Dir, m)
		early := 0
		for _, at := range w.src.times {
			if d := at.Sub(begin); d > 0 && d < 7*time.Second {
				early++
			}
		}
		if early > 0 {
			t.Errorf("%d requests came before the store wanted them", early)
		}
	})
}

// Jitter is full: members that failed together do not come back together.
func TestRetriesAreSpread(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		want := w.publish(model{"a": noise(100, 1)}, oms.Files)
		second := map[time.Duration]bool{}
		for range 20 {
			begin := time.Now()
			w.src.times = nil
			w.src.open = func(string, int64, int64) error {
				if time.Since(begin) == 0 {
					return busy(0)
				}
				return errors.New("enough")
			}
			_, _ = w.fetcher(nil).Install(t.Context(), want, nil)
			for _, at := range w.src.times[1:] {
				second[at.Sub(begin).Round(10*time.Millisecond)] = true
			}
		}
		if len(second) < 8 {
			t.Errorf("20 retries came at only %d different moments", len(second))
		}
	})
}

// A request that hangs gets a rival before it is given up: one bad connection
// costs seconds. When the rival hangs too, both are given up and tried again.
func TestAStalledStreamIsGivenUpAndAskedForAgain(t *testing.T) {
	for name, c := range map[string]struct {
		hang        time.Duration // requests for the model sent until then hang
		least, most time.Duration
	}{
		"rival delivers": {time.Second, 3 * time.Second, 4 * time.Second},
		"rival hangs":    {9 * time.Second, 9 * time.Second, 40 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				m := big()
				want := w.publish(m, oms.Shards)
				model, begin := w.files(want)["model.bin"].Digest.String(), time.Now()
				w.src.body = func(ctx context.Context, key string, _ int64, rc io.ReadCloser) io.ReadCloser {
					if !strings.Contains(key, model) || time.Since(begin) >= c.hang {
						return rc
					}
					return body{io.MultiReader(io.LimitReader(rc, shard+100), hang{ctx}), rc}
				}
				res, err := w.fetcher(func(o *delivery.Options) { o.Stall = 10 * time.Second }).Install(t.Context(), want, nil)
				if err != nil {
					t.Fatal(err)
				}
				w.holds(res.Dir, m)
				if took := time.Since(begin); took < c.least || took > c.most {
					t.Errorf("it took %v with requests that hang for %v", took, c.hang)
				}
			})
		})
	}
}

// hang delivers nothing, ever.
type hang struct{ ctx context.Context }

func (h hang) Read([]byte) (int, error) {
	<-h.ctx.Done()
	return 0, h.ctx.Err()
}

// An outage ends an attempt after its patience, as the network's fault, and
// loses nothing: the next attempt goes on.
func TestAnOutageIsTransientAndLosesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		m := big()
		want := w.publish(m, oms.Shards)
		var calls atomic.Int32
		w.src.open = func(string, int64, int64) error {
			if calls.Add(1) > 4 {
				return fault.Newf(fault.Transient, "read range", "key", "connection refused")
			}
			return nil
		}
		f := w.fetcher(func(o *delivery.Options) { o.Patience = time.Minute })
		begin := time.Now()
		var done int64
		_, err := f.Install(t.Context(), want, func(p delivery.Progress) { done = p.Done })
		if !fault.Is(err, fault.Transient) || fault.Hint(err) == "" {
			t.Fatalf("error is %v", err)
		}
		if took := time.Since(begin); took > 61*time.Second || took < 30*time.Second {
			t.Errorf("it took %v with a patience of a minute", took)
		}
		if w.store.HasRelease(want.Key) || done == 0 {
			t.Fatalf("the release is visible, or nothing (%d) was done", done)
		}
		w.src.open = nil
		res, err := f.Install(t.Context(), want, nil)
		if err != nil {
			t.Fatal(err)
		}
		w.holds(res.Dir, m)
		if got := res.Progress.Resume + res.Progress.From[delivery.Copy]; got != done {
			t.Errorf("%d verified bytes were used again of %d", got, done)
		}
	})
}

func TestATamperedFullObjectFallsBackToRaw(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		for _, method := range []oms.Method{oms.Shards, oms.Files} {
			m := model{"model.bin": weights(9*shard, byte(len(method)))}
			want := w.publish(m, method)
			full := artifact.FullKey(w.files(want)["model.bin"].Digest)
			w.tamper(full, 1000)
			res, err := w.fetcher(nil).Install(t.Context(), want, nil)
			if err != nil {
				t.Fatalf("%s: %v", method, err)
			}
			w.holds(res.Dir, m)
			if res.Progress.From[delivery.Raw] == 0 {
				t.Errorf("%s: came from %v", method, res.Progress.From)
			}
		}
	})
}

// When no source is right there is one clear error, what was serving goes on
// serving, and nothing unverified is visible.
func TestTamperedEverywhereIsUntrusted(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		old := model{"model.bin": weights(9*shard, 7)}
		wantOld := w.publish(old, oms.Shards)
		f := w.fetcher(nil)
		resOld, err := f.Install(t.Context(), wantOld, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, method := range []oms.Method{oms.Shards, oms.Files} {
			want := w.publish(model{"model.bin": weights(9*shard, 8)}, method)
			d := w.files(want)["model.bin"].Digest
			w.tamper(artifact.FullKey(d), 2*shard)
			w.tamper(artifact.RawKey(d), 2*shard+100)
			_, err := f.Install(t.Context(), want, nil)
			if !fault.Is(err, fault.Untrusted) || fault.Hint(err) == "" {
				t.Fatalf("%s: error is %v", method, err)
			}
			for _, part := range []string{"model.bin", "frame", "files/" + d.String()} {
				if method == oms.Shards && !strings.Contains(err.Error(), part) {
					t.Errorf("the error does not name %s: %v", part, err)
				}
			}
			if _, ok := w.store.FileSize(d); ok || w.store.HasRelease(want.Key) {
				t.Errorf("%s: unverified bytes became visible", method)
			}
		}
		w.holds(resOld.Dir, old)
	})
}

// An index is a hint: a lie in it costs time, or is refused; it never decides.
func TestALyingIndexDecidesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		lie := func(key string, change func(*artifact.Index)) {
			b, etag, err := w.reg.Get(t.Context(), key, "")
			if err != nil {
				t.Fatal(err)
			}
			x, err := artifact.ParseIndex(b)
			if err != nil {
				t.Fatal(err)
			}
			change(&x)
			if _, err := w.reg.Swap(t.Context(), key, x.Encode(), etag); err != nil {
				t.Fatal(err)
			}
		}
		const big = artifact.FrameSize + 12345 // two frames in method files
		for i, c := range []struct {
			name   string
			method oms.Method
			raw    func(*artifact.Index)
			kind   fault.Kind // 0: the install succeeds
		}{
			{"another size", oms.Shards, func(x *artifact.Index) { x.Size -= 5; x.Frames[len(x.Frames)-1].Length -= 5 }, 0},
			{"wrong digests", oms.Files, func(x *artifact.Index) { x.Frames[0].Digest[0]++ }, 0},
			{"another file", oms.Files, func(x *artifact.Index) { x.File[0]++ }, 0},
			{"too big", oms.Files, func(x *artifact.Index) {
				x.Frames = append(x.Frames, x.Frames[0])
				x.Frames[1].Length = x.FrameSize
				x.Frames[2].Length = 1
				x.Size = 2*x.FrameSize + 1
			}, fault.Untrusted},
			{"too small", oms.Files, func(x *artifact.Index) { x.Size--; x.Frames[1].Length--; x.FullSize = 0 }, fault.Untrusted},
		} {
			m := model{"model.bin": noise(big, byte(30+i))}
			want := w.publish(m, c.method)
			lie(artifact.IndexKey(artifact.RawKey(w.files(want)["model.bin"].Digest)), c.raw)
			if c.name == "another file" {
				// Without any index the size is not known, and nothing can be begun.
				_, err := w.fetcher(nil).Install(t.Context(), want, nil)
				if !fault.Is(err, fault.Untrusted) && !fault.Is(err, fault.NotFound) {
					t.Errorf("%s: error is %v", c.name, err)
				}
				continue
			}
			res, err := w.fetcher(nil).Install(t.Context(), want, nil)
			switch {
			case c.kind == 0 && err != nil:
				t.Errorf("%s: %v", c.name, err)
			case c.kind == 0:
				w.holds(res.Dir, m)
			case !fault.Is(err, c.kind):
				t.Errorf("%s: error is %v", c.name, err)
			}
		}
	})
}

func TestMissingObjects(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		m := model{"model.bin": weights(9*shard, 9)}
		want := w.publish(m, oms.Shards)
		d := w.files(want)["model.bin"].Digest
		w.remove(artifact.FullKey(d))
		w.remove(artifact.IndexKey(artifact.RawKey(d))) // in shards, the manifest says all that is needed
		res, err := w.fetcher(nil).Install(t.Context(), want, nil)
		if err != nil {
			t.Fatal(err)
		}
		w.holds(res.Dir, m)

		want = w.publish(model{"model.bin": weights(9*shard, 10)}, oms.Shards)
		d = w.files(want)["model.bin"].Digest
		w.remove(artifact.FullKey(d))
		w.remove(artifact.RawKey(d))
		if _, err := w.fetcher(nil).Install(t.Context(), want, nil); !fault.Is(err, fault.NotFound) || !strings.Contains(err.Error(), d.String()) {
			t.Errorf("error is %v", err)
		}
	})
}

func TestCancelKeepsWhatWasVerified(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		m := big()
		want := w.publish(m, oms.Shards)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		f := w.fetcher(nil)
		var done int64
		_, err := f.Install(ctx, want, func(p delivery.Progress) {
			if done = p.Done; done > want.Size/2 {
				cancel()
			}
		})
		if !fault.Is(err, fault.Canceled) {
			t.Fatalf("error is %v", err)
		}
		res, err := f.Install(t.Context(), want, nil)
		if err != nil {
			t.Fatal(err)
		}
		w.holds(res.Dir, m)
		if got := res.Progress.Resume + res.Progress.From[delivery.Copy]; got < done*95/100 {
			t.Errorf("%d of %d verified bytes were used again", got, done)
		}
	})
}

func TestTheRateCapHolds(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		m := big()
		want := w.publish(m, oms.Shards)
		begin := time.Now()
		res, err := w.fetcher(func(o *delivery.Options) { o.Rate = want.Size / 100; o.Stall = time.Second }).Install(t.Context(), want, nil)
		if err != nil {
			t.Fatal(err)
		}
		w.holds(res.Dir, m)
		if took := time.Since(begin); took < 95*time.Second || took > 105*time.Second {
			t.Errorf("it took %v, the cap says 100 s", took)
		}
	})
}

// What a thief of power leaves on the disk may be anything, in a file of any
// length: only what hashes right is used again.
func TestWhatAPowerCutLeftIsOnlyAdvice(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		m := big()
		want := w.publish(m, oms.Shards)
		f := w.fetcher(func(o *delivery.Options) { o.Patience = time.Second })
		var calls atomic.Int32
		w.src.open = func(string, int64, int64) error {
			if calls.Add(1) > 2 {
				return fault.Newf(fault.Transient, "read range", "key", "gone")
			}
			return nil
		}
		var done int64
		if _, err := f.Install(t.Context(), want, func(p delivery.Progress) { done = p.Done }); !fault.Is(err, fault.Transient) {
			t.Fatal(err)
		}
		w.src.open = nil
		part := delivery.PartPath(w.store.StagingDir(want.Key), w.files(want)["model.bin"].Digest)
		b, err := os.ReadFile(part)
		if err != nil {
			t.Fatal(err)
		}
		copy(b[40*shard:], noise(8*shard+5, 99)) // never written, yet there
		if err := os.WriteFile(part, append(b, noise(3*shard, 98)...), 0o644); err != nil {
			t.Fatal(err)
		}
		res, err := f.Install(t.Context(), want, nil)
		if err != nil {
			t.Fatal(err)
		}
		w.holds(res.Dir, m)
		if got := res.Progress.Resume + res.Progress.From[delivery.Copy]; got != done {
			t.Errorf("%d verified bytes were used again of %d", got, done)
		}
	})
}

func TestNewChecksItsOptions(t *testing.T) {
	t.Parallel()
	if _, err := delivery.New(delivery.Options{}); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
	w := newWorld(t)
	if _, err := w.fetcher(nil).Install(t.Context(), delivery.Want{}, nil); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
}
