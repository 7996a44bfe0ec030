package slot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Options says where the links are. Dir must be given.
type Options struct {
	Dir string // absolute; made when missing
	// Failpoint, when not nil, is called before each step of a switch with its
	// name; an error stops the switch there, as a crash would. For tests.
	Failpoint func(step string) error
}

// Slots are the current and previous links of all models. Its methods may be
// used by many goroutines at once; one process owns the folder.
type Slots struct {
	o  Options
	mu sync.Mutex
}

// The links of a model. pending is previous-to-be while a switch is under way;
// the temporary names are never read.
const (
	current  = "current"
	previous = "previous"
	pending  = ".pending"
)

// Open opens the links and finishes, or takes back, each switch that a crash
// cut short.
func Open(o Options) (*Slots, error) {
	if !filepath.IsAbs(o.Dir) {
		return nil, fault.Newf(fault.Invalid, "open slots", o.Dir, "not an absolute path")
	}
	if err := cas.MkdirAll(o.Dir); err != nil {
		return nil, err
	}
	s := &Slots{o: o}
	models, err := s.Models()
	if err != nil {
		return nil, err
	}
	for _, m := range models {
		// A read-only disk is served as it is; the next switch settles it.
		if err := s.recover(m); err != nil && !errors.Is(err, syscall.EROFS) {
			return nil, err
		}
		if err := cas.Settle(filepath.Join(o.Dir, string(m))); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Models lists the models that have a folder here, sorted.
func (s *Slots) Models() ([]fleet.ModelName, error) {
	es, err := os.ReadDir(s.o.Dir)
	if err != nil {
		return nil, cas.Classify("list slots", s.o.Dir, err)
	}
	var ms []fleet.ModelName
	for _, e := range es {
		if m, err := fleet.ParseModelName(e.Name()); err == nil && e.IsDir() {
			ms = append(ms, m)
		}
	}
	return ms, nil
}

// Path is the link applications open.
func (s *Slots) Path(m fleet.ModelName) string { return filepath.Join(s.o.Dir, string(m), current) }

// Current is the release folder that is current, or "" when there is none.
func (s *Slots) Current(m fleet.ModelName) (string, error) { return s.read(m, current) }

// Previous is the release folder that was current before, or "".
func (s *Slots) Previous(m fleet.ModelName) (string, error) { return s.read(m, previous) }

// Switch makes the folder release current and keeps what was current as
// previous. Switching to what is current does nothing. When it fails, or the
// machine does, the old release is current or the new one, and opening the
// slots again settles previous.
func (s *Slots) Switch(m fleet.ModelName, release string) error {
	if fi, err := os.Stat(release); err != nil || !fi.IsDir() || !filepath.IsAbs(release) {
		return fault.New(fault.NotFound, "switch "+string(m), release, err).
			WithHint("install the release before it is switched to")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.recover(m); err != nil {
		return err
	}
	was, err := s.read(m, current)
	if err != nil {
		return err
	}
	dir := filepath.Join(s.o.Dir, string(m))
	if was == filepath.Clean(release) {
		// It may be so by a switch whose sync failed.
		return cas.Classify("switch "+string(m), dir, cas.SyncDir(dir))
	}
	if err := s.step("make folder"); err != nil {
		return err
	}
	if err := cas.MkdirAll(dir); err != nil {
		return err
	}
	if was != "" {
		// What will be previous is written down before current moves: a crash
		// between the two finds both names.
		if err := s.link(m, pending, was); err != nil {
			return err
		}
	}
	if err := s.link(m, current, release); err != nil {
		return err
	}
	return s.recover(m)
}

// Remove takes a model's links away. The releases stay until they are collected.
func (s *Slots) Remove(m fleet.ModelName) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	// current first: there is never a previous of nothing.
	for _, name := range []string{current, pending, previous} {
		if err := s.step("remove " + name); err != nil {
			return err
		}
		if err := s.remove(m, name); err != nil {
			return err
		}
	}
	return nil
}

// Forget takes the previous link away unless it leads to a release that stays:
// what it leads to is about to be collected.
func (s *Slots) Forget(m fleet.ModelName, stays func(release string) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	was, err := s.read(m, previous)
	if err != nil || was == "" || stays(was) {
		return err
	}
	if err := s.step("remove " + previous); err != nil {
		return err
	}
	return s.remove(m, previous)
}

// recover settles previous after a switch, whole or cut short: when current is
// still what pending names, the switch did not happen.
func (s *Slots) recover(m fleet.ModelName) error {
	p, err := s.read(m, pending)
	if err != nil || p == "" {
		return err
	}
	c, err := s.read(m, current)
	if err != nil {
		return err
	}
	if c == p {
		return s.remove(m, pending)
	}
	if err := s.step("settle previous"); err != nil {
		return err
	}
	dir := filepath.Join(s.o.Dir, string(m))
	return cas.Classify("settle slot", dir, cas.Publish(filepath.Join(dir, pending), filepath.Join(dir, previous)))
}

// link points a model's link at a folder by one rename.
func (s *Slots) link(m fleet.ModelName, name, target string) error {
	dir := filepath.Join(s.o.Dir, string(m))
	if rel, err := filepath.Rel(dir, target); err == nil {
		target = rel // survives a state folder that is mounted elsewhere
	}
	if err := s.step("link " + name); err != nil {
		return err
	}
	tmp := filepath.Join(dir, "."+name+".tmp")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return cas.Classify("link slot", tmp, err)
	}
	if err := os.Symlink(target, tmp); err != nil {
		return cas.Classify("link slot", tmp, err)
	}
	if err := s.step("rename " + name); err != nil {
		return err
	}
	return cas.Classify("link slot", dir, cas.Publish(tmp, filepath.Join(dir, name)))
}

func (s *Slots) remove(m fleet.ModelName, name string) error {
	dir := filepath.Join(s.o.Dir, string(m))
	err := os.Remove(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = cas.SyncDir(dir)
	}
	return cas.Classify("remove slot", dir, err)
}

func (s *Slots) read(m fleet.ModelName, name string) (string, error) {
	dir := filepath.Join(s.o.Dir, string(m))
	to, err := os.Readlink(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", cas.Classify("read slot", filepath.Join(dir, name), err)
	}
	if !filepath.IsAbs(to) {
		to = filepath.Join(dir, to)
	}
	return filepath.Clean(to), nil
}

func (s *Slots) step(name string) error {
	if s.o.Failpoint == nil {
		return nil
	}
	return s.o.Failpoint(name)
}
