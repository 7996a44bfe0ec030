package codec

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// The anchor that knows weights: exclusive or with the base, the bytes of each
// significance together, zstd at its best (the idea of BitX in ZipLLM, NSDI
// 2026, arXiv 2505.06252). Files of different length are aligned at their ends.

// EncodePlanes packs a file of elements of so many bytes against a base.
func EncodePlanes(next, base []byte, width int) ([]byte, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithAllLitEntropyCompression(true), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(next)))
	plane := make([]byte, 0, len(next)/width+1)
	for p := range width {
		plane = plane[:0]
		for i := p; i < len(next); i += width {
			plane = append(plane, next[i]^at(base, i+len(base)-len(next)))
		}
		packed := enc.EncodeAll(plane, nil)
		out = append(binary.LittleEndian.AppendUint64(out, uint64(len(packed))), packed...)
	}
	return out, nil
}

// DecodePlanes undoes EncodePlanes.
func DecodePlanes(packed, base []byte, width int) ([]byte, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	take := func() (int, error) {
		if len(packed) < 8 {
			return 0, errors.New("packed planes end early")
		}
		n := binary.LittleEndian.Uint64(packed)
		packed = packed[8:]
		return int(n), nil
	}
	size, err := take()
	if err != nil {
		return nil, err
	}
	next := make([]byte, size)
	for p := range width {
		n, err := take()
		if err != nil || n > len(packed) {
			return nil, errors.Join(err, fmt.Errorf("plane %d: %d bytes", p, n))
		}
		plane, err := dec.DecodeAll(packed[:n], nil)
		if err != nil {
			return nil, fmt.Errorf("plane %d: %w", p, err)
		}
		packed = packed[n:]
		for i := p; i < size; i += width {
			next[i] = plane[i/width] ^ at(base, i+len(base)-size)
		}
	}
	return next, nil
}

func at(b []byte, i int) byte {
	if i < 0 {
		return 0
	}
	return b[i]
}
