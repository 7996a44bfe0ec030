package artifact

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// FrameSize is the length of a frame where nothing else was signed.
const FrameSize = 4 << 20

// MaxFrame bounds a frame: a member needs a buffer of that size.
const MaxFrame = 64 << 20

// File is one file of a release.
type File struct {
	Path   string
	Size   int64        // -1: not signed (method files), an index tells it
	Digest fleet.Digest // names the content; see [FilesOf]
	// Frames are the signed digests of the file's frames, each FrameSize long but
	// the last. They are empty when the file is signed whole (method files): then
	// Digest is the SHA-256 of all of it and nothing less can be verified.
	Frames    []fleet.Digest
	FrameSize int64
}

// Whole reports whether only the whole file can be verified.
func (f File) Whole() bool { return len(f.Frames) == 0 }

// FilesOf lists the files of a manifest, sorted by path.
//
// With method files a file's Digest is the SHA-256 of its content. With method
// shards it is the SHA-256 of "modelfleet/file/v1" and a zero byte, the file's
// size and the shard size (u64, little-endian), and the shards' digests in
// order: computed without reading a byte, and equal for equal content.
func FilesOf(m oms.Manifest) ([]File, error) {
	var files []File
	for _, of := range m.Files() {
		f := File{Path: of.Path, Size: of.Size}
		switch m.Method {
		case oms.Files:
			f.Size, f.Digest = -1, fleet.Digest(of.Ranges[0].Digest)
		case oms.Shards:
			if m.ShardSize <= 0 || m.ShardSize > MaxFrame {
				return nil, fault.Newf(fault.Invalid, "read manifest", m.Name, "shards of %d bytes", m.ShardSize).
					WithHint("sign with shards of 1 to 64 MiB; 4 MiB is the default")
			}
			f.FrameSize = m.ShardSize
			for i, r := range of.Ranges {
				if r.Start != int64(i)*m.ShardSize || r.End != min(r.Start+m.ShardSize, f.Size) || r.End <= r.Start {
					return nil, fault.Newf(fault.Invalid, "read manifest", of.Path, "shard %d is from %d to %d", i, r.Start, r.End)
				}
				f.Frames = append(f.Frames, fleet.Digest(r.Digest))
			}
			f.Digest = frameRoot(f)
		default:
			return nil, fault.Newf(fault.Invalid, "read manifest", m.Name, "method %q", m.Method)
		}
		files = append(files, f)
	}
	return files, nil
}

func frameRoot(f File) fleet.Digest {
	h := sha256.New()
	h.Write([]byte("modelfleet/file/v1\x00"))
	var n [16]byte
	binary.LittleEndian.PutUint64(n[:8], uint64(f.Size))
	binary.LittleEndian.PutUint64(n[8:], uint64(f.FrameSize))
	h.Write(n[:])
	for _, d := range f.Frames {
		h.Write(d[:])
	}
	return fleet.Digest(h.Sum(nil))
}

// RawKey is the key of a file's plain content.
func RawKey(d fleet.Digest) string { return "files/" + d.String() + "/raw" }

// FullKey is the key of a file's compressed frames.
func FullKey(d fleet.Digest) string { return "files/" + d.String() + "/full" }

// DeltaKey is the key of the frames of a file's difference to a base.
func DeltaKey(file, base fleet.Digest) string {
	return "files/" + file.String() + "/delta/" + base.String()
}

// IndexKey is the key of an object's index.
func IndexKey(key string) string { return key + ".idx" }
