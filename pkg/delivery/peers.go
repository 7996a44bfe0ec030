package delivery

import (
	"context"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// FrameRef names one frame of a release, as the members of a site ask each
// other for it. Only its digest is believed: whatever is delivered for it is
// hashed.
type FrameRef struct {
	Path    string       // key of the release's bundle in the bucket
	Release fleet.Digest // key of the release: the digest of that bundle
	File    fleet.Digest // the content that the frame is part of
	Frame   int          // which frame of it
	Digest  fleet.Digest // SHA-256 of the plain frame, as signed
	Length  int          // plain
}

// Peers are the neighbours of a member: others of its site that want, or have,
// the same releases. Its methods are called by many goroutines at once.
type Peers interface {
	// Sharers is how many members of the site share one link to the bucket for
	// this release, this member among them. Below 2 nobody is asked.
	Sharers(release fleet.Digest) int
	// Owns reports whether this member is the one to take the frame out of the
	// bucket. It is asked for each frame of a release: it must be quick.
	Owns(r FrameRef) bool
	// Frame fills dst, which has the frame's length, and says who delivered it.
	// An error means that the frame is to be taken from elsewhere.
	Frame(ctx context.Context, r FrameRef, dst []byte) (from string, err error)
	// Lied tells that what came from a neighbour is not the frame.
	Lied(from string, r FrameRef)
}
