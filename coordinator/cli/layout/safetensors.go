package layout

import (
	"encoding/binary"
	"encoding/json"
	"io"
)

// safetensors reads "u64 length, JSON, data": the JSON maps names to offsets
// from the end of the JSON (github.com/huggingface/safetensors, README).
func safetensors(src io.ReaderAt, size int64) ([]Tensor, error) {
	var n [8]byte
	if _, err := src.ReadAt(n[:], 0); err != nil {
		return nil, err
	}
	length, ok := toInt(binary.LittleEndian.Uint64(n[:]))
	if !ok || length > maxHeader || length > size-8 {
		return nil, errUnknown
	}
	header := make([]byte, length)
	if got, err := src.ReadAt(header, 8); got < len(header) {
		return nil, err
	}
	var entries map[string]json.RawMessage
	if err := json.Unmarshal(header, &entries); err != nil || len(entries) > maxTensors {
		return nil, errUnknown
	}
	var out []Tensor
	for name, text := range entries {
		var e struct {
			Offsets []int64 `json:"data_offsets"`
		}
		if name == "__metadata__" {
			continue
		}
		if err := json.Unmarshal(text, &e); err != nil || len(e.Offsets) != 2 || e.Offsets[0] < 0 || e.Offsets[1] > size {
			return nil, errUnknown
		}
		if length := e.Offsets[1] - e.Offsets[0]; length != 0 { // a tensor may be empty
			out = append(out, Tensor{Name: name, Offset: 8 + int64(len(header)) + e.Offsets[0], Length: length})
		}
	}
	return out, nil
}
