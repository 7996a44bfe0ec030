// Package layout says where the tensors of a model file lie, so that a new
// version can be laid beside its base tensor by tensor even when a header grew or
// tensors moved: safetensors, GGUF, ONNX (with external data) and zip archives
// such as PyTorch's. Only a publisher reads layouts; a member applies the regions
// that came of them and never parses a model.
//
// What is read comes from outside. Parsers are bounded in memory and time, and a
// file that is not understood has no known layout, which is no error: its delta
// is aligned by position.
package layout

import (
	"errors"
	"io"
	"io/fs"
	"math"
	"path"
	"strings"
)

// Tensor is a named piece of a file.
type Tensor struct {
	Name           string
	Offset, Length int64
}

// File is a file of a model folder.
type File struct {
	Path    string // slash-separated, within the folder
	Size    int64
	Content io.ReaderAt
}

const (
	maxHeader  = 128 << 20 // bytes of a file that describe its tensors
	maxTensors = 1 << 20
)

var errUnknown = errors.New("unknown layout")

// external is a tensor of one file that lies in another one.
type external struct {
	location string // relative to the file that names it
	Tensor          // Length -1: up to the end of the file
}

// Of says where the tensors of a folder's files lie, by path. Files of no known
// layout are left out.
func Of(files []File) map[string][]Tensor {
	sizes := map[string]int64{}
	for _, f := range files {
		sizes[f.Path] = f.Size
	}
	out := map[string][]Tensor{}
	for _, f := range files {
		here, elsewhere, err := read(f)
		if err != nil {
			continue // what cannot be read now is aligned by position, or fails later where it is needed
		}
		if len(here) > 0 {
			out[f.Path] = append(out[f.Path], here...)
		}
		for _, e := range elsewhere {
			p := path.Join(path.Dir(f.Path), e.location)
			size, ok := sizes[p]
			if e.Length < 0 {
				e.Length = size - e.Offset
			}
			if ok && fs.ValidPath(p) && e.Tensor.within(size) {
				out[p] = append(out[p], e.Tensor)
			}
		}
	}
	return out
}

// read tries the layouts that a file may have.
func read(f File) ([]Tensor, []external, error) {
	var head [9]byte
	if n, err := f.Content.ReadAt(head[:], 0); n < len(head) {
		return nil, nil, errors.Join(errUnknown, err)
	}
	var here []Tensor
	var elsewhere []external
	var err error
	switch {
	case string(head[:4]) == "GGUF":
		here, err = gguf(f.Content, f.Size)
	case string(head[:4]) == "PK\x03\x04":
		here, err = archive(f.Content, f.Size)
	case strings.EqualFold(path.Ext(f.Path), ".onnx"):
		here, elsewhere, err = onnx(f.Content, f.Size)
	case head[8] == '{':
		here, err = safetensors(f.Content, f.Size)
	default:
		err = errUnknown
	}
	if err != nil {
		return nil, nil, err
	}
	for _, t := range here {
		if !t.within(f.Size) {
			return nil, nil, errUnknown
		}
	}
	return here, elsewhere, nil
}

func (t Tensor) within(size int64) bool {
	return t.Offset >= 0 && t.Length > 0 && t.Length <= size && t.Offset <= size-t.Length
}

// toInt is an unsigned number of a file as an offset; false when no file is that long.
func toInt(v uint64) (int64, bool) { return int64(v), v <= math.MaxInt64 }
