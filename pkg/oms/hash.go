package oms

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// Options says how to hash a model.
type Options struct {
	Method    Method   // default Files
	ShardSize int64    // default DefaultShardSize; only for Shards
	Name      string   // default: base name of the folder or file
	Ignore    []string // relative paths left out with everything under them, besides the default ones
	Hash      HashType // default SHA-256
	Workers   int      // default: the number of CPUs, at most 8
	// Progress, when set, is told how many more bytes were hashed. It is
	// called from several goroutines.
	Progress func(bytes int64)
}

// bufSize is what each worker reads at once; with it, memory is bounded by
// workers whatever the model's size.
const bufSize = 128 << 10

// Hash hashes the model at path, a folder or one file, into a manifest ready to
// be signed. It refuses symbolic links, special files, names that are not
// UTF-8, a folder with nothing in it and, with Shards, empty files. It hashes in
// parallel in bounded memory and stops when ctx ends.
func Hash(ctx context.Context, path string, o Options) (Manifest, error) {
	m, err := o.manifest(path)
	if err != nil {
		return Manifest{}, err
	}
	f, err := openFolder(path)
	if err != nil {
		return Manifest{}, err
	}
	defer f.close()
	files, err := f.files(ctx, m.Ignored, false)
	if err != nil {
		return Manifest{}, err
	}
	if len(files) == 0 {
		return Manifest{}, errf(Empty, path, "no files in it")
	}
	var sizes []int64
	for _, e := range files {
		if m.Method == Files {
			m.Resources, sizes = append(m.Resources, Resource{Path: e.path, End: -1}), append(sizes, e.size)
			continue
		}
		if e.size == 0 {
			return Manifest{}, errf(Empty, e.path, "an empty file cannot be signed in shards: use method files, or remove it")
		}
		if (e.size-1)/m.ShardSize >= int64(MaxResources-len(sizes)) {
			return Manifest{}, errf(TooLarge, path, "more than %d resources: use larger shards", MaxResources)
		}
		for at := int64(0); at < e.size; at += m.ShardSize {
			r := Resource{Path: e.path, Start: at, End: min(at+m.ShardSize, e.size)}
			m.Resources, sizes = append(m.Resources, r), append(sizes, e.size)
		}
	}
	if len(sizes) > MaxResources {
		return Manifest{}, errf(TooLarge, path, "more than %d resources", MaxResources)
	}
	jobs := make([]job, len(sizes))
	for i := range jobs {
		jobs[i] = job{&m.Resources[i], sizes[i]}
	}
	h := hasher{folder: f, hash: m.hashType(), workers: o.Workers, progress: o.Progress}
	if err := h.run(ctx, jobs, func(r *Resource, sum []byte) error { r.set(h.hash, sum); return nil }); err != nil {
		return Manifest{}, err
	}
	m.seal()
	return m, nil
}

// manifest checks the options and begins a manifest with them.
func (o Options) manifest(path string) (Manifest, error) {
	m := Manifest{Name: o.Name, Method: o.Method, ShardSize: o.ShardSize, Hash: o.Hash}
	if m.Name == "" {
		abs, err := filepath.Abs(path)
		if err != nil {
			return m, &Error{Class: Reading, Path: path, Err: err}
		}
		m.Name = filepath.Base(abs)
	}
	switch m.Method {
	case "", Files:
		if m.ShardSize != 0 {
			return m, errf(Unsupported, "", "a shard size has no meaning with method files")
		}
		m.Method = Files
	case Shards:
		if m.ShardSize == 0 {
			m.ShardSize = DefaultShardSize
		}
		if m.ShardSize < 0 || m.ShardSize > 1<<53 {
			return m, errf(Unsupported, "", "shard size %d is not between 1 and 2^53", m.ShardSize)
		}
	default:
		return m, errf(Unsupported, "", "method %q", m.Method)
	}
	m.Ignored = append(m.Ignored, defaultIgnores[:]...)
	for _, p := range o.Ignore {
		p = filepath.ToSlash(filepath.Clean(p))
		if !cleanIgnore(p) {
			return m, errf(Irregular, p, "not a path inside the folder, or one with a glob character")
		}
		m.Ignored = append(m.Ignored, p)
	}
	slices.Sort(m.Ignored)
	m.Ignored = slices.Compact(m.Ignored)
	return m, nil
}

