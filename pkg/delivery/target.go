package delivery

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// target is one content to be brought here. The fields below mu of the install
// that owns it are guarded by that mutex.
type target struct {
	file    artifact.File  // its Size is known once it is laid out
	part    string         // path of the partial file
	digests []fleet.Digest // of each frame; zero: not known, only the whole can be verified
	full    *artifact.Index
	// doubt counts the ways of fetching that led to a wrong whole file; see again.
	doubt int

	have    []bool
	missing int
	sink    *sink // open while frames arrive
	blame   error // the last source that delivered wrong bytes
	done    bool
}

// need is what Plan wants to know.
func (t *target) need() Need {
	n := Need{Size: t.file.Size, FrameSize: t.file.FrameSize, Wanted: make([]bool, len(t.have))}
	for i, have := range t.have {
		n.Wanted[i] = !have && !t.done
	}
	return n
}

func (t *target) frameLen(i int) int64 {
	return min(t.file.FrameSize, t.file.Size-int64(i)*t.file.FrameSize)
}

// verified returns bytes that are frame i, or errWrong. A frame of unknown
// digest is let through: then the whole file is verified before it is adopted.
func (t *target) verified(i int, b []byte) ([]byte, error) {
	if !t.digests[i].IsZero() && t.digests[i] != sha256.Sum256(b) {
		return nil, errWrong
	}
	return b, nil
}

// signedFrames reports whether each frame is verified against what was signed;
// if not, the whole file is, before it is adopted.
func (t *target) signedFrames() bool {
	return !t.file.Whole() || (len(t.digests) == 1 && t.digests[0] == t.file.Digest)
}

// layOut learns what the manifest does not say: for a file that was signed
// whole its size, and where the compressed frames lie. Indexes are hints; one
// that is missing or contradicts the manifest is ignored, if it can be.
func (t *target) layOut(ctx context.Context, in *install) error {
	raw, rawErr := in.index(ctx, artifact.RawKey(t.file.Digest), artifact.Raw, t)
	var fullErr error
	if rawErr == nil && raw.FullSize > 0 || rawErr != nil {
		var x artifact.Index
		if x, fullErr = in.index(ctx, artifact.FullKey(t.file.Digest), artifact.Full, t); fullErr == nil {
			t.full = &x
		}
	}
	for _, err := range []error{rawErr, fullErr} {
		if k := fault.KindOf(err); err != nil && (k == fault.Canceled || k == fault.Exhausted || k == fault.Transient) {
			return err
		}
	}
	if t.file.Whole() {
		if err := t.layOutWhole(in, raw, rawErr, fullErr); err != nil {
			return err
		}
	} else {
		t.digests = t.file.Frames
	}
	t.have = make([]bool, len(t.digests))
	t.missing = len(t.have)
	return nil
}

func (t *target) layOutWhole(in *install, raw artifact.Index, rawErr, fullErr error) error {
	hint := raw
	if rawErr != nil {
		if fullErr != nil {
			return rawErr // without a size nothing can be begun
		}
		hint = *t.full
	}
	if hint.Size > in.want.Size {
		return fault.Newf(fault.Untrusted, "read index", artifact.RawKey(t.file.Digest),
			"%q is said to have %d bytes, more than the %d signed for the release", t.file.Path, hint.Size, in.want.Size)
	}
	t.file.Size, t.file.FrameSize = hint.Size, hint.FrameSize
	t.digests = make([]fleet.Digest, len(hint.Frames))
	if len(hint.Frames) == 1 {
		t.digests[0] = t.file.Digest
	} else if rawErr == nil {
		for i, f := range raw.Frames {
			t.digests[i] = f.Digest
		}
	}
	if t.full != nil && (t.full.Size != t.file.Size || t.full.FrameSize != t.file.FrameSize) {
		t.full = nil
	}
	return nil
}

// offers are the sources of the target's frames, but for files here.
func (t *target) offers(i int) []Offer {
	raw := Offer{Kind: Raw, File: i, Name: artifact.RawKey(t.file.Digest), Frames: make([]Span, len(t.have))}
	for f := range raw.Frames {
		raw.Frames[f] = Span{int64(f) * t.file.FrameSize, t.frameLen(f)}
	}
	if t.full == nil {
		return []Offer{raw}
	}
	full := Offer{Kind: Full, File: i, Name: artifact.FullKey(t.file.Digest), Frames: make([]Span, len(t.have))}
	var at int64
	for f, p := range t.full.Frames {
		full.Frames[f] = Span{at, p.Length}
		at += p.Length
	}
	switch t.doubt {
	case 0:
		return []Offer{full, raw}
	case 1:
		return []Offer{raw}
	default:
		return []Offer{full}
	}
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
	clear(t.have)
	t.missing = len(t.have)
	return true
}

// check hashes a file that is here, whole, and reports which frames are right.
// For a file that can only be verified whole that is all frames or none.
func (t *target) check(ctx context.Context, path string, buf []byte) (good []bool, all bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false, cas.Classify("read file", path, err)
	}
	defer f.Close()
	if t.file.Whole() {
		all, err = t.checkWhole(ctx, f, buf)
		return nil, all, err
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, false, cas.Classify("read file", path, err)
	}
	good, all = make([]bool, len(t.file.Frames)), fi.Size() == t.file.Size
	for i := range good {
		if err := ctx.Err(); err != nil {
			return nil, false, err
		}
		b := buf[:t.frameLen(i)]
		if _, err := f.ReadAt(b, int64(i)*t.file.FrameSize); err == nil {
			good[i] = t.file.Frames[i] == sha256.Sum256(b)
		} // a frame that cannot be read is a wrong one
		all = all && good[i]
	}
	return good, all, nil
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
			return false, nil // a file that cannot be read is a wrong one
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

func partPath(staging string, d fleet.Digest) string {
	return filepath.Join(staging, d.String()+".part")
}
