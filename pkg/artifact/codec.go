package artifact

import (
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/modelfleet/modelfleet/pkg/delta"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

const (
	// minGain is the share that packing must save to be worth decoding, per frame
	// and per object: 3 %.
	minGain = 0.03
	// probe is how many bytes of a longer frame decide which codec packs it.
	probe = 128 << 10
)

// worthIt reports whether packed bytes are enough fewer than plain ones.
func worthIt(packed, plain int64) bool { return float64(packed) <= (1-minGain)*float64(plain) }

// Packer packs frames. It may be used by many goroutines at once.
type Packer struct {
	zstd   *zstd.Encoder
	tensor sync.Pool // of *delta.Encoder
}

// NewPacker returns a packer whose output does not depend on the machine.
func NewPacker() (*Packer, error) {
	// Weights hold no repeats, so levels change nothing; entropy coding of all
	// literals is what saves.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithAllLitEntropyCompression(true), zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true))
	if err != nil {
		return nil, fault.New(fault.Internal, "make packer", "zstd", err)
	}
	return &Packer{zstd: enc, tensor: sync.Pool{New: func() any { return delta.NewEncoder() }}}, nil
}

// Pack appends the shortest form of plain to dst and says which it is. Text is
// shortest as zstd, weights as a tensor: for a long frame a piece of it decides.
func (p *Packer) Pack(dst, plain []byte) ([]byte, Codec) {
	start := len(dst)
	if len(plain) == 0 {
		return dst, Plain
	}
	codec, short := p.choose(plain)
	if codec != Plain && short == nil {
		dst = p.encode(dst, plain, codec)
	} else {
		dst = append(dst, short...)
	}
	if codec != Plain && worthIt(int64(len(dst)-start), int64(len(plain))) {
		return dst, codec
	}
	return append(dst[:start], plain...), Plain
}

// PackAgainst appends the shorter of plain's packed forms with and without the
// base to dst. Up to limit bytes the form with the base is taken as it is: what
// the form without would have, for whoever knows it; 0 when nobody does.
func (p *Packer) PackAgainst(dst, plain, base []byte, limit int64) ([]byte, Codec) {
	start := len(dst)
	dst = p.encodeAgainst(dst, plain, base)
	n := int64(len(dst) - start)
	if n < limit && n < int64(len(plain)) {
		return dst, TensorBase
	}
	alone, codec := p.Pack(nil, plain)
	if n < int64(len(alone)) {
		return dst, TensorBase
	}
	return append(dst[:start], alone...), codec
}

// choose says which codec makes a frame shortest, and for a short one also the
// packed bytes: it was packed by both.
func (p *Packer) choose(plain []byte) (Codec, []byte) {
	whole := len(plain) <= 2*probe
	if !whole {
		plain = plain[(len(plain)-probe)/2:][:probe]
	}
	z, t := p.encode(nil, plain, Zstd), p.encode(nil, plain, Tensor)
	codec, best := Zstd, z
	if len(t) < len(z) {
		codec, best = Tensor, t
	}
	if !whole {
		return codec, nil
	}
	return codec, best
}

func (p *Packer) encode(dst, plain []byte, c Codec) []byte {
	if c == Zstd {
		return p.zstd.EncodeAll(plain, dst)
	}
	return p.encodeAgainst(dst, plain, nil)
}

func (p *Packer) encodeAgainst(dst, plain, base []byte) []byte {
	e := p.tensor.Get().(*delta.Encoder)
	defer p.tensor.Put(e)
	return e.Encode(dst, plain, base)
}

// Unpacker unpacks frames. It may be used by many goroutines at once.
type Unpacker struct {
	zstd   *zstd.Decoder
	tensor chan *delta.Decoder // those that nobody uses
}

// NewUnpacker returns an unpacker that decodes at most streams frames at once,
// the others wait, and never more than [MaxFrame] bytes of one.
func NewUnpacker(streams int) (*Unpacker, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(streams),
		zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(MaxFrame))
	if err != nil {
		return nil, fault.New(fault.Internal, "make unpacker", "zstd", err)
	}
	u := &Unpacker{zstd: dec, tensor: make(chan *delta.Decoder, streams)}
	for range streams {
		u.tensor <- delta.NewDecoder()
	}
	return u, nil
}

// Close frees the unpacker's buffers.
func (u *Unpacker) Close() { u.zstd.Close() }

// Unpack decodes a packed frame into dst, which has exactly the frame's plain
// length. The base is needed for codec [TensorBase] only: as long as dst, with
// zeros where [Index.BaseSpans] names nothing; dst must not overlap it. Bytes
// that do not decode to exactly that are Untrusted.
func (u *Unpacker) Unpack(dst, packed, base []byte, c Codec) error {
	switch c {
	case Plain:
		if len(packed) != len(dst) {
			return fault.Newf(fault.Untrusted, "unpack frame", "", "%d bytes for a frame of %d", len(packed), len(dst))
		}
		copy(dst, packed)
		return nil
	case Zstd:
		// The decoder grows dst only when a frame is longer than it should be.
		out, err := u.zstd.DecodeAll(packed, dst[:0:len(dst)])
		if err != nil {
			return fault.New(fault.Untrusted, "unpack frame", "", err)
		}
		if len(out) != len(dst) || (len(dst) > 0 && &out[0] != &dst[0]) {
			return fault.Newf(fault.Untrusted, "unpack frame", "", "decodes to %d bytes, not %d", len(out), len(dst))
		}
		return nil
	case Tensor:
		return u.untensor(dst, packed, nil)
	case TensorBase:
		if len(base) != len(dst) {
			return fault.Newf(fault.Invalid, "unpack frame", "", "a base of %d bytes for a frame of %d", len(base), len(dst))
		}
		return u.untensor(dst, packed, base)
	}
	return fault.Newf(fault.Untrusted, "unpack frame", "", "codec %d", c)
}

func (u *Unpacker) untensor(dst, packed, base []byte) error {
	d := <-u.tensor
	defer func() { u.tensor <- d }()
	if err := d.Decode(dst, packed, base); err != nil {
		return fault.New(fault.Untrusted, "unpack frame", "", err)
	}
	return nil
}
