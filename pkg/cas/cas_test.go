package cas_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T) *cas.Store {
	t.Helper()
	s, err := cas.Open(t.TempDir())
	ok(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// put adopts content and returns its digest.
func put(t *testing.T, s *cas.Store, content string) fleet.Digest {
	t.Helper()
	d := fleet.DigestOf([]byte(content))
	tmp := filepath.Join(s.Dir(), "staging", "tmp-"+d.Short())
	ok(t, cas.WriteFile(tmp, []byte(content), 0o644))
	ok(t, s.Adopt(tmp, d, cas.Frames{Length: 4, Digests: []fleet.Digest{{1}, {2}}}))
	return d
}

func release(t *testing.T, s *cas.Store, name string, files map[string]string) fleet.Digest {
	t.Helper()
	var es []cas.Entry
	for p, content := range files {
		es = append(es, cas.Entry{Path: p, Digest: put(t, s, content), Size: int64(len(content))})
	}
	key := fleet.DigestOf([]byte(name))
	_, err := s.Assemble(key, es)
	ok(t, err)
	return key
}

func read(t *testing.T, folder string) map[string]string {
	t.Helper()
	got := map[string]string{}
	ok(t, filepath.WalkDir(folder, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		rel, _ := filepath.Rel(folder, p)
		got[filepath.ToSlash(rel)] = string(b)
		return err
	}))
	return got
}

func TestWriteFileReplacesWhole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "state.json")
	a, b := bytes.Repeat([]byte("a"), 100_000), bytes.Repeat([]byte("b"), 50_000)
	ok(t, cas.WriteFile(path, a, 0o600))
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 50 {
			ok(t, cas.WriteFile(path, b, 0o600))
			ok(t, cas.WriteFile(path, a, 0o600))
		}
	})
	for range 200 {
		got, err := os.ReadFile(path)
		ok(t, err)
		if !bytes.Equal(got, a) && !bytes.Equal(got, b) {
			t.Fatalf("a reader saw %d mixed bytes", len(got))
		}
	}
	wg.Wait()
	fi, err := os.Stat(path)
	ok(t, err)
	if es, _ := os.ReadDir(dir); len(es) != 1 || fi.Mode().Perm() != 0o600 {
		t.Fatalf("%d files, mode %v", len(es), fi.Mode())
	}
}

func TestErrorsAreClassified(t *testing.T) {
	t.Parallel()
	if err := cas.WriteFile(filepath.Join(t.TempDir(), "no", "such"), nil, 0o644); !fault.Is(err, fault.NotFound) {
		t.Error(err)
	}
	for _, c := range []struct {
		err  error
		kind fault.Kind
	}{
		{syscall.ENOSPC, fault.Exhausted}, {syscall.EDQUOT, fault.Exhausted}, {syscall.EROFS, fault.Denied},
		{fs.ErrPermission, fault.Denied}, {syscall.EIO, fault.Internal}, {fault.New(fault.Untrusted, "x", "y", nil), fault.Untrusted},
	} {
		if got := fault.KindOf(cas.Classify("write", "x", c.err)); got != c.kind {
			t.Errorf("%v is %v, want %v", c.err, got, c.kind)
		}
	}
	if cas.Classify("write", "x", nil) != nil {
		t.Error("no error became one")
	}
	if _, err := cas.Open("relative"); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
}

func TestAssembleIsWholeSharedAndIdempotent(t *testing.T) {
	t.Parallel()
	s := open(t)
	files := map[string]string{"model.bin": "weights", "tokenizer/vocab.txt": "words", "copy.bin": "weights"}
	key := release(t, s, "r1", files)
	if diff := cmp.Diff(files, read(t, s.ReleaseDir(key))); diff != "" {
		t.Fatal(diff)
	}
	before, err := os.Stat(filepath.Join(s.ReleaseDir(key), "model.bin"))
	ok(t, err)
	release(t, s, "r1", files)
	release(t, s, "r2", map[string]string{"other.bin": "weights"})
	after, err := os.Stat(filepath.Join(s.ReleaseDir(key), "model.bin"))
	ok(t, err)
	if !os.SameFile(before, after) || after.Sys().(*syscall.Stat_t).Nlink != 4 {
		t.Fatal("equal content is kept more than once, or was made anew")
	}
	if after.Mode().Perm() != 0o444 {
		t.Fatalf("mode is %v", after.Mode())
	}
	fr, found := s.Frames(fleet.DigestOf([]byte("weights")))
	if diff := cmp.Diff(cas.Frames{Length: 4, Digests: []fleet.Digest{{1}, {2}}}, fr); !found || diff != "" {
		t.Fatal(diff)
	}
}

