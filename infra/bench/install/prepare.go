package install

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
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

// build compiles a main package of the repository.
func build(ctx context.Context, root, out, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", out, pkg)
	cmd.Dir = root
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", pkg, err, msg)
	}
	return nil
}

// s5cmd finds the anchor, or builds it once into the user's cache. It is built
// in a module of its own: nothing of it becomes part of ours.
func s5cmd(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "modelfleet", "s5cmd-"+s5cmdVersion)
	exe := filepath.Join(dir, "s5cmd")
	if _, err := os.Stat(exe); err == nil {
		return exe, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	mod := "module anchor\n\ngo 1.26.0\n\nrequire github.com/peak/s5cmd/v2 " + s5cmdVersion + "\n"
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(mod), 0o644); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", exe, "github.com/peak/s5cmd/v2")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build it: %w: %s", err, msg)
	}
	return exe, nil
}
