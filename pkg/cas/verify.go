package cas

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// verifyPiece is how much of a file signed whole is read at once.
const verifyPiece = 1 << 20

// Verify reads a file and reports whether it is still what its name says: what a
// scrub asks of each file, one after the other. It reads from the disk, not from
// the page cache, where the file system lets it, and leaves the cache to the
// applications. pace, when not nil, is called with the length of each piece
// before that is read; it may wait, and its error ends the call.
//
// A file that is not whole, or of which that cannot be said here, because its
// frames are not known, is no error: installing its release again compares it
// with the manifest, and mends it frame by frame. An error means that the file
// could not be looked at; NotFound, that it is not here.
func (s *Store) Verify(ctx context.Context, d fleet.Digest, pace func(n int) error) (whole bool, err error) {
	size, ok := s.FileSize(d)
	if !ok {
		return false, notHere("verify file", d)
	}
	r, err := openRaw(s.FilePath(d))
	if err != nil {
		return false, Classify("verify file", d.String(), err)
	}
	defer r.close()
	fr, ok := s.Frames(d)
	piece, framed := int64(verifyPiece), false
	if ok && artifact.FrameRoot(size, fr.Length, fr.Digests) == d {
		piece, framed = fr.Length, true
		if int64(len(fr.Digests)) != (size+piece-1)/piece {
			return false, nil
		}
	}
	sum := sha256.New()
	buf := aligned(min(piece, size))
	for off := int64(0); off < size; off += piece {
		b := buf[:min(piece, size-off)]
		if pace != nil {
			if err := pace(len(b)); err != nil {
				return false, err
			}
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if err := r.readAt(b, off); err != nil {
			return false, nil // a piece that cannot be read is a wrong one
		}
		if framed {
			if fr.Digests[off/piece] != sha256.Sum256(b) {
				return false, nil
			}
			continue
		}
		sum.Write(b)
	}
	return framed || fleet.Digest(sum.Sum(nil)) == d, nil
}

// directAlign is the alignment that reading past the page cache needs.
const directAlign = 4096

// aligned is a buffer for n bytes that begins at, and whose capacity is, a
// multiple of directAlign.
func aligned(n int64) []byte {
	n = (n + directAlign - 1) &^ (directAlign - 1)
	b := make([]byte, n+directAlign)
	skip := int64(misaligned(b))
	return b[skip : skip+n : skip+n]
}

// readFull fills b from off.
func readFull(f io.ReaderAt, b []byte, off int64) error {
	n, err := f.ReadAt(b, off)
	if n == len(b) || errors.Is(err, io.EOF) && n > 0 {
		return nil
	}
	return err
}
