package install

import (
	"bufio"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// writeModel makes a folder with one file of bfloat16 weights, normally
// distributed: what a trained layer's bytes look like to a compressor.
func writeModel(dir string, mib int) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, "weights.bin"))
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	rng := rand.New(rand.NewPCG(1, 2))
	var two [2]byte
	for range mib << 19 {
		binary.LittleEndian.PutUint16(two[:], uint16(math.Float32bits(float32(rng.NormFloat64()*0.02))>>16))
		if _, err := w.Write(two[:]); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(w.Flush(), f.Close())
}
