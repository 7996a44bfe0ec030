package layout

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"io"
	"math"
	"slices"
)

// gguf reads versions 2 and 3, little-endian: metadata, then one record a
// tensor, then the tensors, aligned (github.com/ggml-org/ggml, docs/gguf.md). A
// tensor reaches to the next one: its padding is as good as its bytes.
func gguf(src io.ReaderAt, size int64) ([]Tensor, error) {
	r := &ggufReader{r: bufio.NewReaderSize(io.NewSectionReader(src, 4, min(size, maxHeader)-4), 64<<10), at: 4}
	version, tensors, pairs := r.u32(), r.u64(), r.u64()
	if version < 2 || version > 3 || tensors > maxTensors || pairs > maxTensors {
		return nil, errUnknown
	}
	alignment := int64(32)
	for range pairs {
		key, kind := r.text(), r.u32()
		if key == "general.alignment" && kind == ggufU32 {
			alignment = int64(r.u32())
		} else {
			r.skipValue(kind, 0)
		}
		if r.err != nil {
			return nil, r.err
		}
	}
	var out []Tensor
	for range tensors {
		t := Tensor{Name: r.text()}
		dims := r.u32()
		if dims > 16 {
			return nil, errUnknown
		}
		r.skip(8*uint64(dims) + 4) // the dimensions and the type
		off, ok := toInt(r.u64())
		if r.err != nil || !ok || off > size {
			return nil, errUnknown
		}
		t.Offset = off
		out = append(out, t)
	}
	if alignment < 1 || alignment > 1<<20 {
		return nil, errUnknown
	}
	data := (r.at + alignment - 1) / alignment * alignment
	slices.SortStableFunc(out, func(a, b Tensor) int { return cmp.Compare(a.Offset, b.Offset) })
	for i := range out {
		out[i].Offset += data
		end := size
		if i+1 < len(out) {
			end = out[i+1].Offset + data
		}
		out[i].Length = end - out[i].Offset
	}
	return slices.DeleteFunc(out, func(t Tensor) bool { return t.Length == 0 }), nil
}

// The types of metadata values that are told apart here.
const (
	ggufU32   = 4
	ggufText  = 8
	ggufArray = 9
)

// ggufWidth is the length of a value by its type; 0: it varies, or is unknown.
func ggufWidth(kind uint32) uint64 {
	const widths = "\x01\x01\x02\x02\x04\x04\x04\x01\x00\x00\x08\x08\x08"
	if kind >= uint32(len(widths)) {
		return 0
	}
	return uint64(widths[kind])
}

// ggufReader reads forward; the first error stays.
type ggufReader struct {
	r   *bufio.Reader
	at  int64
	err error
	buf [8]byte
}

func (r *ggufReader) bytes(b []byte) {
	if r.err == nil {
		var n int
		n, r.err = io.ReadFull(r.r, b)
		r.at += int64(n)
	}
	if r.err != nil {
		clear(b)
	}
}

func (r *ggufReader) u32() uint32 {
	r.bytes(r.buf[:4])
	return binary.LittleEndian.Uint32(r.buf[:4])
}

func (r *ggufReader) u64() uint64 {
	r.bytes(r.buf[:8])
	return binary.LittleEndian.Uint64(r.buf[:8])
}

func (r *ggufReader) skip(n uint64) {
	if r.err == nil && n > maxHeader {
		r.err = errUnknown
	}
	if r.err == nil {
		var done int
		done, r.err = r.r.Discard(int(n))
		r.at += int64(done)
	}
}

// text reads a name; one of more than 64 KiB is none.
func (r *ggufReader) text() string {
	n := r.u64()
	if r.err == nil && n > math.MaxUint16 {
		r.err = errUnknown
	}
	if r.err != nil {
		return ""
	}
	b := make([]byte, n)
	r.bytes(b)
	return string(b)
}

func (r *ggufReader) skipValue(kind uint32, depth int) {
	switch {
	case kind == ggufText:
		r.skip(r.u64())
	case kind == ggufArray && depth < 4:
		of, n := r.u32(), r.u64()
		if w := ggufWidth(of); w > 0 && n <= maxHeader {
			r.skip(n * w)
			return
		}
		for i := uint64(0); i < n && r.err == nil; i++ {
			r.skipValue(of, depth+1)
		}
	case ggufWidth(kind) > 0:
		r.skip(ggufWidth(kind))
	case r.err == nil:
		r.err = errUnknown
	}
}
