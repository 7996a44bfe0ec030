package cas

import (
	"context"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Pin protects a release from collection under a name, durably. A name pins one
// release: pinning again moves it.
func (s *Store) Pin(name string, key fleet.Digest) error {
	if err := checkPin(name); err != nil {
		return err
	}
	return WriteFile(filepath.Join(s.dir, "pins", name), []byte(key.String()+"\n"), 0o644)
}

// Unpin removes a pin; one that is not there is no error.
func (s *Store) Unpin(name string) error {
	if err := checkPin(name); err != nil {
		return err
	}
	err := s.root.Remove(path.Join("pins", name))
	if err == nil || os.IsNotExist(err) {
		return nil
	}
	return Classify("unpin", name, err)
}

// Pins are all pins. A pin that cannot be read is an error, not a release that
// nobody wants.
func (s *Store) Pins() (map[string]fleet.Digest, error) {
	es, err := fs.ReadDir(s.root.FS(), "pins")
	if err != nil {
		return nil, Classify("list pins", s.dir, err)
	}
	pins := map[string]fleet.Digest{}
	for _, e := range es {
		if strings.HasPrefix(e.Name(), ".") {
			continue // a temporary file of a write that was cut short
		}
		b, err := s.root.ReadFile(path.Join("pins", e.Name()))
		if err != nil {
			return nil, Classify("read pin", e.Name(), err)
		}
		d, err := fleet.ParseDigest(strings.TrimSpace(string(b)))
		if err != nil {
			return nil, fault.New(fault.Internal, "read pin", e.Name(), err)
		}
		pins[e.Name()] = d
	}
	return pins, nil
}

func checkPin(name string) error {
	if name == "" || strings.HasPrefix(name, ".") || strings.ContainsAny(name, "/\\\x00") {
		return fault.Newf(fault.Invalid, "pin", name, "not a pin name")
	}
	return nil
}

// Hold keeps the files an install counts on, and its staging folder, from
// collection until the function returned is called.
func (s *Store) Hold(key fleet.Digest, files []fleet.Digest) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[key]++ // keys and files are digests of different things: they cannot clash
	for _, d := range files {
		s.held[d]++
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, d := range append([]fleet.Digest{key}, files...) {
			if s.held[d]--; s.held[d] == 0 {
				delete(s.held, d)
			}
		}
	}
}

// Collected is what a collection freed.
type Collected struct {
	Releases int
	Files    int
	Bytes    int64
}

// Collect removes every release that is neither pinned nor in keep, then every
// file that no release links and no install holds, and the leftovers of
// installs of releases not in keep. Releases go before files, so a crash at any
// point leaves garbage and never a release with a hole in it.
func (s *Store) Collect(ctx context.Context, keep ...fleet.Digest) (Collected, error) {
	var got Collected
	pins, err := s.Pins()
	if err != nil {
		return got, err
	}
	for _, d := range pins {
		keep = append(keep, d)
	}
	roots, err := s.Releases()
	if err != nil {
		return got, err
	}
	for _, r := range roots {
		if err := ctx.Err(); err != nil {
			return got, err
		}
		if slices.Contains(keep, r) {
			continue
		}
		// It leaves its name whole, by one rename, and is removed as staging is: a
		// crash in the middle of a removal must not leave half a release visible.
		gone := path.Join("staging", r.String()+".gone")
		if err := s.root.RemoveAll(gone); err != nil {
			return got, Classify("collect release", r.Short(), err)
		}
		if err := s.root.Rename(path.Join("releases", r.String()), gone); err != nil {
			return got, Classify("collect release", r.Short(), err)
		}
		got.Releases++
	}
	// Where they went first: that they are gone must not be known without it.
	for _, d := range []string{"staging", "releases"} {
		if err := SyncDir(filepath.Join(s.dir, d)); err != nil {
			return got, Classify("collect", s.dir, err)
		}
	}
	if err := s.collectStaging(keep); err != nil {
		return got, err
	}
	err = s.collectFiles(ctx, &got)
	return got, err
}

func (s *Store) collectStaging(keep []fleet.Digest) error {
	es, err := fs.ReadDir(s.root.FS(), "staging")
	if err != nil {
		return Classify("collect staging", s.dir, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range es {
		if d, err := fleet.ParseDigest(e.Name()); err == nil && (slices.Contains(keep, d) || s.held[d] > 0) {
			continue
		}
		if err := s.root.RemoveAll(path.Join("staging", e.Name())); err != nil {
			return Classify("collect staging", e.Name(), err)
		}
	}
	return nil
}

// collectFiles removes files whose only name is the one in the store.
func (s *Store) collectFiles(ctx context.Context, got *Collected) error {
	files, err := s.Files()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		fi, err := s.root.Lstat(filePath(d))
		if err != nil {
			return Classify("collect file", d.Short(), err)
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok || st.Nlink > 1 || s.held[d] > 0 {
			continue
		}
		if err := s.root.Remove(filePath(d)); err != nil {
			return Classify("collect file", d.Short(), err)
		}
		if err := s.root.Remove(filePath(d) + framesSuffix); err != nil && !os.IsNotExist(err) {
			return Classify("collect file", d.Short(), err)
		}
		got.Files++
		got.Bytes += fi.Size()
	}
	return nil
}
