package weights

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
)

// revision is part of the cache's key: another one when the same settings give
// other weights.
const revision = 1

// Set is the base and its cases, trained.
type Set struct{ models map[string]Model }

// Model is the base or a case by its name; nil when there is none.
func (s *Set) Model(name string) Model { return s.models[name] }

// Load reads the set of these settings from the user's cache, or trains it and
// keeps it there. logf is told what takes long.
func Load(ctx context.Context, s Settings, logf func(string, ...any)) (*Set, error) {
	dir, err := cacheDir(s)
	if err != nil {
		return nil, err
	}
	models, err := read(dir, s)
	switch {
	case err == nil:
		return &Set{models}, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	logf("training %d models, once; they are kept in %s", len(Cases())+1, dir)
	if models, err = trainAll(ctx, s, logf); err != nil {
		return nil, err
	}
	return &Set{models}, write(dir, models)
}

func cacheDir(s Settings) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the user's cache: %w", err)
	}
	text, err := json.Marshal(s)
	if err != nil {
		return "", err
	}
	key := sha256.Sum256(fmt.Appendf(text, "revision %d", revision))
	return filepath.Join(cache, "modelfleet", fmt.Sprintf("weights-%x", key[:8])), nil
}

// shape is a model with tensors of the right sizes, to be filled.
func shape(s Settings, name string) Model {
	n := newNet(s, s.Seed)
	if name == Adapter {
		return adapter(n.addLowRank(s.Seed))
	}
	return n.model()
}

func read(dir string, s Settings) (map[string]Model, error) {
	models := map[string]Model{}
	for _, name := range append(Cases(), Base) {
		data, err := os.ReadFile(filepath.Join(dir, name+".bin"))
		if err != nil {
			return nil, fmt.Errorf("read trained weights: %w", err)
		}
		m := shape(s, name)
		if len(data) != 4*m.Parameters() {
			return nil, fmt.Errorf("read trained weights: %s is not of its size: remove %s", name, dir)
		}
		for _, t := range m {
			for i := range t.Data {
				t.Data[i] = math.Float32frombits(binary.LittleEndian.Uint32(data))
				data = data[4:]
			}
		}
		models[name] = m
	}
	return models, nil
}

// write fills a folder beside dir and renames it: a cache is whole or not there.
func write(dir string, models map[string]Model) (err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("keep trained weights: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "weights-tmp-")
	if err != nil {
		return fmt.Errorf("keep trained weights: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	for name, m := range models {
		var data []byte
		for _, t := range m {
			data = appendF32(data, t.Data)
		}
		if err := os.WriteFile(filepath.Join(tmp, name+".bin"), data, 0o644); err != nil {
			return fmt.Errorf("keep trained weights: %w", err)
		}
	}
	return os.Rename(tmp, dir)
}
