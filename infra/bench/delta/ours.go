package delta

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/modelfleet/modelfleet/coordinator/cli/layout"
	"github.com/modelfleet/modelfleet/infra/bench/delta/codec"
	"github.com/modelfleet/modelfleet/infra/bench/process"
	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
)

// object is one published object: its bytes, its index's bytes, and where the
// two lie.
type object struct {
	size        int64 // with the index
	path, index string
}

// publisher puts files into a bucket as `modelfleet publish` does.
type publisher struct {
	root  string
	store *dir.Store
}

func newPublisher(root string) (*publisher, error) {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	st, err := dir.Open(root)
	return &publisher{root: root, store: st}, err
}

// full publishes a model file that lies alone in its folder, and returns the
// smallest object of it.
func (p *publisher) full(ctx context.Context, path string) (artifact.File, object, error) {
	man, err := oms.Hash(ctx, filepath.Dir(path), oms.Options{Method: oms.Shards})
	if err != nil {
		return artifact.File{}, object{}, err
	}
	fs, err := artifact.FilesOf(man)
	if err != nil {
		return artifact.File{}, object{}, err
	}
	if _, err := artifact.Upload(ctx, p.store, filepath.Dir(path), fs, artifact.UploadOptions{}); err != nil {
		return artifact.File{}, object{}, err
	}
	o, err := p.object(artifact.FullKey(fs[0].Digest))
	if errors.Is(err, os.ErrNotExist) {
		o, err = p.object(artifact.RawKey(fs[0].Digest))
	}
	return fs[0], o, err
}

// delta publishes the difference of two files that are published. It is kept
// only when it is worth it.
func (p *publisher) delta(ctx context.Context, next, base artifact.File, nextPath, basePath string) (o object, kept bool, err error) {
	fn, err := os.Open(nextPath)
	if err != nil {
		return o, false, err
	}
	defer fn.Close()
	fb, err := os.Open(basePath)
	if err != nil {
		return o, false, err
	}
	defer fb.Close()
	tensors := func(f artifact.File, r *os.File) []layout.Tensor {
		return layout.Of([]layout.File{{Path: f.Path, Size: f.Size, Content: r}})[f.Path]
	}
	stats, err := artifact.UploadDelta(ctx, p.store, artifact.DeltaJob{File: next, Base: base, New: fn, Old: fb,
		Regions: layout.Regions(tensors(next, fn), tensors(base, fb), next.Size, base.Size)}, artifact.DeltaOptions{})
	if err != nil || !stats.Kept {
		return o, false, err
	}
	o, err = p.object(artifact.DeltaKey(next.Digest, base.Digest))
	return o, true, err
}

func (p *publisher) object(key string) (object, error) {
	o := object{path: filepath.Join(p.root, key), index: filepath.Join(p.root, artifact.IndexKey(key))}
	for _, path := range []string{o.path, o.index} {
		info, err := os.Stat(path)
		if err != nil {
			return o, err
		}
		o.size += info.Size()
	}
	return o, nil
}

// measure runs the codec over an object, in a process of its own: "encode" or
// "decode". Decoding compares with the file.
func (o object) measure(ctx context.Context, program, verb, next, base string) (s speed, err error) {
	cmd := exec.CommandContext(ctx, program, verb, o.index, o.path, next, base)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	r, out, err := process.Measure(cmd)
	if err != nil {
		return s, err
	}
	var c codec.Speed
	if err := json.Unmarshal(out, &c); err != nil {
		return s, fmt.Errorf("read what the codec program says: %w", err)
	}
	return speed{c.MBps, r.RSS}, nil
}

// step runs one step of a tool on so many bytes; its speed counts CPU time,
// so it is per core.
func step(ctx context.Context, program string, args []string, size int) (speed, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	r, _, err := process.Measure(cmd)
	return speed{float64(size) / 1e6 / max(r.CPU, 1e-3), r.RSS}, err
}
