package telemetry

import (
	"errors"

	"github.com/klauspost/compress/zstd"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Limits of a batch.
const (
	MaxBatch         = 1 << 20 // bytes, encoded
	MaxBatchMessages = 1024
	maxBatchPlain    = MaxBatchMessages*(MaxRow+2) + 16
	kindBatch        = 3
)

// Codec encodes and decodes batches. Make it with [NewCodec] and keep it: it
// holds compression state. It is safe for concurrent use.
type Codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

// NewCodec returns a codec.
func NewCodec() (*Codec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault),
		zstd.WithWindowSize(256<<10), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fault.New(fault.Internal, "make batch encoder", "", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBatchPlain),
		zstd.WithDecoderMaxWindow(2<<20), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fault.New(fault.Internal, "make batch decoder", "", err)
	}
	return &Codec{enc: enc, dec: dec}, nil
}

// Encode puts signed messages into one batch, as they are.
func (c *Codec) Encode(msgs [][]byte) ([]byte, error) {
	if len(msgs) == 0 || len(msgs) > MaxBatchMessages {
		return nil, fault.Newf(fault.Invalid, "encode batch", "", "%d messages, want 1 to %d", len(msgs), MaxBatchMessages)
	}
	plain := appendUint(nil, uint64(len(msgs)))
	for _, m := range msgs {
		if len(m) == 0 || len(m) > MaxRow {
			return nil, fault.Newf(fault.Invalid, "encode batch", "", "a message of %d bytes", len(m))
		}
		plain = append(appendUint(plain, uint64(len(m))), m...)
	}
	out := c.enc.EncodeAll(plain, []byte{kindBatch, version})
	if len(out) > MaxBatch {
		return nil, fault.Newf(fault.Exhausted, "encode batch", "", "%d bytes, at most %d", len(out), MaxBatch)
	}
	return out, nil
}

// Decode takes a batch apart. It looks into no message: [ParseMessage] does.
func (c *Codec) Decode(b []byte) ([][]byte, error) {
	if len(b) > MaxBatch {
		return nil, fault.Newf(fault.Invalid, "read batch", "", "%d bytes, at most %d", len(b), MaxBatch)
	}
	in := &reader{b: b}
	in.header(kindBatch)
	if in.err != nil {
		return nil, fault.New(fault.Invalid, "read batch", "", in.err)
	}
	plain, err := c.dec.DecodeAll(in.b, nil)
	if err != nil {
		return nil, fault.New(fault.Invalid, "read batch", "", err)
	}
	msgs, err := splitBatch(plain)
	if err != nil {
		return nil, fault.New(fault.Invalid, "read batch", "", err)
	}
	return msgs, nil
}

func splitBatch(plain []byte) ([][]byte, error) {
	in := &reader{b: plain}
	n := in.minimal()
	if in.err == nil && (n == 0 || n > MaxBatchMessages) {
		return nil, errors.New("the number of messages is out of range")
	}
	msgs := make([][]byte, 0, min(n, MaxBatchMessages))
	for range n {
		size := in.minimal()
		if in.err == nil && (size == 0 || size > MaxRow) {
			return nil, errors.New("a message's size is out of range")
		}
		if in.err != nil {
			return nil, in.err
		}
		msgs = append(msgs, in.bytes(int(size)))
	}
	return msgs, in.end()
}
