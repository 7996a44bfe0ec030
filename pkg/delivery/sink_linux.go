package delivery

import (
	"errors"
	"math"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// block is the alignment O_DIRECT needs of buffers, offsets and lengths on
// every file system we met.
const block = 4096

// bufferedPiece is the largest buffered write: bigger ones from several
// goroutines hold the inode's lock for long and more than double the time.
const bufferedPiece = 256 << 10

// sink is a file being filled in any order, by one writer per range at a time.
type sink struct {
	f      *os.File
	size   int64
	direct bool // f bypasses the page cache
	checkpoints
}

// openSink opens path, reserves size bytes for it and says whether O_DIRECT is
// used. aligned is whether all writes but the last will be multiples of block.
func openSink(path string, size int64, aligned bool) (*sink, error) {
	s := &sink{size: size}
	var err error
	if aligned {
		s.f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_DIRECT, 0o644)
		s.direct = err == nil
	}
	if !s.direct {
		if s.f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
			return nil, err
		}
	}
	if err := s.reserve(); err != nil {
		_ = s.f.Close()
		return nil, err
	}
	return s, nil
}

// reserve takes the disk space now: a full disk is found before the first byte
// is fetched, and direct writes never extend the file.
func (s *sink) reserve() error {
	n := roundUp(s.size)
	if n == 0 {
		return nil
	}
	err := ignoringEINTR(func() error { return unix.Fallocate(int(s.f.Fd()), 0, 0, n) })
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) {
		return s.f.Truncate(n)
	}
	return err
}

// write puts the first n bytes of buf at off. buf is aligned, its capacity a
// multiple of block; what lies between n and the next block is written too and
// cut off by finish.
func (s *sink) write(buf []byte, n int, off int64) error {
	if s.direct {
		padded := buf[:roundUp(int64(n))]
		clear(padded[n:])
		_, err := s.f.WriteAt(padded, off)
		if !errors.Is(err, syscall.EINVAL) {
			return err
		}
		// Opened, but refused: the file system does not mean it. Another writer
		// may find the same out at the same time; both do the same.
		flags, err := unix.FcntlInt(s.f.Fd(), unix.F_GETFL, 0)
		if err != nil {
			return err
		}
		if _, err := unix.FcntlInt(s.f.Fd(), unix.F_SETFL, flags&^unix.O_DIRECT); err != nil {
			return err
		}
	}
	for at := 0; at < n; at += bufferedPiece {
		end := min(at+bufferedPiece, n)
		if _, err := s.f.WriteAt(buf[at:end], off+int64(at)); err != nil {
			return err
		}
	}
	// Start writing back now, so that the sync at the end finds little to do. It
	// is a hint, and not every file system takes it.
	_ = unix.SyncFileRange(int(s.f.Fd()), off, int64(n), unix.SYNC_FILE_RANGE_WRITE)
	return nil
}

// finish cuts the file to its size, makes its content durable and closes it.
func (s *sink) finish() error {
	err := s.f.Truncate(s.size)
	if err == nil {
		err = s.f.Sync()
	}
	err = s.orFailed(err)
	if cerr := s.f.Close(); err == nil {
		err = cerr
	}
	return err
}

// allocated is the disk space a file has already.
func allocated(path string) int64 {
	fi, err := os.Stat(path)
	if err != nil {
		return 0
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return 0
}

// nextData is where f has data from off on; off itself where the file system
// cannot tell. Reserved space that was not written to is none.
func nextData(f *os.File, off int64) int64 {
	at, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return math.MaxInt64
	case err != nil:
		return off
	}
	return at
}

// freeSpace is what an ordinary user may still write below dir.
func freeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	err := ignoringEINTR(func() error { return unix.Statfs(dir, &st) })
	return int64(st.Bavail) * st.Bsize, err
}

// newBuffer returns an aligned buffer outside of the garbage-collected heap.
func newBuffer(size int64) ([]byte, error) {
	return unix.Mmap(-1, 0, int(roundUp(size)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
}

func freeBuffer(b []byte) error {
	if b == nil {
		return nil
	}
	return unix.Munmap(b)
}

func roundUp(n int64) int64 { return (n + block - 1) &^ (block - 1) }

func ignoringEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
