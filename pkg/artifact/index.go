package artifact

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Kind says what an indexed object holds. Its numbers are on the wire.
type Kind uint8

// The kinds of object.
const (
	Raw   Kind = 0 // the plain bytes
	Full  Kind = 1 // every frame by itself, packed
	Delta Kind = 2 // every frame by itself or, where that is shorter, against a base
)

// Codec says how one frame is packed. Its numbers are on the wire.
type Codec uint8

// The codecs.
const (
	Plain      Codec = 0 // as it is
	Zstd       Codec = 1 // one zstd frame
	Tensor     Codec = 2 // pkg/delta, alone
	TensorBase Codec = 3 // pkg/delta, against the bytes of the base; in a Delta only
)

// Index says where the frames of an object lie. It is a hint: what it leads to
// is verified against what was signed.
type Index struct {
	Kind      Kind
	File      fleet.Digest // of the file the object belongs to
	Size      int64        // of the file, plain
	FrameSize int64        // of each frame but the last, plain
	FullSize  int64        // in a Raw index: size of the full object, 0 when there is none
	Frames    []Packed

	// What a Delta is a difference to: a file, its plain size, and which of its
	// bytes the file's resemble. Regions are ordered by New and apart.
	Base     fleet.Digest
	BaseSize int64
	Regions  []Region
}

// Packed is one frame as it lies in the object. Frames follow one another
// without gaps.
type Packed struct {
	Length int64
	Codec  Codec
	Digest fleet.Digest // SHA-256 of the packed bytes
}

const (
	indexMagic  = "MFX1"
	indexHead   = 72
	indexRecord = 40
	// maxFrames bounds an index to what the manifest's own cap allows.
	maxFrames = 1 << 20
)

// PackedSize is the size of the object.
func (x Index) PackedSize() int64 {
	var n int64
	for _, f := range x.Frames {
		n += f.Length
	}
	return n
}

// FrameLen is the plain length of frame i.
func (x Index) FrameLen(i int) int64 { return min(x.FrameSize, x.Size-int64(i)*x.FrameSize) }

// Encode is the index's bytes.
func (x Index) Encode() []byte {
	b := make([]byte, indexHead, indexHead+indexRecord*len(x.Frames)+baseHead+regionRecord*len(x.Regions))
	copy(b, indexMagic)
	b[4], b[5] = 1, byte(x.Kind)
	binary.LittleEndian.PutUint32(b[8:], uint32(x.FrameSize))
	binary.LittleEndian.PutUint32(b[12:], uint32(len(x.Frames)))
	binary.LittleEndian.PutUint64(b[16:], uint64(x.Size))
	binary.LittleEndian.PutUint64(b[24:], uint64(x.PackedSize()))
	binary.LittleEndian.PutUint64(b[32:], uint64(x.FullSize))
	copy(b[40:], x.File[:])
	for _, f := range x.Frames {
		b = binary.LittleEndian.AppendUint32(b, uint32(f.Length))
		b = append(b, byte(f.Codec), 0, 0, 0)
		b = append(b, f.Digest[:]...)
	}
	if x.Kind == Delta {
		b = x.appendBase(b)
	}
	return b
}

// ParseIndex reads an index. It accepts exactly what [Index.Encode] writes, so
// an index has one form; a member bounds its memory by it.
func ParseIndex(b []byte) (Index, error) {
	x, err := parseIndex(b)
	if err != nil {
		return Index{}, fault.New(fault.Untrusted, "read index", "", err)
	}
	return x, nil
}

func parseIndex(b []byte) (Index, error) {
	if len(b) < indexHead || string(b[:4]) != indexMagic {
		return Index{}, errors.New("not an index")
	}
	if b[4] != 1 {
		return Index{}, fmt.Errorf("version %d; this program reads 1", b[4])
	}
	count := binary.LittleEndian.Uint32(b[12:])
	if count > maxFrames || len(b) < indexHead+indexRecord*int(count) {
		return Index{}, fmt.Errorf("%d bytes for %d frames", len(b), count)
	}
	x := Index{
		Kind:      Kind(b[5]),
		FrameSize: int64(binary.LittleEndian.Uint32(b[8:])),
		Size:      int64(binary.LittleEndian.Uint64(b[16:])),
		FullSize:  int64(binary.LittleEndian.Uint64(b[32:])),
		File:      fleet.Digest(b[40:72]),
	}
	switch {
	case x.Kind > Delta || b[6] != 0 || b[7] != 0:
		return x, fmt.Errorf("kind %d", x.Kind)
	case x.FrameSize < 1 || x.FrameSize > MaxFrame:
		return x, fmt.Errorf("frames of %d bytes", x.FrameSize)
	case x.Size < 0 || x.Size > int64(count)*x.FrameSize || x.Size <= (int64(count)-1)*x.FrameSize:
		return x, fmt.Errorf("%d frames of %d bytes for a file of %d", count, x.FrameSize, x.Size)
	case x.FullSize < 0 || (x.Kind != Raw && x.FullSize != 0) || x.FullSize > x.Size:
		return x, fmt.Errorf("a full object of %d bytes", x.FullSize)
	}
	frames, rest := b[indexHead:][:indexRecord*int(count)], b[indexHead+indexRecord*int(count):]
	for i := range int(count) {
		f, err := x.parseFrame(i, frames[indexRecord*i:][:indexRecord])
		if err != nil {
			return x, err
		}
		x.Frames = append(x.Frames, f)
	}
	if uint64(x.PackedSize()) != binary.LittleEndian.Uint64(b[24:]) {
		return x, errors.New("its frames do not add up")
	}
	if x.Kind == Delta {
		err := x.parseBase(rest)
		return x, err
	}
	if len(rest) != 0 {
		return x, fmt.Errorf("%d bytes for %d frames", len(b), count)
	}
	return x, nil
}

func (x Index) parseFrame(i int, r []byte) (Packed, error) {
	f := Packed{Length: int64(binary.LittleEndian.Uint32(r)), Codec: Codec(r[4]), Digest: fleet.Digest(r[8:])}
	plain := x.FrameLen(i)
	shorter := f.Length > 0 && f.Length < plain
	switch {
	case r[5] != 0 || r[6] != 0 || r[7] != 0:
		return f, fmt.Errorf("frame %d: reserved bytes are set", i)
	case f.Codec == Plain && f.Length == plain:
	case (f.Codec == Zstd || f.Codec == Tensor) && x.Kind != Raw && shorter:
	case f.Codec == TensorBase && x.Kind == Delta && shorter:
	default:
		return f, fmt.Errorf("frame %d: codec %d, %d bytes for %d", i, f.Codec, f.Length, plain)
	}
	return f, nil
}