func TestAssembleMendsAReleaseThatIsNotWhole(t *testing.T) {
	t.Parallel()
	s := open(t)
	files := map[string]string{"a": "1", "b": "2"}
	for _, damage := range []func(string) error{
		func(dir string) error { return os.Remove(filepath.Join(dir, "a")) },
		func(dir string) error { return os.WriteFile(filepath.Join(dir, "extra"), nil, 0o644) },
		func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "a")), os.WriteFile(filepath.Join(dir, "a"), []byte("1"), 0o644))
		},
	} {
		key := release(t, s, "r", files)
		ok(t, damage(s.ReleaseDir(key)))
		release(t, s, "r", files)
		if diff := cmp.Diff(files, read(t, s.ReleaseDir(key))); diff != "" {
			t.Error(diff)
		}
	}
}

// Paths come from a publisher. None may reach outside the release's folder.
func TestPathsThatLeaveTheFolderAreUntrusted(t *testing.T) {
	t.Parallel()
	s := open(t)
	d := put(t, s, "x")
	for _, p := range []string{"../escape", "/etc/passwd", "a/../../b", "", ".", "a//b", "a/"} {
		_, err := s.Assemble(fleet.DigestOf([]byte(p)), []cas.Entry{{Path: p, Digest: d, Size: 1}})
		if !fault.Is(err, fault.Untrusted) {
			t.Errorf("%q: error is %v", p, err)
		}
	}
	if es, _ := os.ReadDir(filepath.Join(s.Dir(), "releases")); len(es) != 0 {
		t.Errorf("%d releases are visible", len(es))
	}
}

func TestCollectTakesOnlyWhatNobodyNeeds(t *testing.T) {
	t.Parallel()
	s := open(t)
	pinned := release(t, s, "pinned", map[string]string{"m": "shared", "p": "pinned"})
	kept := release(t, s, "kept", map[string]string{"m": "kept"})
	old := release(t, s, "old", map[string]string{"m": "shared", "o": "old bytes"})
	held := put(t, s, "held")
	orphan := put(t, s, "orphan")
	ok(t, s.Pin("detector.current", pinned))
	ok(t, s.Pin("detector.current", pinned))
	under := fleet.DigestOf([]byte("under way"))
	for _, k := range []fleet.Digest{under, old} {
		ok(t, os.MkdirAll(s.StagingDir(k), 0o755))
	}
	release := s.Hold(under, []fleet.Digest{held})
	got, err := s.Collect(t.Context(), kept)
	ok(t, err)
	if want := (cas.Collected{Releases: 1, Files: 2, Bytes: int64(len("old bytes") + len("orphan"))}); got != want {
		t.Errorf("collected %+v, want %+v", got, want)
	}
	for k, want := range map[fleet.Digest]bool{pinned: true, kept: true, old: false} {
		if s.HasRelease(k) != want {
			t.Errorf("release %s: here is %v", k.Short(), !want)
		}
	}
	if diff := cmp.Diff(map[string]string{"m": "shared", "p": "pinned"}, read(t, s.ReleaseDir(pinned))); diff != "" {
		t.Error(diff)
	}
	if _, here := s.FileSize(orphan); here {
		t.Error("the orphan is still here")
	}
	if _, here := s.FileSize(held); !here {
		t.Error("a held file was taken")
	}
	if _, err := os.Stat(s.StagingDir(under)); err != nil {
		t.Error("an install under way lost its folder")
	}
	if _, err := os.Stat(s.StagingDir(old)); err == nil {
		t.Error("leftovers of a release nobody keeps are still here")
	}
	release()
	ok(t, s.Unpin("detector.current"))
	ok(t, s.Unpin("detector.current"))
	if got, err = s.Collect(t.Context()); err != nil || got.Releases != 2 || got.Files != 4 {
		t.Errorf("the second collection took %+v, %v", got, err)
	}
	if left, _ := s.Files(); len(left) != 0 {
		t.Errorf("%d files are left", len(left))
	}
}

