package oms

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

// Options says how to hash a folder.
type Options struct {
	Method    Method   // default Files
	ShardSize int64    // default DefaultShardSize; only for Shards
	Name      string   // default: base name of the folder
	Ignore    []string // relative paths left out with everything under them, besides the default ones
	Workers   int      // default: the number of CPUs, at most 8
	// Progress, when set, is told how many more bytes were hashed. It is
	// called from several goroutines.
	Progress func(bytes int64)
}

// bufSize is what each worker reads at once; with it, memory is bounded by
// workers whatever the model's size.
const bufSize = 256 << 10

// defaultIgnores are left out at the top level, as the specification says.
var defaultIgnores = [...]string{".git", ".gitattributes", ".github", ".gitignore", ".gitmodules"}

// Hash hashes the folder at dir into a manifest ready to be signed. It refuses
// symbolic links, special files, names that are not UTF-8, a folder with
// nothing in it and, with Shards, empty files. It hashes in parallel in bounded
// memory and stops when ctx ends.
func Hash(ctx context.Context, dir string, o Options) (Manifest, error) {
	m, err := o.manifest(dir)
	if err != nil {
		return Manifest{}, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Manifest{}, &Error{Class: Reading, Path: dir, Err: err}
	}
	defer root.Close()
	files, err := walk(root, m.ignores())
	if err != nil {
		return Manifest{}, err
	}
	if len(files) == 0 {
		return Manifest{}, errf(Empty, dir, "no files in it")
	}
	for _, f := range files {
		switch {
		case m.Method == Files:
			m.Resources = append(m.Resources, Resource{Path: f.path, End: f.size})
		case f.size == 0:
			return Manifest{}, errf(Empty, f.path, "an empty file cannot be signed in shards: use method files, or remove it")
		default:
			for at := int64(0); at < f.size; at += m.ShardSize {
				m.Resources = append(m.Resources, Resource{Path: f.path, Start: at, End: min(at+m.ShardSize, f.size)})
			}
		}
		if len(m.Resources) > MaxResources {
			return Manifest{}, errf(TooLarge, dir, "more than %d resources: use larger shards", MaxResources)
		}
	}
	err = hashAll(ctx, root, m.Resources, o, func(r *Resource, sum Digest) error {
		r.Digest = sum
		return nil
	})
	if err != nil {
		return Manifest{}, err
	}
	if m.Method == Files {
		for i := range m.Resources {
			m.Resources[i].End = -1
		}
	}
	m.seal()
	return m, nil
}

// manifest checks the options and begins a manifest with them.
func (o Options) manifest(dir string) (Manifest, error) {
	m := Manifest{Name: o.Name, Method: o.Method, ShardSize: o.ShardSize}
	if m.Name == "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return m, &Error{Class: Reading, Path: dir, Err: err}
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
		if m.ShardSize < 0 {
			return m, errf(Unsupported, "", "shard size %d is not positive", m.ShardSize)
		}
	default:
		return m, errf(Unsupported, "", "method %q", m.Method)
	}
	for _, p := range o.Ignore {
		p = filepath.ToSlash(filepath.Clean(p))
		if !cleanPath(p) {
			return m, errf(Irregular, p, "not a path inside the folder")
		}
		m.Ignored = append(m.Ignored, p)
	}
	slices.Sort(m.Ignored)
	return m, nil
}

// ignores is everything to leave out: what the signer recorded and the defaults.
func (m *Manifest) ignores() []string { return append(slices.Clone(m.Ignored), defaultIgnores[:]...) }

// entry is one regular file of a folder.
type entry struct {
	path string
	size int64
}

// walk lists the regular files below root; anything that is neither a regular
// file nor a folder is an error.
func walk(root *os.Root, ignores []string) ([]entry, error) {
	var files []entry
	err := fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return &Error{Class: Reading, Path: path, Err: err}
		case path == ".":
			return nil
		case slices.Contains(ignores, path):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case !utf8.ValidString(path):
			return errf(Irregular, path, "its name is not UTF-8")
		case d.IsDir():
			return nil
		case d.Type()&fs.ModeSymlink != 0:
			return errf(Irregular, path, "a symbolic link: put the file itself there")
		case !d.Type().IsRegular():
			return errf(Irregular, path, "neither a file nor a folder")
		case !cleanPath(path):
			return errf(Irregular, path, "not a name a model may have")
		}
		info, err := d.Info()
		if err != nil {
			return &Error{Class: Reading, Path: path, Err: err}
		}
		files = append(files, entry{path, info.Size()})
		return nil
	})
	return files, err
}

// cleanPath reports whether p is a relative slash path without empty, "." or
// ".." elements, backslashes or NULs.
func cleanPath(p string) bool {
	return fs.ValidPath(p) && p != "." && !strings.ContainsAny(p, "\\\x00")
}

// hashAll hashes the resources in parallel and hands each digest to done, which
// is called from several goroutines but once for each resource.
func hashAll(ctx context.Context, root *os.Root, rs []Resource, o Options, done func(*Resource, Digest) error) error {
	workers := o.Workers
	if workers <= 0 {
		workers = min(runtime.NumCPU(), 8)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan *Resource)
	var wg sync.WaitGroup
	for range min(workers, len(rs)) {
		wg.Go(func() {
			buf := make([]byte, bufSize)
			for r := range work {
				sum, err := hashRange(ctx, root, *r, buf, o.Progress)
				if err == nil {
					err = done(r, sum)
				}
				if err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range rs {
		if ctx.Err() != nil {
			break
		}
		work <- &rs[i]
	}
	close(work)
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		if _, ok := errors.AsType[*Error](err); ok {
			return err
		}
		return &Error{Class: Reading, Err: err}
	}
	return nil
}

// hashRange hashes one resource. The length read must be exactly the range, and
// a file read to its end must end there: a file that changes while it is hashed
// is found.
func hashRange(ctx context.Context, root *os.Root, r Resource, buf []byte, progress func(int64)) (Digest, error) {
	f, err := root.Open(filepath.FromSlash(r.Path))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return Digest{}, errf(Missing, r.Path, "it is not there")
		}
		return Digest{}, &Error{Class: Reading, Path: r.Path, Err: err}
	}
	defer f.Close()
	h := sha256.New()
	at := r.Start
	for {
		if err := ctx.Err(); err != nil {
			return Digest{}, &Error{Class: Reading, Path: r.Path, Err: context.Cause(ctx)}
		}
		want := buf
		if r.End >= 0 {
			want = buf[:min(int64(len(buf)), r.End-at)]
		}
		if len(want) == 0 {
			return Digest(h.Sum(nil)), nil
		}
		n, err := f.ReadAt(want, at)
		h.Write(want[:n])
		at += int64(n)
		if progress != nil && n > 0 {
			progress(int64(n))
		}
		switch {
		case err == io.EOF && (r.End < 0 || at == r.End):
			return Digest(h.Sum(nil)), nil
		case err == io.EOF:
			return Digest{}, errf(Changed, r.Path, "it ends at byte %d of %d", at, r.End)
		case err != nil:
			return Digest{}, &Error{Class: Reading, Path: r.Path, Err: err}
		}
	}
}
