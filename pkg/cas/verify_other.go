//go:build !linux

package cas

import "os"

// raw reads a file; only Linux lets it be read past the page cache.
type raw struct{ f *os.File }

func openRaw(path string) (*raw, error) {
	f, err := os.Open(path)
	return &raw{f}, err
}

func (r *raw) readAt(b []byte, off int64) error { return readFull(r.f, b, off) }

func (r *raw) close() { _ = r.f.Close() } // it was only read

func misaligned([]byte) int { return 0 }
