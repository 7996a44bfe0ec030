package delivery_test

import (
	"bytes"
	"context"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// tensors are n bytes of bfloat16 weights.
func tensors(n int, seed byte) []byte {
	rng := rand.New(rand.NewChaCha8([32]byte{seed}))
	b := make([]byte, 0, n)
	for len(b) < n {
		v := math.Float32bits(float32(rng.NormFloat64() * 0.02))
		b = append(b, byte(v>>16), byte(v>>24))
	}
	return b[:n]
}

// tuned are weights after a little more training, behind a header that grew:
// in a third of the frames many moved by one step.
func tuned(old []byte, seed byte) []byte {
	rng := rand.New(rand.NewChaCha8([32]byte{seed, 1}))
	b := append(noise(512, seed), old...)[:len(old)]
	for i := 0; i+1 < len(b); i += 2 {
		if i/shard%3 == 1 && rng.IntN(4) == 0 {
			b[i] ^= 1
		}
	}
	return b
}

// delta publishes the difference of a file between two releases.
func (w *world) delta(from, to delivery.Want, was, is model, path string) string {
	w.t.Helper()
	file, base := w.files(to)[path], w.files(from)[path]
	file.Size, base.Size = int64(len(is[path])), int64(len(was[path]))
	s, err := artifact.UploadDelta(w.t.Context(), w.reg, artifact.DeltaJob{
		File: file, Base: base, New: bytes.NewReader(is[path]), Old: bytes.NewReader(was[path]),
		Regions: []artifact.Region{{New: 512, Length: file.Size - 512}},
	}, artifact.DeltaOptions{TempDir: w.t.TempDir()})
	if err != nil || !s.Kept {
		w.t.Fatalf("no delta: %+v, %v", s, err)
	}
	return artifact.DeltaKey(file.Digest, base.Digest)
}

// updated is a world whose member runs a release of which a tuned one was
// published, with the delta between them.
func updated(t *testing.T, w *world, method oms.Method) (was, is model, want delivery.Want, key string) {
	t.Helper()
	was = model{"model.bin": tensors(24*shard, byte(len(method))), "config.json": []byte("{}")}
	is = model{"model.bin": tuned(was["model.bin"], 2), "config.json": []byte("{}")}
	from := w.publish(was, method)
	if _, err := w.fetcher(nil).Install(t.Context(), from, nil); err != nil {
		t.Fatal(err)
	}
	want = w.publish(is, method)
	return was, is, want, w.delta(from, want, was, is, "model.bin")
}

func TestAnUpdateTakesTheDifference(t *testing.T) {
	t.Parallel()
	for _, method := range []oms.Method{oms.Shards, oms.Files} {
		w := newWorld(t)
		_, is, want, _ := updated(t, w, method)
		res, err := w.fetcher(func(o *delivery.Options) { o.LowMemory = true }).Install(t.Context(), want, nil)
		if err != nil {
			t.Fatal(err)
		}
		w.holds(res.Dir, is)
		if p := res.Progress; p.From[delivery.Delta] != int64(len(is["model.bin"])) || p.Wire > want.Size/3 {
			t.Errorf("%s: came from %v with %d of %d bytes over the wire", method, p.From, p.Wire, want.Size)
		}
	}
}

// Most files have no delta: that costs one cheap question for each base, once.
func TestADeltaIsAskedForOnceAndTheRunningReleaseFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var releases []delivery.Want
	for i := range 4 {
		want := w.publish(model{"model.bin": tensors(8*shard, byte(i))}, oms.Shards)
		if _, err := w.fetcher(nil).Install(t.Context(), want, nil); err != nil {
			t.Fatal(err)
		}
		releases = append(releases, want)
	}
	want := w.publish(model{"model.bin": tensors(8*shard, 9), "new.bin": noise(shard, 9)}, oms.Shards)
	want.Bases = []fleet.Digest{releases[2].Key, {1}, want.Key}
	var asked []string
	w.src.get = func(key string) error {
		if strings.Contains(key, "/delta/") {
			w.src.mu.Lock()
			defer w.src.mu.Unlock()
			asked = append(asked, key)
		}
		return nil
	}
	if _, err := w.fetcher(nil).Install(t.Context(), want, nil); err != nil {
		t.Fatal(err)
	}
	file, base := w.files(want)["model.bin"].Digest, w.files(releases[2])["model.bin"].Digest
	if len(asked) != 2 || asked[0] != artifact.IndexKey(artifact.DeltaKey(file, base)) {
		t.Errorf("asked for %d deltas: %v", len(asked), asked)
	}
}

