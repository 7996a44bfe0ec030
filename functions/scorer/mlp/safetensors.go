package mlp

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"unicode/utf8"
)

// Limits of [ParseTensors]. They are far above any model this package can use.
const (
	MaxBytes  = 64 << 20 // of a whole file
	MaxHeader = 1 << 20  // of its JSON header
	maxDims   = 4
)

// Tensor is one named array of a safetensors file, row-major.
type Tensor struct {
	Name  string
	Shape []int
	Data  []float32
}

const metadataName = "__metadata__"

// entry is what the header says of one tensor.
type entry struct {
	DType   string  `json:"dtype"`
	Shape   []int64 `json:"shape"`
	Offsets []int64 `json:"data_offsets"`
}

// ParseTensors reads the bytes of a safetensors file: the tensors in the order
// of their data, and the header's metadata. It is strict: unknown or repeated
// names, holes, overlaps, trailing bytes and element types other than F32 are
// errors, and nothing is allocated that the file's own length does not cover.
func ParseTensors(data []byte) ([]Tensor, map[string]string, error) {
	if len(data) > MaxBytes {
		return nil, nil, fmt.Errorf("file of %d bytes is larger than %d", len(data), MaxBytes)
	}
	if len(data) < 8 {
		return nil, nil, errors.New("file is shorter than its length field")
	}
	n := binary.LittleEndian.Uint64(data)
	if n > MaxHeader || n > uint64(len(data)-8) {
		return nil, nil, fmt.Errorf("header length %d is larger than the file or %d", n, MaxHeader)
	}
	entries, meta, err := parseHeader(data[8 : 8+n])
	if err != nil {
		return nil, nil, fmt.Errorf("header: %w", err)
	}
	body := data[8+n:]
	names := slices.SortedFunc(maps.Keys(entries), func(a, b string) int {
		return int(entries[a].Offsets[0] - entries[b].Offsets[0])
	})
	tensors := make([]Tensor, 0, len(names))
	at := int64(0)
	for _, name := range names {
		e := entries[name]
		if e.Offsets[0] != at {
			return nil, nil, fmt.Errorf("tensor %q begins at %d, want %d: holes and overlaps are refused", name, e.Offsets[0], at)
		}
		if at = e.Offsets[1]; at > int64(len(body)) {
			return nil, nil, fmt.Errorf("tensor %q ends at %d, after the file", name, at)
		}
		tensors = append(tensors, e.tensor(name, body[e.Offsets[0]:at]))
	}
	if at != int64(len(body)) {
		return nil, nil, fmt.Errorf("%d bytes belong to no tensor", int64(len(body))-at)
	}
	return tensors, meta, nil
}

// parseHeader walks the header by tokens, since encoding/json takes the last of
// repeated names without a word.
func parseHeader(header []byte) (map[string]entry, map[string]string, error) {
	if len(header) == 0 || header[0] != '{' {
		return nil, nil, errors.New("does not begin with {")
	}
	if !utf8.Valid(header) {
		return nil, nil, errors.New("is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(header))
	dec.DisallowUnknownFields()
	if _, err := dec.Token(); err != nil {
		return nil, nil, err
	}
	entries := map[string]entry{}
	var meta map[string]string
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, nil, err
		}
		name, _ := tok.(string)
		if name == metadataName {
			if meta != nil {
				return nil, nil, errors.New("metadata appears twice")
			}
			if meta, err = parseMetadata(dec); err != nil {
				return nil, nil, fmt.Errorf("metadata: %w", err)
			}
			continue
		}
		if _, twice := entries[name]; twice || name == "" {
			return nil, nil, fmt.Errorf("tensor name %q is empty or appears twice", name)
		}
		var e entry
		if err := dec.Decode(&e); err != nil {
			return nil, nil, fmt.Errorf("tensor %q: %w", name, err)
		}
		if err := e.check(); err != nil {
			return nil, nil, fmt.Errorf("tensor %q: %w", name, err)
		}
		entries[name] = e
	}
	if _, err := dec.Token(); err != nil {
		return nil, nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, errors.New("bytes follow the JSON value")
	}
	return entries, meta, nil
}

func parseMetadata(dec *json.Decoder) (map[string]string, error) {
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, errors.New("is not an object")
	}
	meta := map[string]string{}
	for dec.More() {
		k, err := dec.Token()
		if err != nil {
			return nil, err
		}
		v, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, value := k.(string), ""
		var ok bool
		if value, ok = v.(string); !ok {
			return nil, fmt.Errorf("value of %q is not a string", name)
		}
		if _, twice := meta[name]; twice {
			return nil, fmt.Errorf("%q appears twice", name)
		}
		meta[name] = value
	}
	_, err := dec.Token()
	return meta, err
}

func (e entry) check() error {
	if e.DType != "F32" {
		return fmt.Errorf("element type %q is not F32", e.DType)
	}
	if len(e.Shape) == 0 || len(e.Shape) > maxDims || len(e.Offsets) != 2 {
		return errors.New("want 1 to 4 dimensions and two offsets")
	}
	size := int64(4)
	for _, d := range e.Shape {
		if d <= 0 || d > MaxBytes || size > MaxBytes/d {
			return errors.New("a dimension is not positive or too large")
		}
		size *= d
	}
	if b, end := e.Offsets[0], e.Offsets[1]; b < 0 || end > MaxBytes || end-b != size {
		return fmt.Errorf("offsets %d to %d do not hold %d bytes", b, end, size)
	}
	return nil
}

func (e entry) tensor(name string, raw []byte) Tensor {
	t := Tensor{Name: name, Shape: make([]int, len(e.Shape)), Data: make([]float32, len(raw)/4)}
	for i, d := range e.Shape {
		t.Shape[i] = int(d)
	}
	for i := range t.Data {
		t.Data[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return t
}

// EncodeTensors is the inverse of [ParseTensors]: tensors in the given order,
// names in the header sorted, its end padded to 8 bytes. The same input gives
// the same bytes.
func EncodeTensors(tensors []Tensor, meta map[string]string) ([]byte, error) {
	header := map[string]any{}
	if len(meta) > 0 {
		header[metadataName] = meta
	}
	at := int64(0)
	for _, t := range tensors {
		e := entry{DType: "F32", Offsets: []int64{at, at + 4*int64(len(t.Data))}}
		for _, d := range t.Shape {
			e.Shape = append(e.Shape, int64(d))
		}
		if err := e.check(); err != nil {
			return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		if _, twice := header[t.Name]; twice || t.Name == "" || t.Name == metadataName {
			return nil, fmt.Errorf("tensor name %q is empty, reserved or appears twice", t.Name)
		}
		header[t.Name] = e
		at = e.Offsets[1]
	}
	text, err := json.Marshal(header)
	if err != nil {
		return nil, err
	}
	for len(text)%8 != 0 {
		text = append(text, ' ')
	}
	out := binary.LittleEndian.AppendUint64(make([]byte, 0, 8+len(text)+int(at)), uint64(len(text)))
	out = append(out, text...)
	for _, t := range tensors {
		for _, v := range t.Data {
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
		}
	}
	return out, nil
}