// Stopped anywhere, a collection leaves no release with a hole in it.
func TestCollectStoppedLeavesWholeReleases(t *testing.T) {
	t.Parallel()
	s := open(t)
	files := map[string]string{"m": "bytes"}
	key := release(t, s, "r", files)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Collect(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if diff := cmp.Diff(files, read(t, s.ReleaseDir(key))); diff != "" {
		t.Error(diff)
	}
}

// A release that is collected is visible whole or not at all: who looks while it
// goes never finds it under its name with files missing.
func TestCollectedReleasesLeaveWhole(t *testing.T) {
	t.Parallel()
	s := open(t)
	files := map[string]string{}
	for i := range 500 {
		files[fmt.Sprintf("shard-%03d", i)] = fmt.Sprint("bytes ", i)
	}
	dir := s.ReleaseDir(release(t, s, "r", files))
	done := make(chan error, 1)
	go func() {
		_, err := s.Collect(context.WithoutCancel(t.Context()))
		done <- err
	}()
	for {
		found, err := os.ReadDir(dir)
		_, still := os.Stat(dir)
		if still == nil && (err != nil || len(found) != len(files)) {
			t.Fatalf("%d of %d files are visible: %v", len(found), len(files), err)
		}
		if still != nil {
			break
		}
	}
	ok(t, <-done)
	if left, err := os.ReadDir(filepath.Dir(s.StagingDir(fleet.Digest{}))); err != nil || len(left) != 0 {
		t.Errorf("%v is left in staging, %v", left, err)
	}
}

func TestPins(t *testing.T) {
	t.Parallel()
	s := open(t)
	for _, bad := range []string{"", "a/b", "..", ".x"} {
		if err := s.Pin(bad, fleet.Digest{1}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: error is %v", bad, err)
		}
	}
	ok(t, s.Pin("a", fleet.Digest{1}))
	ok(t, s.Pin("a", fleet.Digest{2}))
	pins, err := s.Pins()
	ok(t, err)
	if diff := cmp.Diff(map[string]fleet.Digest{"a": {2}}, pins); diff != "" {
		t.Error(diff)
	}
	// A pin that cannot be read must stop a collection, not let it take everything.
	key := release(t, s, "r", map[string]string{"m": "bytes"})
	ok(t, os.WriteFile(filepath.Join(s.Dir(), "pins", "bad"), []byte("nonsense"), 0o644))
	if _, err := s.Collect(t.Context()); err == nil || !s.HasRelease(key) {
		t.Errorf("collected past an unreadable pin: %v", err)
	}
}

func TestDiscardSetsAside(t *testing.T) {
	t.Parallel()
	s := open(t)
	d, key := put(t, s, "damaged"), fleet.DigestOf([]byte("key"))
	ok(t, s.Discard(d, key))
	if _, here := s.FileSize(d); here {
		t.Error("it is still here")
	}
	b, err := os.ReadFile(cas.DamagedPath(s.StagingDir(key), d))
	if err != nil || string(b) != "damaged" {
		t.Errorf("set aside: %q, %v", b, err)
	}
	ok(t, s.DropStaging(key))
	if _, err := os.Stat(s.StagingDir(key)); err == nil {
		t.Error("staging is still here")
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte("mffrm\x00\x00\x01\x04\x00\x00\x00\x00\x00\x00\x00" + strings.Repeat("d", 64)))
	f.Add([]byte{})
	s, err := cas.Open(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	d := fleet.DigestOf([]byte("x"))
	path := s.FilePath(d) + ".frames"
	if err := cas.MkdirAll(filepath.Dir(path)); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Skip(err)
		}
		fr, found := s.Frames(d)
		if found && (fr.Length <= 0 || len(b) != 16+32*len(fr.Digests)) {
			t.Fatalf("read %+v", fr)
		}
	})
}
