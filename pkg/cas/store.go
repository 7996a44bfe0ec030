package cas

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Store is a content-addressed store in one folder. It may be used by many
// goroutines of one process; two processes must not share it.
type Store struct {
	dir  string
	root *os.Root

	mu   sync.Mutex
	held map[fleet.Digest]int // files that installs under way count on, and their keys
}

// Entry is one file of a release: where it lies in the folder, and its content.
type Entry struct {
	Path   string // slash-separated, relative
	Digest fleet.Digest
	Size   int64
}

// Open opens the store in dir, an absolute path, and makes it when it is missing.
func Open(dir string) (*Store, error) {
	if !filepath.IsAbs(dir) {
		return nil, fault.Newf(fault.Invalid, "open store", dir, "not an absolute path")
	}
	if err := MkdirAll(dir); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, Classify("open store", dir, err)
	}
	for _, d := range []string{"files", "releases", "staging", "pins"} {
		if fi, err := root.Stat(d); err == nil && fi.IsDir() {
			continue
		}
		if err := root.Mkdir(d, 0o755); err != nil {
			return nil, Classify("open store", dir, errors.Join(err, root.Close()))
		}
	}
	for _, d := range []string{"", "files", "releases", "pins"} {
		if err := Settle(filepath.Join(dir, d)); err != nil {
			return nil, errors.Join(err, root.Close())
		}
	}
	s := &Store{dir: dir, root: root, held: map[fleet.Digest]int{}}
	if err := s.tidy(); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return s, nil
}