// A base that is not the one named, a damaged base, a hostile delta and one of
// another file cost some frames each, never the install and never its content.
func TestALyingDeltaCostsFrames(t *testing.T) {
	t.Parallel()
	for name, lie := range map[string]func(w *world, key string, want delivery.Want){
		"a frame is changed": func(w *world, key string, _ delivery.Want) { w.tamper(key, 1000) },
		"all is noise": func(w *world, key string, _ delivery.Want) {
			x := w.index(key)
			w.put(key, noise(int(x.PackedSize()), 1))
		},
		"it is gone":         func(w *world, key string, _ delivery.Want) { w.remove(key) },
		"it is cut short":    func(w *world, key string, _ delivery.Want) { w.put(key, w.get(key)[:5000]) },
		"its index is noise": func(w *world, key string, _ delivery.Want) { w.put(artifact.IndexKey(key), noise(3000, 2)) },
		"its index is another": func(w *world, key string, want delivery.Want) {
			w.put(artifact.IndexKey(key), w.get(artifact.IndexKey(artifact.FullKey(w.files(want)["model.bin"].Digest))))
		},
		"frames are swapped": func(w *world, key string, _ delivery.Want) {
			x := w.index(key)
			x.Frames[0], x.Frames[1] = x.Frames[1], x.Frames[0]
			w.put(artifact.IndexKey(key), x.Encode())
		},
		"another base is named": func(w *world, key string, _ delivery.Want) {
			x := w.index(key)
			x.Base[0]++
			w.put(artifact.IndexKey(key), x.Encode())
		},
		"regions are moved": func(w *world, key string, _ delivery.Want) {
			x := w.index(key)
			x.Regions = []artifact.Region{{New: 0, Length: x.Size - 2*shard, Base: 2 * shard}}
			for i := range x.Frames {
				if len(x.BaseSpans(i)) == 0 {
					x.Frames[i].Codec = artifact.Tensor
				}
			}
			w.put(artifact.IndexKey(key), x.Encode())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			_, is, want, key := updated(t, w, oms.Shards)
			lie(w, key, want)
			res, err := w.fetcher(nil).Install(t.Context(), want, nil)
			if err != nil {
				t.Fatal(err)
			}
			w.holds(res.Dir, is)
			size := int64(len(is["model.bin"]))
			if full := w.index(artifact.FullKey(w.files(want)["model.bin"].Digest)).PackedSize(); res.Progress.Wire > full+size/2 {
				t.Errorf("%d bytes over the wire; the full object has %d", res.Progress.Wire, full)
			}
		})
	}
}

// A base that was damaged on the disk after it was checked is no base.
func TestADamagedBaseIsNoticed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	was, is, want, key := updated(t, w, oms.Shards)
	path := w.store.FilePath(w.baseOf(key))
	corrupt(t, path, func(b []byte) []byte { b[2*shard] ^= 1; b[5*shard] ^= 1; return b })
	res, err := w.fetcher(nil).Install(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.holds(res.Dir, is)
	if got := res.Progress.From[delivery.Delta]; got != int64(len(was["model.bin"]))-2*shard {
		t.Errorf("%d bytes came from the delta, all but two frames should have", got)
	}
}

// A delta that hangs or breaks off is tried again and, when it refuses, left.
func TestADeltaThatBreaksOffGoesOn(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		_, is, want, _ := updated(t, w, oms.Shards)
		w.src.body = func(_ context.Context, key string, _ int64, rc io.ReadCloser) io.ReadCloser {
			if strings.Contains(key, "/delta/") {
				return body{io.LimitReader(rc, 3*shard/2), rc}
			}
			return rc
		}
		res, err := w.fetcher(nil).Install(t.Context(), want, nil)
		if err != nil {
			t.Fatal(err)
		}
		w.holds(res.Dir, is)
		if res.Progress.From[delivery.Delta] == 0 {
			t.Errorf("came from %v", res.Progress.From)
		}
	})
}

// corrupt changes a stored file, as a bad disk does.
func corrupt(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(b), 0o644); err != nil {
		t.Fatal(err)
	}
}
