package delivery

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// target is one content of which frames are wanted. The fields below mu of the
// job that owns it are guarded by that mutex.
type target struct {
	file    artifact.File  // its Size is known once it is laid out
	part    string         // path of the partial file
	digests []fleet.Digest // of each frame; zero: not known, only the whole can be verified
	full    *artifact.Index
	deltas  []difference
	// doubt counts the ways of fetching that led to a wrong whole file; see again.
	doubt int

	frames  []frameState
	missing int           // frames that are not here
	busy    int           // of these, the ones that somebody is fetching
	came    map[int]int64 // plain bytes here of frames on their way
	claims  []*claim      // the last one of each frame; nil: none
	sink    *sink         // open while frames arrive
	blame   error         // the last source that delivered wrong bytes
	done    bool
}

// difference is a delta to a file that is here.
type difference struct {
	key   string
	index *artifact.Index
	base  string // path of the file
}

// claim is an errand as those see it who wait for its frames.
type claim struct{ moved time.Time } // when it began, or a byte of any of them came

// frameState is what becomes of one frame.
type frameState uint8

const (
	wanted  frameState = iota
	claimed            // somebody is fetching it
	asked              // a neighbour is asked for it
	here               // verified and written
)

// clear wants every frame.
func (t *target) clear() {
	t.frames, t.claims = make([]frameState, len(t.digests)), make([]*claim, len(t.digests))
	t.missing, t.busy = len(t.frames), 0
}

// need is what Plan wants to know.
func (t *target) need() Need {
	n := Need{Size: t.file.Size, FrameSize: t.file.FrameSize, Wanted: make([]bool, len(t.frames))}
	for i, s := range t.frames {
		n.Wanted[i] = s == wanted && !t.done
	}
	return n
}

func (t *target) frameLen(i int) int64 {
	return min(t.file.FrameSize, t.file.Size-int64(i)*t.file.FrameSize)
}

// verify is errWrong for bytes that are not frame i. A frame of unknown digest
// is let through: then the whole file is verified before it is adopted.
func (t *target) verify(i int, b []byte) error {
	if !t.digests[i].IsZero() && t.digests[i] != sha256.Sum256(b) {
		return errWrong
	}
	return nil
}

// signedFrames reports whether each frame is verified against what was signed;
// if not, the whole file is, before it is adopted.
func (t *target) signedFrames() bool {
	return !t.file.Whole() || (len(t.digests) == 1 && t.digests[0] == t.file.Digest)
}

// again prepares another way of fetching a file that can only be verified whole
// and was wrong, or could not be had: first without the frame digests an index
// hinted at, from the plain object alone, then from the compressed one alone.
// false: there is no other way.
func (t *target) again() bool {
	if t.signedFrames() || t.doubt == 2 || (t.doubt == 1 && t.full == nil) {
		return false
	}
	t.doubt++
	clear(t.digests)
	t.clear()
	return true
}

// check hashes a file that is here, whole, and reports whether all of it is right.
func (t *target) check(ctx context.Context, path string, buf []byte) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, cas.Classify("read file", path, err)
	}
	defer f.Close()
	if t.file.Whole() {
		return t.checkWhole(ctx, f, buf)
	}
	fi, err := f.Stat()
	if err != nil {
		return false, cas.Classify("read file", path, err)
	}
	if fi.Size() != t.file.Size {
		return false, nil
	}
	for i, d := range t.file.Frames {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		b := buf[:t.frameLen(i)]
		if _, err := f.ReadAt(b, int64(i)*t.file.FrameSize); err != nil || d != sha256.Sum256(b) {
			return false, nil // what cannot be read is wrong
		}
	}
	return true, nil
}

func (t *target) checkWhole(ctx context.Context, f io.Reader, buf []byte) (bool, error) {
	h := sha256.New()
	for {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return fleet.Digest(h.Sum(nil)) == t.file.Digest, nil
		}
		if err != nil {
			return false, nil // what cannot be read is wrong
		}
	}
}

// open opens the partial file and reserves its space.
func (t *target) open() error {
	if t.sink != nil {
		return nil
	}
	s, err := openSink(t.part, t.file.Size, t.file.FrameSize%block == 0)
	if err != nil {
		return cas.Classify("reserve space for", t.file.Path, err)
	}
	t.sink = s
	return nil
}

// PartPath is where an install keeps the frames of a file that it has so far, in
// the staging folder of its release: each at its place, none of them believed
// by who looks from outside.
func PartPath(staging string, file fleet.Digest) string {
	return filepath.Join(staging, file.String()+".part")
}
