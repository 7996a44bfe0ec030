package artifact

import (
	"io"
	"sync"
)

// fileMeter tells an upload's progress of one file in its plain bytes: a quarter
// when they are packed, the rest as its objects are sent.
type fileMeter struct {
	u     *uploader
	file  File
	sends int64 // bytes of its objects

	mu         sync.Mutex
	done, sent int64
	told       int64
}

// packed says that n more plain bytes are packed.
func (m *fileMeter) packed(n int64) { m.add(n, 0) }

// whole says that the file is in the bucket, however that came to be.
func (m *fileMeter) whole() {
	m.mu.Lock()
	rest := m.file.Size - m.told
	m.told = m.file.Size
	m.mu.Unlock()
	m.u.settle(m.file.Path, rest)
}

func (m *fileMeter) add(done, sent int64) {
	m.mu.Lock()
	m.done, m.sent = m.done+done, m.sent+sent
	now := m.done / 4
	if m.sends > 0 {
		now += int64(0.75 * float64(m.file.Size) * float64(m.sent) / float64(m.sends))
	}
	more := now - m.told
	m.told = now
	m.mu.Unlock()
	m.u.settle(m.file.Path, more)
}

// sendPiece is how finely sending is told.
const sendPiece = 1 << 20

// reading counts what a store reads of an object: each piece once, as a body is
// read again to be hashed or sent again.
func (m *fileMeter) reading(r io.ReaderAt, size int64) io.ReaderAt {
	return &metered{ReaderAt: r, m: m, size: size, seen: make([]bool, (size+sendPiece-1)/sendPiece)}
}

type metered struct {
	io.ReaderAt
	m    *fileMeter
	size int64

	mu   sync.Mutex
	seen []bool
}

// ReadAt reads and counts.
func (r *metered) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.ReaderAt.ReadAt(p, off)
	var more int64
	r.mu.Lock()
	for at := (off + sendPiece - 1) / sendPiece * sendPiece; at < off+int64(n); at += sendPiece {
		if i := at / sendPiece; !r.seen[i] {
			r.seen[i] = true
			more += min(sendPiece, r.size-at)
		}
	}
	r.mu.Unlock()
	if more > 0 {
		r.m.add(0, more)
	}
	return n, err
}