// hasher hashes resources of a folder in parallel.
type hasher struct {
	folder   *folder
	hash     HashType
	workers  int
	progress func(int64)
}

// job is a resource to hash, of a file of the given size.
type job struct {
	*Resource
	size int64
}

// run hashes the resources and hands each digest to done, which is called from
// several goroutines but once for each resource. Large files come first: the
// last worker to end must not have begun with the largest. The shards of a file
// keep their order, which is the disk's.
func (h *hasher) run(ctx context.Context, jobs []job, done func(*Resource, []byte) error) error {
	slices.SortStableFunc(jobs, func(a, b job) int { return cmp.Compare(b.size, a.size) })
	workers := h.workers
	if workers <= 0 {
		workers = min(runtime.GOMAXPROCS(0), 8)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(workers, len(jobs)) {
		wg.Go(func() {
			w := worker{hasher: h, buf: make([]byte, bufSize)}
			for i := next.Add(1) - 1; i < int64(len(jobs)) && ctx.Err() == nil; i = next.Add(1) - 1 {
				sum, err := w.digest(ctx, jobs[i])
				if err == nil {
					err = done(jobs[i].Resource, sum)
				}
				if err != nil {
					cancel(err)
				}
			}
			if err := w.close(); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		if _, ok := errors.AsType[*Error](err); ok {
			return err
		}
		return &Error{Class: Reading, Err: err}
	}
	return nil
}

// worker hashes one resource after the other. It keeps a file open for the next
// shard of it.
type worker struct {
	*hasher
	buf    []byte
	file   *os.File
	before fs.FileInfo
	last   job // of file
}

// digest hashes one resource.
func (w *worker) digest(ctx context.Context, j job) ([]byte, error) {
	if w.file == nil || w.last.Path != j.Path {
		if err := w.open(j); err != nil {
			return nil, err
		}
	}
	sum, end := w.hash.New(), j.End
	if end < 0 {
		end = j.size
	}
	for at := j.Start; at < end; {
		if ctx.Err() != nil {
			return nil, &Error{Class: Reading, Path: j.Path, Err: context.Cause(ctx)}
		}
		n, err := w.file.ReadAt(w.buf[:min(int64(len(w.buf)), end-at)], at)
		sum.Write(w.buf[:n])
		at += int64(n)
		if w.progress != nil && n > 0 {
			w.progress(int64(n))
		}
		switch {
		case err == io.EOF && at < end:
			return nil, errf(Changed, j.Path, "it ends at byte %d of %d", at, end)
		case err != nil && err != io.EOF:
			return nil, &Error{Class: Reading, Path: j.Path, Err: err}
		}
	}
	return sum.Sum(nil), nil
}

func (w *worker) open(j job) (err error) {
	if err := w.close(); err != nil {
		return err
	}
	w.last = j
	w.file, w.before, err = w.folder.open(j.Path)
	return err
}

// close ends with a file. One that is not as long as it was when the folder was
// listed, or changed since it was opened, is refused: whoever signs must not
// sign half of one version and half of another.
func (w *worker) close() error {
	if w.file == nil {
		return nil
	}
	after, err := w.file.Stat()
	w.file.Close()
	w.file = nil
	switch {
	case err != nil:
		return &Error{Class: Reading, Path: w.last.Path, Err: err}
	case after.Size() != w.last.size || !after.ModTime().Equal(w.before.ModTime()):
		return errf(Changed, w.last.Path, "it changed while it was read")
	}
	return nil
}