// tidy removes what a process that was killed left beside pins and files.
func (s *Store) tidy() error {
	dirs, err := filepath.Glob(filepath.Join(s.dir, "files", "??"))
	if err != nil {
		return Classify("open store", s.dir, err)
	}
	for _, dir := range append(dirs, filepath.Join(s.dir, "pins")) {
		if err := Sweep(dir); err != nil {
			return err
		}
	}
	orphans, err := fs.Glob(s.root.FS(), "files/??/*"+framesSuffix)
	if err != nil {
		return Classify("open store", s.dir, err)
	}
	for _, o := range orphans {
		if _, err := s.root.Lstat(strings.TrimSuffix(o, framesSuffix)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := s.root.Remove(o); err != nil && !errors.Is(err, syscall.EROFS) {
			return Classify("open store", o, err)
		}
	}
	return nil
}

// Close releases the store's folder handle.
func (s *Store) Close() error { return s.root.Close() }

// Dir is the store's folder.
func (s *Store) Dir() string { return s.dir }

func filePath(d fleet.Digest) string {
	h := d.String()
	return path.Join("files", h[:2], h)
}

// FilePath is where the file with a digest lies, or would lie.
func (s *Store) FilePath(d fleet.Digest) string { return filepath.Join(s.dir, filePath(d)) }

// FileSize is the size of a file; ok is false when the store does not have it.
func (s *Store) FileSize(d fleet.Digest) (size int64, ok bool) {
	fi, err := s.root.Stat(filePath(d))
	if err != nil || !fi.Mode().IsRegular() {
		return 0, false
	}
	return fi.Size(), true
}

// Frames are the digests of a file's frames and the frames' length, as they
// were when it was adopted. They say where bytes may be copied from; whoever
// copies verifies again.
func (s *Store) Frames(d fleet.Digest) (Frames, bool) {
	b, err := s.root.ReadFile(filePath(d) + framesSuffix)
	if err != nil {
		return Frames{}, false
	}
	f, err := decodeFrames(b)
	return f, err == nil
}

// Files lists the digests of all files, sorted.
func (s *Store) Files() ([]fleet.Digest, error) {
	names, err := fs.Glob(s.root.FS(), "files/??/*")
	if err != nil {
		return nil, Classify("list files", s.dir, err)
	}
	var ds []fleet.Digest
	for _, n := range names {
		if d, err := fleet.ParseDigest(path.Base(n)); err == nil {
			ds = append(ds, d)
		}
	}
	return ds, nil
}

// Adopt takes a verified file into the store by renaming it. It must lie in the
// store's file system, hold exactly the content of digest d, and be synced.
// Adopting what is there already removes the newcomer.
func (s *Store) Adopt(tmp string, d fleet.Digest, frames Frames) error {
	final := s.FilePath(d)
	if _, ok := s.FileSize(d); ok {
		return Classify("adopt file", d.String(), os.Remove(tmp))
	}
	if err := os.Chmod(tmp, 0o444); err != nil {
		return Classify("adopt file", d.String(), err)
	}
	if err := MkdirAll(filepath.Dir(final)); err != nil {
		return err
	}
	if !frames.trivial(d) {
		// Where the frames are unknown a file cannot be verified, nor be copied from:
		// they are there before it is. The folder's sync below holds both names.
		if err := writeRenamed(final+framesSuffix, frames.encode(), 0o644); err != nil {
			return Classify("adopt file", d.String(), err)
		}
	}
	return Classify("adopt file", d.String(), Publish(tmp, final))
}

// Discard takes a file that turned out to be damaged out of the store; releases
// that link it keep the damaged bytes until they are assembled anew. It goes to
// [DamagedPath] in the staging folder of the release with the given key, so
// that its good frames can still be copied.
func (s *Store) Discard(d, key fleet.Digest) error {
	to, err := s.Stage(key)
	if err != nil {
		return err
	}
	from := s.FilePath(d)
	if err := Publish(from, DamagedPath(to, d)); err != nil {
		return Classify("discard file", d.String(), err)
	}
	return Classify("discard file", d.String(), SyncDir(filepath.Dir(from)))
}

// DamagedPath is where a discarded file lies in a staging folder.
func DamagedPath(staging string, d fleet.Digest) string {
	return filepath.Join(staging, d.String()+".damaged")
}

// StagingDir is the folder of an install under way. It may be absent.
func (s *Store) StagingDir(key fleet.Digest) string {
	return filepath.Join(s.dir, "staging", key.String())
}

// Stage makes the folder of an install. Nothing in it need survive a power cut.
func (s *Store) Stage(key fleet.Digest) (string, error) {
	err := s.root.MkdirAll(path.Join("staging", key.String()), 0o755)
	return s.StagingDir(key), Classify("stage", key.Short(), err)
}

// DropStaging removes what is left of an install.
func (s *Store) DropStaging(key fleet.Digest) error {
	return Classify("drop staging", key.Short(), s.root.RemoveAll(path.Join("staging", key.String())))
}

// ReleaseDir is the folder of a release. It is visible only when whole.
func (s *Store) ReleaseDir(key fleet.Digest) string {
	return filepath.Join(s.dir, "releases", key.String())
}

// HasRelease reports whether a release is here, whole.
func (s *Store) HasRelease(key fleet.Digest) bool {
	fi, err := s.root.Stat(path.Join("releases", key.String()))
	return err == nil && fi.IsDir()
}

// Releases lists the keys of all releases here, sorted.
func (s *Store) Releases() ([]fleet.Digest, error) {
	es, err := fs.ReadDir(s.root.FS(), "releases")
	if err != nil {
		return nil, Classify("list releases", s.dir, err)
	}
	var ds []fleet.Digest
	for _, e := range es {
		if d, err := fleet.ParseDigest(e.Name()); err == nil {
			ds = append(ds, d)
		}
	}
	return ds, nil
}

// Assemble makes a release visible: a folder of hard links to files that were
// adopted, built aside, synced and renamed into place. When the release is
// there already it is exchanged only if it is not exactly these files (it was
// damaged); otherwise nothing happens. It returns the folder.
func (s *Store) Assemble(key fleet.Digest, entries []Entry) (string, error) {
	final := s.ReleaseDir(key)
	if err := s.settleNames(entries); err != nil {
		return "", Classify("assemble release", key.Short(), err)
	}
	if s.intact(key, entries) {
		// A rename whose sync failed, or was cut short, may have made it visible.
		return final, Classify("assemble release", key.Short(), SyncDir(filepath.Dir(final)))
	}
	tree := path.Join("staging", key.String(), "tree")
	if err := s.root.RemoveAll(tree); err != nil {
		return "", Classify("assemble release", key.Short(), err)
	}
	if err := s.root.MkdirAll(tree, 0o755); err != nil {
		return "", Classify("assemble release", key.Short(), err)
	}
	if err := s.link(tree, entries); err != nil {
		return "", Classify("assemble release", key.Short(), err)
	}
	if s.HasRelease(key) { // damaged: exchanged in one step, applications may be looking
		if err := exchange(filepath.Join(s.dir, tree), final); err != nil {
			return "", Classify("assemble release", key.Short(), err)
		}
		return final, Classify("assemble release", key.Short(), s.root.RemoveAll(tree))
	}
	if err := Publish(filepath.Join(s.dir, tree), final); err != nil {
		return "", Classify("assemble release", key.Short(), err)
	}
	return final, nil
}

// settleNames makes the names of a release's files durable. They are already, but for
// those that a process which was killed adopted and did not come to sync.
func (s *Store) settleNames(entries []Entry) error {
	var synced []string
	for _, e := range entries {
		dir := filepath.Dir(s.FilePath(e.Digest))
		if slices.Contains(synced, dir) {
			continue
		}
		if err := SyncDir(dir); err != nil {
			return err
		}
		synced = append(synced, dir)
	}
	return nil
}

// link fills tree with hard links and syncs every folder in it. Paths come from
// a publisher: they are local by check, and the store's os.Root holds them.
func (s *Store) link(tree string, entries []Entry) error {
	dirs := []string{tree}
	for _, e := range entries {
		if !fs.ValidPath(e.Path) || e.Path == "." || !filepath.IsLocal(filepath.FromSlash(e.Path)) {
			return fault.Newf(fault.Untrusted, "assemble release", e.Path, "a path that leaves the folder")
		}
		to := path.Join(tree, e.Path)
		for d := path.Dir(to); d != tree && !slices.Contains(dirs, d); d = path.Dir(d) {
			dirs = append(dirs, d)
		}
		if err := s.root.MkdirAll(path.Dir(to), 0o755); err != nil {
			return err
		}
		err := s.root.Link(filePath(e.Digest), to)
		if errors.Is(err, errors.ErrUnsupported) {
			return fault.New(fault.Invalid, "assemble release", s.dir, err).
				WithHint("keep the store on a file system with hard links, such as ext4, xfs or btrfs")
		}
		if err != nil {
			return err
		}
	}
	for _, d := range dirs {
		if err := SyncDir(filepath.Join(s.dir, d)); err != nil {
			return err
		}
	}
	return nil
}

// intact reports whether a release's folder holds exactly the entries, as links
// to the files of the store.
func (s *Store) intact(key fleet.Digest, entries []Entry) bool {
	dir := path.Join("releases", key.String())
	if !s.HasRelease(key) {
		return false
	}
	seen := 0
	err := fs.WalkDir(s.root.FS(), dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			seen++
		}
		return err
	})
	if err != nil || seen != len(entries) {
		return false
	}
	for _, e := range entries {
		a, err := s.root.Lstat(path.Join(dir, e.Path))
		if err != nil {
			return false
		}
		b, err := s.root.Lstat(filePath(e.Digest))
		if err != nil || !os.SameFile(a, b) {
			return false
		}
	}
	return true
}
