package scrub_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/scrub"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// release puts a release of two files into a store.
func release(t *testing.T, s *cas.Store, name string) fleet.Digest {
	t.Helper()
	key := fleet.DigestOf([]byte(name))
	staging, err := s.Stage(key)
	if err != nil {
		t.Fatal(err)
	}
	var entries []cas.Entry
	for _, file := range []string{"card.md", "weights.bin"} {
		content := []byte(name + " " + file)
		tmp := filepath.Join(staging, file)
		if err := os.WriteFile(tmp, content, 0o644); err != nil {
			t.Fatal(err)
		}
		d := fleet.DigestOf(content)
		if err := s.Adopt(tmp, d, cas.Frames{}); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, cas.Entry{Path: file, Digest: d, Size: int64(len(content))})
	}
	if _, err := s.Assemble(key, entries); err != nil {
		t.Fatal(err)
	}
	return key
}

func open(t *testing.T) *cas.Store {
	t.Helper()
	s, err := cas.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// scrubbing runs a scrub over releases until the test ends; what it finds comes
// out of the channel.
func scrubbing(t *testing.T, s *cas.Store, every time.Duration, releases ...fleet.Digest) (*scrub.Scrub, <-chan fleet.Digest) {
	t.Helper()
	found := make(chan fleet.Digest)
	sc := scrub.New(scrub.Options{
		Store: s, Releases: func() []fleet.Digest { return releases }, Every: every, Logger: slog.New(slog.DiscardHandler),
		Found: func(ctx context.Context, r fleet.Digest) {
			select {
			case found <- r:
			case <-ctx.Done():
			}
		},
	})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		sc.Run(ctx)
	}()
	t.Cleanup(func() { stop(); <-done })
	return sc, found
}

func expect(t *testing.T, found <-chan fleet.Digest, want ...fleet.Digest) {
	t.Helper()
	for _, w := range want {
		select {
		case got := <-found:
			if got != w {
				t.Errorf("found %s, want %s", got.Short(), w.Short())
			}
		case <-time.After(2 * time.Minute):
			t.Fatalf("%s was not found", w.Short())
		}
	}
}

// Each way in which files stop being what was signed is found, again and again,
// and a file that stays damaged is counted once.
func TestWhatIsDamagedIsFound(t *testing.T) {
	t.Parallel()
	s := open(t)
	whole, flipped, short, gone, aside := release(t, s, "whole"), release(t, s, "flipped"), release(t, s, "short"), release(t, s, "gone"), release(t, s, "aside")
	change := func(key fleet.Digest, f func(path string) error) {
		path := filepath.Join(s.ReleaseDir(key), "weights.bin")
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := f(path); err != nil {
			t.Fatal(err)
		}
	}
	change(flipped, func(p string) error { return os.WriteFile(p, []byte("FLIPPED weights.bin"), 0o644) })
	change(short, func(p string) error { return os.Truncate(p, 3) })
	if err := os.RemoveAll(s.ReleaseDir(gone)); err != nil {
		t.Fatal(err)
	}
	if err := s.Discard(fleet.DigestOf([]byte("aside weights.bin")), aside); err != nil { // an install that was cut short
		t.Fatal(err)
	}
	sc, found := scrubbing(t, s, time.Millisecond, whole, flipped, short, gone, aside)
	expect(t, found, flipped, short, gone, aside, flipped, short, gone, aside)
	if n := sc.Damaged(); n != 2 {
		t.Errorf("%d damaged files, want 2", n)
	}
}

// A file in two releases is read once a look, and both are found.
func TestASharedFileIsFoundInBoth(t *testing.T) {
	t.Parallel()
	s := open(t)
	a := release(t, s, "one")
	b := fleet.DigestOf([]byte("two"))
	if _, err := s.Assemble(b, []cas.Entry{{Path: "w", Digest: fleet.DigestOf([]byte("one weights.bin")), Size: 15}}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.ReleaseDir(b), "w")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("ONE weights.bin"), 0o644); err != nil {
		t.Fatal(err)
	}
	sc, found := scrubbing(t, s, time.Hour, a, b)
	expect(t, found, a, b)
	if n := sc.Damaged(); n != 1 {
		t.Errorf("%d damaged files, want 1", n)
	}
}

// Told never to look, it does not.
func TestItCanBeTurnedOff(t *testing.T) {
	t.Parallel()
	s := open(t)
	sc := scrub.New(scrub.Options{Store: s, Every: -1, Logger: slog.New(slog.DiscardHandler)})
	sc.Run(t.Context()) // returns at once
	if sc.Damaged() != 0 {
		t.Error("it found something")
	}
}
