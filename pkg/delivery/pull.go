package delivery

import (
	"context"
	"crypto/sha256"
	"os"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Read fills dst with a verified frame that is here, in the store or in an
// install under way. One that is not here, or is damaged, is NotFound.
func (f *Fetcher) Read(r FrameRef, dst []byte) error {
	for _, path := range []string{f.o.Store.FilePath(r.File), partPath(f.o.Store.StagingDir(r.Release), r.File)} {
		for _, length := range f.frameLengths(r) {
			if readFrame(path, int64(r.Frame)*length, dst) == nil && r.Digest == sha256.Sum256(dst) {
				return nil
			}
		}
	}
	return fault.Newf(fault.NotFound, "read frame", r.File.Short(), "frame %d is not here", r.Frame)
}

// frameLengths are the distances that frames of the file may lie apart.
func (f *Fetcher) frameLengths(r FrameRef) []int64 {
	if fr, ok := f.o.Store.Frames(r.File); ok {
		return []int64{fr.Length}
	}
	return []int64{artifact.FrameSize}
}

func readFrame(path string, off int64, dst []byte) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.ReadAt(dst, off)
	return err
}

// Frame fills dst with one frame of a release, by the best plan of this member:
// from here, or out of the bucket. It is for neighbours that ask for a frame
// which this member owns; it asks no neighbour itself. However many ask at once
// for one frame, it is fetched once; when the release is being installed here,
// the frame becomes part of the install.
func (f *Fetcher) Frame(ctx context.Context, w Want, r FrameRef, dst []byte) error {
	if err := f.Read(r, dst); err == nil {
		return nil
	}
	files, err := artifact.FilesOf(w.Manifest)
	if err != nil {
		return err
	}
	for _, file := range files {
		if file.Digest != r.File || r.Frame < 0 || r.Frame >= len(file.Frames) || file.Frames[r.Frame] != r.Digest {
			continue
		}
		off := int64(r.Frame) * file.FrameSize
		if int64(len(dst)) != min(file.FrameSize, file.Size-off) {
			break
		}
		body, err := f.o.Source.Range(ctx, artifact.RawKey(file.Digest), off, int64(len(dst)))
		if err != nil {
			return err
		}
		defer body.Close()
		if err := readFull(body, dst, artifact.RawKey(file.Digest)); err != nil {
			return err
		}
		if fleet.DigestOf(dst) != r.Digest {
			return fault.New(fault.Untrusted, "read frame", artifact.RawKey(file.Digest), errWrong)
		}
		return nil
	}
	return fault.Newf(fault.Invalid, "read frame", r.File.Short(), "the release has no such frame")
}

