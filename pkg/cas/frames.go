package cas

import (
	"encoding/binary"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Frames are the digests of a file's frames, in order.
type Frames struct {
	Length  int64 // of each frame but the last, in bytes
	Digests []fleet.Digest
}

// trivial reports whether the frames say nothing that the name d of their file
// does not say.
func (f Frames) trivial(d fleet.Digest) bool {
	return len(f.Digests) == 0 || len(f.Digests) == 1 && f.Digests[0] == d
}

// framesSuffix ends the name of the file with a file's frames, beside it.
const framesSuffix = ".frames"

// framesMagic begins a .frames file: magic, u64 length (little-endian), digests.
const framesMagic = "mffrm\x00\x00\x01"

func (f Frames) encode() []byte {
	b := make([]byte, 0, len(framesMagic)+8+32*len(f.Digests))
	b = append(b, framesMagic...)
	b = binary.LittleEndian.AppendUint64(b, uint64(f.Length))
	for _, d := range f.Digests {
		b = append(b, d[:]...)
	}
	return b
}

func decodeFrames(b []byte) (Frames, error) {
	head := len(framesMagic) + 8
	if len(b) < head || string(b[:len(framesMagic)]) != framesMagic || (len(b)-head)%32 != 0 {
		return Frames{}, fault.Newf(fault.Invalid, "read frames", "", "not a frames file")
	}
	f := Frames{Length: int64(binary.LittleEndian.Uint64(b[len(framesMagic):]))}
	if f.Length <= 0 {
		return Frames{}, fault.Newf(fault.Invalid, "read frames", "", "a frame length of %d", f.Length)
	}
	for b = b[head:]; len(b) > 0; b = b[32:] {
		f.Digests = append(f.Digests, fleet.Digest(b[:32]))
	}
	return f, nil
}
