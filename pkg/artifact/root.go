package artifact

import "github.com/modelfleet/modelfleet/pkg/fleet"

// FrameRoot is the Digest of a file signed in shards: what names a content of
// this size of which the frames have these digests. See [FilesOf].
func FrameRoot(size, frameSize int64, frames []fleet.Digest) fleet.Digest {
	return frameRoot(File{Size: size, FrameSize: frameSize, Frames: frames})
}
