package delivery_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
)

// shard is the shard size of most tests: a whole number of blocks, and small.
const shard = 64 << 10

// world is a bucket in a folder, and a member's store.
type world struct {
	t      *testing.T
	bucket string
	folder string // what was published last
	reg    *dir.Store
	store  *cas.Store
	src    *faulty
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, bucket: t.TempDir()}
	var err error
	if w.reg, err = dir.Open(w.bucket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.reg.Close() })
	w.store = openStore(t, t.TempDir())
	w.src = &faulty{src: w.reg}
	return w
}

func openStore(t *testing.T, dir string) *cas.Store {
	t.Helper()
	s, err := cas.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// weights are bytes that entropy coding shortens, as weights do: each byte has
// a skewed distribution. The same seed gives the same bytes.
func weights(n int, seed byte) []byte {
	rng := rand.New(rand.NewChaCha8([32]byte{seed}))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.NormFloat64() * 12)
	}
	return b
}

// noise are bytes that nothing shortens.
func noise(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

type model map[string][]byte

// publish hashes and uploads a model and returns what a member wants.
func (w *world) publish(m model, method oms.Method) delivery.Want {
	w.t.Helper()
	folder := w.t.TempDir()
	w.folder = folder
	var size int64
	for p, b := range m {
		path := filepath.Join(folder, p)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			w.t.Fatal(err)
		}
		size += int64(len(b))
	}
	o := oms.Options{Method: method}
	if method == oms.Shards {
		o.ShardSize = shard
	}
	man, err := oms.Hash(w.t.Context(), folder, o)
	if err != nil {
		w.t.Fatal(err)
	}
	files, err := artifact.FilesOf(man)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := artifact.Upload(w.t.Context(), w.reg, folder, files, artifact.UploadOptions{TempDir: w.t.TempDir()}); err != nil {
		w.t.Fatal(err)
	}
	return delivery.Want{Key: key(man), Manifest: man, Size: size}
}

func (w *world) fetcher(change func(*delivery.Options)) *delivery.Fetcher {
	w.t.Helper()
	o := delivery.Options{Store: w.store, Source: w.src}
	if change != nil {
		change(&o)
	}
	f, err := delivery.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

// holds checks the whole folder: exactly these files with exactly these bytes.
func (w *world) holds(folder string, m model) {
	w.t.Helper()
	seen := 0
	err := filepath.WalkDir(folder, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(folder, p)
		if err != nil {
			return err
		}
		got, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		want, listed := m[filepath.ToSlash(rel)]
		if !listed || !bytes.Equal(got, want) {
			w.t.Errorf("%s: %d bytes that are not the published ones", rel, len(got))
		}
		seen++
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if seen != len(m) {
		w.t.Errorf("%d files, want %d", seen, len(m))
	}
}

// object is the path of an object's file in the bucket.
func (w *world) object(key string) string { return filepath.Join(w.bucket, filepath.FromSlash(key)) }

func (w *world) files(want delivery.Want) map[string]artifact.File {
	w.t.Helper()
	files, err := artifact.FilesOf(want.Manifest)
	if err != nil {
		w.t.Fatal(err)
	}
	m := map[string]artifact.File{}
	for _, f := range files {
		m[f.Path] = f
	}
	return m
}

// tamper changes one byte of an object.
func (w *world) tamper(key string, at int) {
	w.t.Helper()
	b, err := os.ReadFile(w.object(key))
	if err != nil {
		w.t.Fatal(err)
	}
	b[at] ^= 0x40
	if err := os.WriteFile(w.object(key), b, 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// get and put are an object's bytes.
func (w *world) get(key string) []byte {
	w.t.Helper()
	b, err := os.ReadFile(w.object(key))
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

func (w *world) put(key string, b []byte) {
	w.t.Helper()
	if err := os.WriteFile(w.object(key), b, 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// index is an object's index.
func (w *world) index(key string) artifact.Index {
	w.t.Helper()
	x, err := artifact.ParseIndex(w.get(artifact.IndexKey(key)))
	if err != nil {
		w.t.Fatal(err)
	}
	return x
}

// baseOf is the digest that a delta's key names.
func (w *world) baseOf(key string) fleet.Digest {
	w.t.Helper()
	d, err := fleet.ParseDigest(path.Base(key))
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

func (w *world) remove(key string) {
	w.t.Helper()
	if err := os.Remove(w.object(key)); err != nil {
		w.t.Fatal(err)
	}
}

// faulty is a source that fails as told. It counts what is asked of it.
type faulty struct {
	src delivery.Source
	// get and open may fail a call; body may replace a range's stream.
	get  func(key string) error
	open func(key string, off, n int64) error
	body func(ctx context.Context, key string, off int64, rc io.ReadCloser) io.ReadCloser

	mu     sync.Mutex
	ranges int
	bytes  int64
	times  []time.Time
}

func (f *faulty) Get(ctx context.Context, key, etag string) ([]byte, string, error) {
	if f.get != nil {
		if err := f.get(key); err != nil {
			return nil, "", err
		}
	}
	return f.src.Get(ctx, key, etag)
}

func (f *faulty) Range(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	f.mu.Lock()
	f.ranges++
	f.bytes += n
	f.times = append(f.times, time.Now())
	f.mu.Unlock()
	if f.open != nil {
		if err := f.open(key, off, n); err != nil {
			return nil, err
		}
	}
	rc, err := f.src.Range(ctx, key, off, n)
	if err == nil && f.body != nil {
		rc = f.body(ctx, key, off, rc)
	}
	return rc, err
}

type body struct {
	io.Reader
	io.Closer
}
