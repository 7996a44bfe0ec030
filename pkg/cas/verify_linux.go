package cas

import (
	"errors"
	"io"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// raw reads a file past the page cache, or beside it where that is refused.
type raw struct {
	f      *os.File
	direct bool
}

func openRaw(path string) (*raw, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err == nil {
		return &raw{f, true}, nil
	}
	if !errors.Is(err, syscall.EINVAL) {
		return nil, err
	}
	f, err = os.Open(path)
	return &raw{f, false}, err
}

// readAt fills b, which came from aligned; off is where a piece begins.
func (r *raw) readAt(b []byte, off int64) error {
	if r.direct && off%directAlign == 0 {
		n, err := r.f.ReadAt(b[:cap(b)&^(directAlign-1)], off)
		if n >= len(b) {
			return nil
		}
		if !errors.Is(err, syscall.EINVAL) {
			return errors.Join(err, io.ErrUnexpectedEOF)
		}
	}
	if err := r.buffered(); err != nil {
		return err
	}
	if err := readFull(r.f, b, off); err != nil {
		return err
	}
	// It will not be read again soon; what applications have mapped stays.
	_ = unix.Fadvise(int(r.f.Fd()), off, int64(len(b)), unix.FADV_DONTNEED)
	return nil
}

// buffered gives up reading past the page cache.
func (r *raw) buffered() error {
	if !r.direct {
		return nil
	}
	flags, err := unix.FcntlInt(r.f.Fd(), unix.F_GETFL, 0)
	if err == nil {
		_, err = unix.FcntlInt(r.f.Fd(), unix.F_SETFL, flags&^unix.O_DIRECT)
	}
	r.direct = err != nil
	return err
}

func (r *raw) close() { _ = r.f.Close() } // it was only read

// misaligned is how many bytes of b lie before the first aligned address.
func misaligned(b []byte) int {
	over := int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) % directAlign)
	return (directAlign - over) % directAlign
}
