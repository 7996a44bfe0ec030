package share

import (
	"net/http"
	"strconv"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

const (
	// pattern is what is served; the last part is the frame's length.
	pattern = "GET /v1/frames/{release}/{file}/{frame}/{length}"
	// hopHeader is how often a question was passed on. At 0 the one who is asked
	// may pass it on, at 1 not.
	hopHeader = "Modelfleet-Hop"
)

// question is a request for a frame. The asker's word is not taken for any of
// it: it is looked up in what the release's publisher signed.
type question struct {
	release, file fleet.Digest
	frame         int
	length        int
	hop           int // 0 or 1
}

func (q question) path() string {
	return "/v1/frames/" + q.release.String() + "/" + q.file.String() + "/" + strconv.Itoa(q.frame) + "/" + strconv.Itoa(q.length)
}

func questionOf(r *http.Request) (question, error) {
	return parseQuestion(r.PathValue("release"), r.PathValue("file"), r.PathValue("frame"), r.PathValue("length"), r.Header.Get(hopHeader))
}

// parseQuestion takes what path and header of a question say, in one spelling only.
func parseQuestion(release, file, frame, length, hop string) (q question, err error) {
	if q.release, err = fleet.ParseDigest(release); err != nil {
		return q, err
	}
	if q.file, err = fleet.ParseDigest(file); err != nil {
		return q, err
	}
	for _, n := range []struct {
		text     string
		to       *int
		min, max int
	}{
		{frame, &q.frame, 0, 1<<31 - 1}, {length, &q.length, 1, artifact.MaxFrame}, {hop, &q.hop, 0, 1},
	} {
		v, err := strconv.Atoi(n.text)
		if err != nil || v < n.min || v > n.max || strconv.Itoa(v) != n.text {
			return q, fault.Newf(fault.Invalid, "read question", n.text, "want a number from %d to %d", n.min, n.max)
		}
		*n.to = v
	}
	return q, nil
}

// wanted is a frame that may be given, and the release it is of.
type wanted struct {
	delivery.FrameRef
	offset  int64 // of the frame in its file
	whole   bool  // no frame of the file is signed, only the whole
	release delivery.Want
}

// in finds the frame in a release that is to be believed.
func (q question) in(w delivery.Want) (wanted, error) {
	r := wanted{delivery.FrameRef{Path: w.Path, Release: q.release, File: q.file, Frame: q.frame, Length: q.length}, 0, false, w}
	files, err := artifact.FilesOf(w.Manifest)
	if err != nil {
		return r, err
	}
	for _, f := range files {
		switch {
		case f.Digest != q.file:
			continue
		case f.Whole() && q.frame == 0 && q.length <= artifact.FrameSize && int64(q.length) <= w.Size:
			r.Digest, r.whole = f.Digest, true // a file of one frame; its length is not signed, its bytes are
			return r, nil
		case q.frame < len(f.Frames) && int64(q.length) == min(f.FrameSize, f.Size-int64(q.frame)*f.FrameSize):
			r.Digest, r.offset = f.Frames[q.frame], int64(q.frame)*f.FrameSize
			return r, nil
		}
	}
	return r, fault.Newf(fault.NotFound, "find frame", w.Path, "the release has no such frame")
}
