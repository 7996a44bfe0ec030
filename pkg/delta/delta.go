// Package delta is the lossless, tensor-aware codec of one frame of a file:
// plain bytes alone, or plain bytes against a base of the same length that
// they resemble. It keeps no state between frames and knows no files.
package delta

import (
	"bytes"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// MaxFrame is the longest frame the codec takes, in plain bytes.
const MaxFrame = 64 << 20

// blockSize is how many plain bytes one block of a frame holds; the last block
// of a frame may hold fewer.
const blockSize = 1 << 20

// The modes a block may have: the first byte of its packed form.
const (
	modeRaw  = 0 // the plain bytes follow
	modeCopy = 1 // the block equals its base; nothing follows
)

// Encoder packs frames. It keeps its scratch memory between frames and is not
// safe for concurrent use.
type Encoder struct{}

// NewEncoder returns an Encoder.
func NewEncoder() *Encoder { return &Encoder{} }

// Encode appends the packed form of plain to dst and returns it. The base is
// nil or exactly as long as plain: what the receiver will pass to Decode. The
// packed form is at most one byte per started MiB longer than plain.
func (e *Encoder) Encode(dst, plain, base []byte) []byte {
	for len(plain) > 0 {
		n := min(len(plain), blockSize)
		if base != nil && bytes.Equal(plain[:n], base[:n]) {
			dst = append(dst, modeCopy)
		} else {
			dst = append(dst, modeRaw)
			dst = append(dst, plain[:n]...)
		}
		plain = plain[n:]
		if base != nil {
			base = base[n:]
		}
	}
	return dst
}

// Decoder unpacks frames. It keeps its scratch memory between frames and is
// not safe for concurrent use.
type Decoder struct{}

// NewDecoder returns a Decoder.
func NewDecoder() *Decoder { return &Decoder{} }

// Decode unpacks packed into dst, whose length is exactly that of the plain
// frame. The base is the one the frame was packed against, nil if there was
// none; dst must not overlap the base. Bytes that are no frame of that length give a fault.Invalid
// error or wrong bytes, never a panic and never more than bounded time and
// memory: the caller hashes what it got. After an error dst holds garbage.
func (d *Decoder) Decode(dst, packed, base []byte) error {
	if base != nil && len(base) != len(dst) {
		return corrupt("base of another length")
	}
	for len(dst) > 0 {
		n := min(len(dst), blockSize)
		if len(packed) == 0 {
			return corrupt("truncated")
		}
		mode := packed[0]
		packed = packed[1:]
		switch {
		case mode == modeCopy && base != nil:
			copy(dst[:n], base)
		case mode == modeRaw && len(packed) >= n:
			copy(dst[:n], packed)
			packed = packed[n:]
		default:
			return corrupt("unknown mode")
		}
		dst = dst[n:]
		if base != nil {
			base = base[n:]
		}
	}
	if len(packed) != 0 {
		return corrupt("trailing bytes")
	}
	return nil
}

func corrupt(what string) error {
	return fault.Newf(fault.Invalid, "unpack frame", "", "%s", what)
}
