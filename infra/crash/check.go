package crash

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Check looks at a whole state folder as a machine finds it when it comes up,
// before any agent runs, and returns everything that is wrong. Serving lists the
// releases that applications may be given; they must be given one of them. The zero
// Release among them stands for none, on a device that has just enrolled: then what
// it has not written yet may be missing.
//
// It reads the bytes of docs/formats/disk.md itself instead of asking the packages
// that wrote them.
func (w *World) Check(state string, serving ...Release) error {
	c := newCheck(w, state, serving)
	c.memory(c.visible(serving))
	c.pack()
	return errors.Join(c.wrong...)
}

// CheckVisible looks at what applications and installs see, and at nothing else.
func (w *World) CheckVisible(state string, serving ...Release) error {
	c := newCheck(w, state, serving)
	c.visible(serving)
	return errors.Join(c.wrong...)
}

// visible looks at the store and the links and returns what is served.
func (c *check) visible(serving []Release) fleet.Digest {
	c.files()
	c.releases()
	c.pins()
	return c.links(serving)
}

type check struct {
	w     *World
	state string
	fresh bool                // nothing need be there yet
	sums  map[uint64][32]byte // by inode: releases are links
	wrong []error
}

func newCheck(w *World, state string, serving []Release) *check {
	fresh := slices.ContainsFunc(serving, func(r Release) bool { return r.Key.IsZero() })
	return &check{w: w, state: state, fresh: fresh, sums: map[uint64][32]byte{}}
}

// excused reports whether an error is that of something not written yet.
func (c *check) excused(err error) bool { return c.fresh && errors.Is(err, fs.ErrNotExist) }

func (c *check) bad(format string, args ...any) {
	c.wrong = append(c.wrong, fmt.Errorf(format, args...))
}

func (c *check) path(parts ...string) string {
	return filepath.Join(append([]string{c.state}, parts...)...)
}

// sum is the SHA-256 of a regular file.
func (c *check) sum(path string) ([32]byte, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return [32]byte{}, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || !fi.Mode().IsRegular() {
		return [32]byte{}, fmt.Errorf("it is a %s", fi.Mode())
	}
	if sum, known := c.sums[st.Ino]; known {
		return sum, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return [32]byte{}, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return [32]byte{}, err
	}
	c.sums[st.Ino] = [32]byte(h.Sum(nil))
	return c.sums[st.Ino], nil
}

// files: each is what its name says, and so are its frames.
func (c *check) files() {
	known := map[fleet.Digest][32]byte{}
	for _, r := range c.w.Releases {
		files, err := artifact.FilesOf(r.Manifest)
		if err != nil {
			c.bad("manifest: %w", err)
			return
		}
		for _, f := range files {
			known[f.Digest] = r.Sums[f.Path]
		}
	}
	names, err := filepath.Glob(c.path("store", "files", "??", "*"))
	if err != nil {
		c.bad("list files: %w", err)
	}
	for _, name := range names {
		base := filepath.Base(name)
		if strings.HasPrefix(base, ".") || strings.HasSuffix(base, ".frames") {
			continue
		}
		d, err := fleet.ParseDigest(base)
		want, ours := known[d]
		if err != nil || !ours {
			c.bad("a file that nobody signed is visible: %s", name)
			continue
		}
		if got, err := c.sum(name); err != nil || got != want {
			c.bad("a file is visible and not what its name says: %s: %v", name, err)
		}
	}
}

// releases: what is visible is exactly what was signed.
func (c *check) releases() {
	es, err := os.ReadDir(c.path("store", "releases"))
	if err != nil && !c.excused(err) {
		c.bad("list releases: %w", err)
	}
	for _, e := range es {
		i := slices.IndexFunc(c.w.Releases, func(r Release) bool { return r.Key.String() == e.Name() })
		if i < 0 {
			c.bad("a release that nobody signed is visible: %s", e.Name())
			continue
		}
		c.release(c.w.Releases[i])
	}
}

