// Package dir is a registry in a folder: for an air gap, where the bucket's
// objects travel on a medium, and for tests. A key is a file's path. Objects
// are made whole and durable; the ETag is the content's SHA-256.
package dir

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

// Store is a registry in a folder. It may be used by many goroutines and many
// processes of one machine at once.
type Store struct {
	dir  string
	root *os.Root

	clock sync.Mutex // guards the following
	last  dated
}

// tempPrefix begins the names of files being written; keys may not use it.
const tempPrefix = ".new-"

// lockName is the file that orders swaps.
const lockName = ".lock"

// Open opens the registry in dir, which must exist.
func Open(dir string) (*Store, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fault.New(fault.NotFound, "open registry", dir, err).
			WithHint("make the folder, or give the folder that the bucket's objects were copied to")
	}
	return &Store{dir: dir, root: root}, nil
}

// Close releases the folder's handle.
func (s *Store) Close() error { return s.root.Close() }

// Get reads an object whole.
func (s *Store) Get(ctx context.Context, key, ifNoneMatch string) ([]byte, string, error) {
	if err := check(ctx, key); err != nil {
		return nil, "", err
	}
	f, fi, err := s.open(key)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	if fi.Size() > registry.MaxObject {
		return nil, "", fault.New(fault.Exhausted, "read object", key, registry.ErrTooLarge)
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return nil, "", cas.Classify("read object", key, err)
	}
	etag := etagOf(b)
	if ifNoneMatch == etag {
		return nil, etag, registry.ErrNotModified
	}
	return b, etag, nil
}

// Range opens a part of an object.
func (s *Store) Range(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := check(ctx, key); err != nil {
		return nil, err
	}
	f, fi, err := s.open(key)
	if err != nil {
		return nil, err
	}
	if offset < 0 || length <= 0 || offset+length > fi.Size() {
		_ = f.Close()
		return nil, fault.Newf(fault.Invalid, "read range", key, "bytes %d to %d of %d", offset, offset+length, fi.Size())
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, offset, length), f}, nil
}

// Create makes an object, or finds the same one there.
func (s *Store) Create(ctx context.Context, key string, body registry.Body) (bool, error) {
	if err := check(ctx, key); err != nil {
		return false, err
	}
	tmp, err := s.stage(key, io.NewSectionReader(body.Reader, 0, body.Size), body.Size, &body.SHA256)
	if err != nil {
		return false, err
	}
	defer func() { _ = s.root.Remove(tmp) }()
	// A hard link fails when the name is taken, in one step: rename would win.
	err = s.root.Link(tmp, key)
	if errors.Is(err, fs.ErrExist) {
		return false, s.same(key, body)
	}
	if err == nil {
		err = cas.SyncDir(filepath.Join(s.dir, path.Dir(key)))
	}
	return err == nil, cas.Classify("create object", key, err)
}

// Swap replaces an object if it is still the one with etag.
func (s *Store) Swap(ctx context.Context, key string, body []byte, etag string) (string, error) {
	if err := check(ctx, key); err != nil {
		return "", err
	}
	lock, err := s.lock()
	if err != nil {
		return "", err
	}
	defer lock.Release()
	now := ""
	switch b, err := s.root.ReadFile(key); {
	case err == nil:
		now = etagOf(b)
	case !errors.Is(err, fs.ErrNotExist):
		return "", cas.Classify("swap object", key, err)
	}
	if now != etag {
		return "", fault.Newf(fault.Conflict, "swap object", key, "it changed meanwhile")
	}
	tmp, err := s.stage(key, bytes.NewReader(body), int64(len(body)), nil)
	if err != nil {
		return "", err
	}
	err = cas.Publish(filepath.Join(s.dir, tmp), filepath.Join(s.dir, key))
	return etagOf(body), cas.Classify("swap object", key, err)
}

// Remove removes an object. Its folders stay.
func (s *Store) Remove(ctx context.Context, key string) error {
	if err := check(ctx, key); err != nil {
		return err
	}
	err := s.root.Remove(key)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err == nil {
		err = cas.SyncDir(filepath.Join(s.dir, path.Dir(key)))
	}
	return cas.Classify("remove object", key, err)
}

// List yields the objects whose key begins with prefix.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[registry.Object, error] {
	return func(yield func(registry.Object, error) bool) {
		var keys []string
		err := fs.WalkDir(s.root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && strings.HasPrefix(p, prefix) && !hidden(p) {
				keys = append(keys, p)
			}
			return errors.Join(err, ctx.Err())
		})
		if err != nil {
			yield(registry.Object{}, cas.Classify("list objects", prefix, err))
			return
		}
		slices.Sort(keys)
		for _, k := range keys {
			o, err := s.stat(k)
			if !yield(o, err) || err != nil {
				return
			}
		}
	}
}

func (s *Store) stat(key string) (registry.Object, error) {
	f, fi, err := s.open(key)
	if err != nil {
		return registry.Object{}, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return registry.Object{}, cas.Classify("list objects", key, err)
	}
	return registry.Object{Key: key, Size: fi.Size(), ETag: hex.EncodeToString(h.Sum(nil)), Modified: fi.ModTime()}, nil
}

func (s *Store) open(key string) (*os.File, fs.FileInfo, error) {
	f, err := s.root.Open(key)
	if err != nil {
		if errors.Is(err, syscall.ENOTDIR) {
			err = fs.ErrNotExist
		}
		return nil, nil, cas.Classify("read object", key, err)
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fs.ErrNotExist // a folder, or something no one put here as an object
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, cas.Classify("read object", key, err)
	}
	return f, fi, nil
}

// stage writes content to a synced temporary file beside key.
func (s *Store) stage(key string, r io.Reader, size int64, want *[sha256.Size]byte) (string, error) {
	folder := path.Dir(key)
	if err := s.root.MkdirAll(folder, 0o755); err != nil {
		return "", cas.Classify("create object", key, err)
	}
	f, err := os.CreateTemp(filepath.Join(s.dir, folder), tempPrefix+"*")
	if err != nil {
		return "", cas.Classify("create object", key, err)
	}
	tmp := path.Join(folder, filepath.Base(f.Name()))
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), r)
	if err == nil && (n != size || want != nil && [sha256.Size]byte(h.Sum(nil)) != *want) {
		err = fault.Newf(fault.Invalid, "create object", key, "its content is not what was announced")
	}
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = s.root.Remove(tmp)
		return "", cas.Classify("create object", key, err)
	}
	return tmp, nil
}

// same is nil when the object at key has the content of body.
func (s *Store) same(key string, body registry.Body) error {
	o, err := s.stat(key)
	if err != nil {
		return err
	}
	if o.Size != body.Size || o.ETag != hex.EncodeToString(body.SHA256[:]) {
		return fault.Newf(fault.Conflict, "create object", key, "it exists with other content")
	}
	return nil
}

// lock orders swaps between processes.
func (s *Store) lock() (*cas.Lock, error) {
	f, err := s.root.OpenFile(lockName, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, cas.Classify("lock registry", s.dir, err)
	}
	return cas.WaitLock(f)
}

func check(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := registry.CheckKey(key); err != nil {
		return err
	}
	if hidden(key) {
		return fault.Newf(fault.Invalid, "use key", fmt.Sprintf("%q", key), "a name the folder uses itself")
	}
	return nil
}

func hidden(key string) bool {
	return key == lockName || strings.HasPrefix(path.Base(key), tempPrefix)
}

func etagOf(b []byte) string { h := sha256.Sum256(b); return hex.EncodeToString(h[:]) }
