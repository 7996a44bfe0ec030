package medium

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

// Sink takes objects, one after the other.
type Sink interface {
	// Put writes an object of size bytes by what write writes; when write fails,
	// nothing of the object is left.
	Put(key string, size int64, write func(io.Writer) error) error
}

// Folder is a medium that is a folder.
type Folder struct{ dir string }

// OpenFolder makes the folder if it is not there.
func OpenFolder(dir string) (*Folder, error) { return &Folder{dir}, cas.MkdirAll(dir) }

// Put writes an object durably. One of that size that is named by its content is
// left as it is: whoever reads it verifies it.
func (f *Folder) Put(key string, size int64, write func(io.Writer) error) error {
	if err := registry.CheckKey(key); err != nil {
		return err
	}
	path := filepath.Join(f.dir, filepath.FromSlash(key))
	if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Size() == size && filepath.Base(path) == "raw" {
		return nil
	}
	if err := cas.MkdirAll(filepath.Dir(path)); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return cas.Classify("write medium", path, err)
	}
	err = write(tmp)
	if err == nil {
		err = cas.Classify("write medium", path, errors.Join(tmp.Chmod(0o644), tmp.Sync()))
	}
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = cas.Publish(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// read is a small object of the folder, if it is there.
func (f *Folder) read(key string) ([]byte, bool) {
	b, err := os.ReadFile(filepath.Join(f.dir, filepath.FromSlash(key)))
	return b, err == nil
}

// Archive is a medium that is one tar file. It gets its name when it is closed.
type Archive struct {
	path string
	file *os.File
	tar  *tar.Writer
}

// CreateArchive begins a tar file.
func CreateArchive(path string) (*Archive, error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return nil, cas.Classify("write medium", path, err)
	}
	return &Archive{path: path, file: f, tar: tar.NewWriter(f)}, nil
}

// Put appends an object.
func (a *Archive) Put(key string, size int64, write func(io.Writer) error) error {
	err := a.tar.WriteHeader(&tar.Header{Name: key, Size: size, Mode: 0o644, Typeflag: tar.TypeReg, Format: tar.FormatPAX, ModTime: time.Unix(0, 0)})
	if err != nil {
		return cas.Classify("write medium", a.path, err)
	}
	return write(a.tar)
}

// Close ends the file and gives it its name; after cause, which is handed back, it
// removes it.
func (a *Archive) Close(cause error) error {
	err := cause
	if err == nil {
		err = cas.Classify("write medium", a.path, errors.Join(a.tar.Close(), a.file.Chmod(0o644), a.file.Sync()))
	}
	err = errors.Join(err, a.file.Close())
	if err == nil {
		err = cas.Publish(a.file.Name(), a.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(a.file.Name()))
	}
	return nil
}

// Reader reads objects out of a tar file in place.
type Reader struct {
	file *os.File
	at   map[string]section
}

type section struct{ from, size int64 }

// OpenArchive reads where in a tar file which object lies.
func OpenArchive(path string) (*Reader, error) {
	const op = "read medium"
	f, err := os.Open(path)
	if err != nil {
		return nil, cas.Classify(op, path, err)
	}
	r := &Reader{file: f, at: map[string]section{}}
	t := tar.NewReader(f)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return r, nil
		}
		if err == nil && h.Typeflag != tar.TypeReg {
			err = fmt.Errorf("%s is no plain file", h.Name)
		}
		if err == nil {
			err = registry.CheckKey(h.Name)
		}
		if err != nil {
			err = fault.New(fault.Invalid, op, path, err).WithHint("it is not what `modelfleet pack export` wrote, or it is damaged: export it again")
			return nil, errors.Join(err, f.Close())
		}
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, errors.Join(cas.Classify(op, path, err), f.Close())
		}
		r.at[h.Name] = section{at, h.Size}
	}
}

// Close closes the file.
func (r *Reader) Close() error { return r.file.Close() }

// Get reads an object whole. Objects of an archive have no ETag.
func (r *Reader) Get(ctx context.Context, key, _ string) ([]byte, string, error) {
	s, ok := r.at[key]
	switch {
	case ctx.Err() != nil:
		return nil, "", fault.New(fault.Canceled, "read medium", key, ctx.Err())
	case !ok:
		return nil, "", fault.Newf(fault.NotFound, "read medium", key, "it is not in %s", r.file.Name())
	case s.size > registry.MaxObject:
		return nil, "", fault.Newf(fault.Exhausted, "read medium", key, "%d bytes is more than an object read whole may have", s.size)
	}
	b := make([]byte, s.size)
	_, err := r.file.ReadAt(b, s.from)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", cas.Classify("read medium", key, err)
	}
	return b, "", nil
}

// Range opens a part of an object.
func (r *Reader) Range(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	s, ok := r.at[key]
	switch {
	case ctx.Err() != nil:
		return nil, fault.New(fault.Canceled, "read medium", key, ctx.Err())
	case !ok:
		return nil, fault.Newf(fault.NotFound, "read medium", key, "it is not in %s", r.file.Name())
	case offset < 0 || length <= 0 || offset+length > s.size:
		return nil, fault.Newf(fault.Invalid, "read medium", key, "bytes %d to %d of %d", offset, offset+length, s.size)
	}
	return io.NopCloser(io.NewSectionReader(r.file, s.from+offset, length)), nil
}

var _ registry.Reader = (*Reader)(nil)
