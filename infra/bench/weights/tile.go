package weights

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// WriteTiledFile is [WriteTiled] to a file, whose folder is made.
func WriteTiledFile(path string, m Model, size int64) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(WriteTiled(f, m, size), f.Close())
}

// WriteTiled writes a bfloat16 safetensors file of size bytes, short of a row:
// the model over and over, each time with the rows and columns of every tensor
// in another order, so that nothing in it repeats. The order depends on the
// place only: two models of one shape correspond as their tiles do.
func WriteTiled(w io.Writer, m Model, size int64) error {
	var entries []entry
	var tiles []Tensor // the data is shared
	for left, k := size, 0; left > 0; k++ {
		for _, t := range m {
			row := int64(2 * t.Cols)
			t.Name = fmt.Sprintf("tiles.%d.%s", k, t.Name)
			if t.Rows = int(min(int64(t.Rows), left/row)); t.Rows == 0 {
				left = 0
				break
			}
			left -= row * int64(t.Rows)
			tiles = append(tiles, t)
			entries = append(entries, entry{t.Name, "BF16", t.shape(), int(row) * t.Rows})
		}
	}
	header, err := safetensorsHeader(entries)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(w, 1<<20)
	if _, err := out.Write(header); err != nil {
		return err
	}
	for i, t := range tiles {
		rng := rand.New(rand.NewPCG(uint64(i), 6))
		rows, cols := rng.Perm(len(t.Data) / t.Cols)[:t.Rows], rng.Perm(t.Cols)
		line := make([]byte, 0, 2*t.Cols)
		for _, r := range rows {
			line = line[:0]
			row := t.Data[r*t.Cols : (r+1)*t.Cols]
			for _, c := range cols {
				line = binary.LittleEndian.AppendUint16(line, bf16(row[c]))
			}
			if _, err := out.Write(line); err != nil {
				return err
			}
		}
	}
	return out.Flush()
}
