package layout

import (
	"archive/zip"
	"io"
)

// archive reads a zip file whose entries are stored as they are, as PyTorch and
// NumPy write them.
func archive(src io.ReaderAt, size int64) ([]Tensor, error) {
	z, err := zip.NewReader(src, size)
	if err != nil || len(z.File) > maxTensors {
		return nil, errUnknown
	}
	var out []Tensor
	for _, f := range z.File {
		length, ok := toInt(f.CompressedSize64)
		if f.Method != zip.Store || !ok || length == 0 {
			continue
		}
		at, err := f.DataOffset()
		if err != nil {
			return nil, errUnknown
		}
		out = append(out, Tensor{Name: f.Name, Offset: at, Length: length})
	}
	return out, nil
}