func (c *check) release(r Release) {
	folder := c.path("store", "releases", r.Key.String())
	seen := 0
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		seen++
		name, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		want, signed := r.Sums[filepath.ToSlash(name)]
		if got, err := c.sum(path); !signed || err != nil || got != want {
			c.bad("%s is visible with %s, which is not what was signed: %v", r.Ref(), name, err)
		}
		return nil
	})
	if err != nil || seen != len(r.Sums) {
		c.bad("%s is visible with %d of its %d files: %v", r.Ref(), seen, len(r.Sums), err)
	}
}

// links: current leads to one of the releases that may be served, previous, if
// there is one, to one that is here. It returns the release that is served.
func (c *check) links(serving []Release) (now fleet.Digest) {
	dir := c.path("models", string(Model))
	for _, name := range []string{"current", "previous"} {
		to, err := os.Readlink(filepath.Join(dir, name))
		if err != nil {
			if name == "current" && !c.excused(err) || !errors.Is(err, fs.ErrNotExist) {
				c.bad("%s: %w", name, err)
			}
			continue
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(dir, to)
		}
		if fi, err := os.Stat(to); err != nil || !fi.IsDir() || filepath.Dir(to) != c.path("store", "releases") {
			c.bad("%s leads to no release: %s: %v", name, to, err)
			continue
		}
		key, err := fleet.ParseDigest(filepath.Base(to))
		if err != nil {
			c.bad("%s: %w", name, err)
		}
		if name == "current" {
			now = key
			if !slices.ContainsFunc(serving, func(r Release) bool { return r.Key == key }) {
				c.bad("current is %s, which nobody asked for", key.Short())
			}
		}
	}
	return now
}

// memory: both files are readable, the copy is not older, and a release that
// is served was written down before it was switched to.
func (c *check) memory(now fleet.Digest) {
	spare, err := readMemory(c.path("state.json.copy"))
	if err != nil && !c.excused(err) {
		c.bad("copy of the state: %w", err)
		return
	}
	main, err := readMemory(c.path("state.json"))
	if c.excused(err) {
		main, err = spare, nil
	}
	if err != nil {
		c.bad("state: %w", err)
		return
	}
	if spare.Epoch < main.Epoch {
		c.bad("the state is of start %d, its copy of start %d", main.Epoch, spare.Epoch)
	}
	if s := main.Models[Model]; !now.IsZero() && s.Running.Bundle != now && s.Target.Bundle != now && s.Fallback.Bundle != now {
		c.bad("%s is served, and the state does not know of it: it is %s with %s", now.Short(), s.Phase, s.Running.Ref)
	}
}

// memory is what the check reads of state.json.
type memory struct {
	Epoch  uint64                           `json:"epoch"`
	Models map[fleet.ModelName]update.State `json:"models"`
}

func readMemory(path string) (m memory, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return m, err
	}
	line, sum, _ := bytes.Cut(data, []byte("\n"))
	if string(sum) != fleet.DigestOf(line).String()+"\n" {
		return m, fmt.Errorf("%s is torn", path)
	}
	return m, json.Unmarshal(line, &m)
}

// pins: each can be read.
func (c *check) pins() {
	es, err := os.ReadDir(c.path("store", "pins"))
	if err != nil && !c.excused(err) {
		c.bad("list pins: %w", err)
	}
	for _, e := range es {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		data, err := os.ReadFile(c.path("store", "pins", e.Name()))
		if err == nil {
			_, err = fleet.ParseDigest(strings.TrimSpace(string(data)))
		}
		if err != nil {
			c.bad("pin: %w", err)
		}
	}
}

// pack: it is one of those that were signed, whole.
func (c *check) pack() {
	got, err := os.ReadFile(c.path("pack.zst"))
	if c.excused(err) {
		return
	}
	if err != nil {
		c.bad("pack: %w", err)
		return
	}
	for _, r := range c.w.Releases {
		if want, err := os.ReadFile(r.Pack); err == nil && bytes.Equal(got, want) {
			return
		}
	}
	c.bad("the pack is none of those that were signed")
}
