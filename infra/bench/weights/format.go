package weights

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
)

// DType is a format that a model is shipped in.
type DType string

// The formats: the first four in safetensors, the quantised blocks in GGUF.
const (
	F32  DType = "f32"
	BF16 DType = "bf16"
	F16  DType = "f16"
	INT8 DType = "int8" // one scale a row
	Q8_0 DType = "q8_0" // blocks of 32: a float16 scale and 32 bytes
	Q4_0 DType = "q4_0" // blocks of 32: a float16 scale and 16 bytes
)

// DTypes lists the formats.
func DTypes() []DType { return []DType{F32, BF16, F16, INT8, Q8_0, Q4_0} }

// Ext is the file name's ending.
func (d DType) Ext() string {
	if d == Q8_0 || d == Q4_0 {
		return "gguf"
	}
	return "safetensors"
}

// Encode writes a model as a file of the format.
func (d DType) Encode(m Model) ([]byte, error) {
	switch d {
	case F32, BF16, F16, INT8:
		return safetensors(m, d)
	case Q8_0, Q4_0:
		return gguf(m, d), nil
	}
	return nil, fmt.Errorf("encode a model as %q: there is no such format", d)
}

// entry is one tensor of a safetensors file.
type entry struct {
	name, dtype string
	shape       []int
	size        int // bytes
}

// safetensorsHeader is what stands before the tensors' bytes: its length, and
// JSON padded to 8 bytes.
func safetensorsHeader(entries []entry) ([]byte, error) {
	type described struct {
		DType   string `json:"dtype"`
		Shape   []int  `json:"shape"`
		Offsets [2]int `json:"data_offsets"`
	}
	header := map[string]any{"__metadata__": map[string]string{"format": "pt"}}
	at := 0
	for _, e := range entries {
		header[e.name] = described{e.dtype, e.shape, [2]int{at, at + e.size}}
		at += e.size
	}
	text, err := json.Marshal(header)
	if err != nil {
		return nil, fmt.Errorf("write a safetensors header: %w", err)
	}
	for len(text)%8 != 0 {
		text = append(text, ' ')
	}
	return append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...), nil
}

// safetensors writes the format of that name.
func safetensors(m Model, d DType) ([]byte, error) {
	var entries []entry
	var data []byte
	add := func(name, dtype string, shape []int, bytes []byte) {
		entries = append(entries, entry{name, dtype, shape, len(bytes)})
		data = append(data, bytes...)
	}
	for _, t := range m {
		switch {
		case d == INT8 && t.Rows > 1:
			q, scales := quantizeRows(t)
			add(t.Name, "I8", t.shape(), q)
			add(t.Name+"_scale", "F32", []int{t.Rows}, appendF32(nil, scales))
		case d == BF16:
			add(t.Name, "BF16", t.shape(), appendBF16(nil, t.Data))
		case d == F16:
			add(t.Name, "F16", t.shape(), appendF16(nil, t.Data))
		default:
			add(t.Name, "F32", t.shape(), appendF32(nil, t.Data))
		}
	}
	header, err := safetensorsHeader(entries)
	return append(header, data...), err
}

// GGUF's numbers for what is used here.
const (
	ggufVersion   = 3
	ggufAlignment = 32
	ggufString    = 8 // type of a metadata value
	ggufU32       = 4
	ggmlF32       = 0 // type of a tensor
	ggmlQ4_0      = 2
	ggmlQ8_0      = 8
)

// gguf writes the format of that name, version 3: metadata, what the tensors
// are, and their bytes, each aligned. Biases stay float32, as converters do.
func gguf(m Model, d DType) []byte {
	le := binary.LittleEndian
	str := func(b []byte, s string) []byte { return append(le.AppendUint64(b, uint64(len(s))), s...) }
	out := append([]byte("GGUF"), le.AppendUint32(nil, ggufVersion)...)
	out = le.AppendUint64(out, uint64(len(m)))
	out = le.AppendUint64(out, 2) // metadata entries
	out = str(le.AppendUint32(str(out, "general.architecture"), ggufString), "mlp")
	out = le.AppendUint32(le.AppendUint32(str(out, "general.alignment"), ggufU32), ggufAlignment)
	var data []byte
	for _, t := range m {
		kind := uint32(ggmlF32)
		from := len(data)
		switch {
		case t.Rows == 1 || t.Cols%block != 0:
			data = appendF32(data, t.Data)
		case d == Q8_0:
			kind, data = ggmlQ8_0, appendQ8(data, t.Data)
		default:
			kind, data = ggmlQ4_0, appendQ4(data, t.Data)
		}
		out = str(out, t.Name)
		if t.Rows == 1 {
			out = le.AppendUint64(le.AppendUint32(out, 1), uint64(t.Cols))
		} else {
			out = le.AppendUint64(le.AppendUint64(le.AppendUint32(out, 2), uint64(t.Cols)), uint64(t.Rows))
		}
		out = le.AppendUint64(le.AppendUint32(out, kind), uint64(from))
		data = pad(data)
	}
	return append(pad(out), data...)
}

func pad(b []byte) []byte {
	for len(b)%ggufAlignment != 0 {
		b = append(b, 0)
	}
	return b
}

func appendF32(b []byte, data []float32) []byte {
	for _, v := range data {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}
