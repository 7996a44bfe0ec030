//go:build !linux

package delivery

import (
	"math"
	"os"
)

const block = 4096

// sink is a file being filled in any order. Elsewhere than on Linux it is a
// plain file: enough for development.
type sink struct {
	f    *os.File
	size int64
	checkpoints
}

func openSink(path string, size int64, _ bool) (*sink, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		_ = f.Close()
		return nil, err
	}
	return &sink{f: f, size: size}, nil
}

func (s *sink) write(buf []byte, n int, off int64) error {
	_, err := s.f.WriteAt(buf[:n], off)
	return err
}

func (s *sink) finish() error {
	err := s.orFailed(s.f.Sync())
	if cerr := s.f.Close(); err == nil {
		err = cerr
	}
	return err
}

func allocated(path string) int64 {
	fi, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return fi.Size()
}

// nextData cannot tell here.
func nextData(_ *os.File, off int64) int64 { return off }

// freeSpace is not asked for here: a full disk is found by writing.
func freeSpace(string) (int64, error) { return math.MaxInt64, nil }

func newBuffer(size int64) ([]byte, error) { return make([]byte, roundUp(size)), nil }

func freeBuffer([]byte) error { return nil }

func roundUp(n int64) int64 { return (n + block - 1) &^ (block - 1) }
