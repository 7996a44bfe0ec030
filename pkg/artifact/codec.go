package artifact

import (
	"github.com/klauspost/compress/zstd"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// minGain is the share that packing must save to be worth decoding, per frame
// and per object: 3 %.
const minGain = 0.03

// worthIt reports whether packed bytes are enough fewer than plain ones.
func worthIt(packed, plain int64) bool { return float64(packed) <= (1-minGain)*float64(plain) }

// Packer packs frames. It may be used by many goroutines at once.
type Packer struct {
	enc *zstd.Encoder
}

// NewPacker returns a packer whose output does not depend on the machine.
func NewPacker() (*Packer, error) {
	// Weights hold no repeats, so levels change nothing; entropy coding of all
	// literals is what saves (bf16: 78 % instead of 100 %).
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithAllLitEntropyCompression(true), zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true))
	if err != nil {
		return nil, fault.New(fault.Internal, "make packer", "zstd", err)
	}
	return &Packer{enc: enc}, nil
}

// Pack appends the shorter form of plain to dst and says which it is.
func (p *Packer) Pack(dst, plain []byte) ([]byte, Codec) {
	out := p.enc.EncodeAll(plain, dst)
	if worthIt(int64(len(out)-len(dst)), int64(len(plain))) {
		return out, Zstd
	}
	return append(dst, plain...), Plain
}

// Unpacker unpacks frames. It may be used by many goroutines at once.
type Unpacker struct {
	dec *zstd.Decoder
}

// NewUnpacker returns an unpacker that decodes at most streams frames at once
// and never more than [MaxFrame] bytes of one.
func NewUnpacker(streams int) (*Unpacker, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(streams),
		zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(MaxFrame))
	if err != nil {
		return nil, fault.New(fault.Internal, "make unpacker", "zstd", err)
	}
	return &Unpacker{dec: dec}, nil
}

// Close frees the unpacker's buffers.
func (u *Unpacker) Close() { u.dec.Close() }

// Unpack decodes a packed frame into dst, which has exactly the frame's plain
// length. Bytes that do not decode to exactly that are Untrusted.
func (u *Unpacker) Unpack(dst, packed []byte, c Codec) error {
	switch c {
	case Plain:
		if len(packed) != len(dst) {
			return fault.Newf(fault.Untrusted, "unpack frame", "", "%d bytes for a frame of %d", len(packed), len(dst))
		}
		copy(dst, packed)
		return nil
	case Zstd:
		// The decoder grows dst only when a frame is longer than it should be.
		out, err := u.dec.DecodeAll(packed, dst[:0:len(dst)])
		if err != nil {
			return fault.New(fault.Untrusted, "unpack frame", "", err)
		}
		if len(out) != len(dst) || (len(dst) > 0 && &out[0] != &dst[0]) {
			return fault.Newf(fault.Untrusted, "unpack frame", "", "decodes to %d bytes, not %d", len(out), len(dst))
		}
		return nil
	}
	return fault.Newf(fault.Untrusted, "unpack frame", "", "codec %d", c)
}
