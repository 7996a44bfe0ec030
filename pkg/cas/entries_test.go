package cas_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

func TestEntriesSayWhatAReleaseConsistsOf(t *testing.T) {
	t.Parallel()
	s := open(t)
	key := release(t, s, "r1", map[string]string{"model.bin": "weights", "a/b.txt": "words", "same.txt": "words"})
	want := []cas.Entry{
		{Path: "a/b.txt", Digest: fleet.DigestOf([]byte("words")), Size: 5},
		{Path: "model.bin", Digest: fleet.DigestOf([]byte("weights")), Size: 7},
		{Path: "same.txt", Digest: fleet.DigestOf([]byte("words")), Size: 5},
	}
	got, err := s.Entries(key)
	ok(t, err)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	ok(t, s.Discard(want[1].Digest, key)) // damaged: nothing to build on
	if got, err = s.Entries(key); err != nil || len(got) != 2 {
		t.Errorf("with a file set aside: %v, %v", got, err)
	}
	if _, err := s.Entries(fleet.DigestOf([]byte("r2"))); !fault.Is(err, fault.NotFound) {
		t.Errorf("of a release that is not here: %v", err)
	}
}

// Files that a collection takes meanwhile are not missing from a release that stays:
// who is told so believes that the way back is gone, and gives it up.
func TestEntriesBesideACollection(t *testing.T) {
	t.Parallel()
	s := open(t)
	key := release(t, s, "r1", map[string]string{"model.bin": "weights"})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 25 {
			for k := range 4 {
				put(t, s, fmt.Sprint("of nobody ", i, k))
			}
			if _, err := s.Collect(t.Context(), key); err != nil {
				t.Error(err)
			}
		}
	}()
	for over := false; !over; {
		got, err := s.Entries(key)
		if err != nil || len(got) != 1 {
			t.Errorf("a release that stays: %v, %v", got, err)
			break
		}
		select {
		case <-done:
			over = true
		default:
		}
	}
	<-done
}

// shards adopts content that was signed in frames of this length.
func shards(t *testing.T, s *cas.Store, content []byte, length int64) fleet.Digest {
	t.Helper()
	f := cas.Frames{Length: length}
	for at := int64(0); at < int64(len(content)); at += length {
		f.Digests = append(f.Digests, sha256.Sum256(content[at:min(at+length, int64(len(content)))]))
	}
	d := artifact.FrameRoot(int64(len(content)), length, f.Digests)
	tmp := filepath.Join(s.Dir(), "staging", d.Short())
	ok(t, cas.WriteFile(tmp, content, 0o644))
	ok(t, s.Adopt(tmp, d, f))
	return d
}

// flip changes one bit of a file behind everybody's back, as a disk does.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	ok(t, os.Chmod(path, 0o644))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	ok(t, err)
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	ok(t, err)
	b[0] ^= 4
	_, err = f.WriteAt(b[:], at)
	ok(t, err)
	ok(t, errors.Join(f.Sync(), f.Close()))
}

// One flipped bit anywhere is found, in files signed whole and in frames of any
// length, the one frame of a small file too.
func TestVerifyFindsAFlippedBit(t *testing.T) {
	t.Parallel()
	s := open(t)
	content := make([]byte, 300_001)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content)
	for name, d := range map[string]fleet.Digest{
		"whole":            put(t, s, string(content)),
		"frames of 64 KiB": shards(t, s, content, 64<<10),
		"odd frames":       shards(t, s, content, 70_001),
		"one frame":        shards(t, s, content, 1<<20),
		"tiny":             shards(t, s, []byte("x"), 1<<20),
	} {
		size, _ := s.FileSize(d)
		var read int
		whole, err := s.Verify(t.Context(), d, func(n int) error { read += n; return nil })
		if !whole || err != nil || int64(read) != size {
			t.Errorf("%s: %t, %v after %d of %d bytes", name, whole, err, read, size)
		}
		for _, at := range []int64{0, size / 2, size - 1} {
			flip(t, s.FilePath(d), at)
			if whole, err := s.Verify(t.Context(), d, nil); whole || err != nil {
				t.Errorf("%s, a bit at %d: %t, %v", name, at, whole, err)
			}
			flip(t, s.FilePath(d), at)
		}
		ok(t, os.Truncate(s.FilePath(d), size/2))
		if whole, err := s.Verify(t.Context(), d, nil); whole || err != nil {
			t.Errorf("%s, cut to half: %t, %v", name, whole, err)
		}
	}
}

func TestVerifyCanBePacedAndEnded(t *testing.T) {
	t.Parallel()
	s := open(t)
	d := shards(t, s, make([]byte, 100_000), 4096)
	enough := errors.New("enough")
	if _, err := s.Verify(t.Context(), d, func(int) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("a pace that ends: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Verify(ctx, d, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that is over: %v", err)
	}
	if _, err := s.Verify(t.Context(), fleet.Digest{1}, nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("a file that is not here: %v", err)
	}
}

// Litter of writes that were cut short goes at the next start; what looks like it
// and is not, stays.
func TestOpenSweepsWhatWasCutShort(t *testing.T) {
	t.Parallel()
	s := open(t)
	d := shards(t, s, []byte("weights"), 4)
	dir := filepath.Dir(s.FilePath(d))
	litter := []string{
		filepath.Join(dir, "."+d.String()+".frames.tmp123"), filepath.Join(s.Dir(), "pins", ".a.tmp9"),
		filepath.Join(dir, fleet.Digest{7}.String()+".frames"),
	}
	for _, l := range litter {
		ok(t, os.WriteFile(l, []byte("x"), 0o644))
	}
	ok(t, s.Pin("a", d))
	again, err := cas.Open(s.Dir())
	ok(t, err)
	defer again.Close()
	for _, l := range litter {
		if _, err := os.Lstat(l); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", l, err)
		}
	}
	if f, known := again.Frames(d); !known || len(f.Digests) != 2 {
		t.Errorf("the frames are %+v", f)
	}
	if pins, err := again.Pins(); err != nil || len(pins) != 1 {
		t.Errorf("pins are %v, %v", pins, err)
	}
}

// An application that has a model mapped goes on with it while the release is
// collected and its bytes are overwritten by others.
func TestAMappedFileSurvivesItsCollection(t *testing.T) {
	t.Parallel()
	s := open(t)
	content := bytes.Repeat([]byte("weights!"), 64<<10)
	key := release(t, s, "r1", map[string]string{"model.bin": string(content)})
	f, err := os.Open(filepath.Join(s.ReleaseDir(key), "model.bin"))
	ok(t, err)
	mem, err := unix.Mmap(int(f.Fd()), 0, len(content), unix.PROT_READ, unix.MAP_SHARED)
	ok(t, err)
	defer func() { ok(t, unix.Munmap(mem)) }()
	ok(t, f.Close())
	got, err := s.Collect(t.Context())
	if err != nil || got.Releases != 1 || got.Files != 1 {
		t.Fatalf("collected %+v, %v", got, err)
	}
	put(t, s, string(bytes.Repeat([]byte("others.."), 64<<10)))
	if !bytes.Equal(mem, content) {
		t.Error("the mapped bytes changed")
	}
}
