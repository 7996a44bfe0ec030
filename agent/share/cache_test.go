package share

import (
	"bytes"
	"io"
	"log/slog"
	"math"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

func newCache(t *testing.T, dir string, limit int64) *cache {
	t.Helper()
	c, err := openCache(dir, limit, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	c.free = func(string) (int64, error) { return math.MaxInt64 / 2, nil }
	return c
}

func frameOf(i byte) []byte { return bytes.Repeat([]byte{i}, 1000) }

func put(t *testing.T, c *cache, is ...byte) {
	t.Helper()
	for _, i := range is {
		if err := c.put(fleet.DigestOf(frameOf(i)), frameOf(i)); err != nil {
			t.Fatal(err)
		}
	}
}

// kept lists which of the frames 0 to n-1 are given, and right.
func kept(t *testing.T, c *cache, n byte) []byte {
	t.Helper()
	var is []byte
	for i := range n {
		r, err := c.open(fleet.DigestOf(frameOf(i)), 1000)
		if err != nil {
			continue
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, frameOf(i)) {
			t.Errorf("frame %d: %d bytes, %v", i, len(got), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		is = append(is, i)
	}
	return is
}

// onDisk is how many bytes a folder really holds.
func onDisk(t *testing.T, dir string) (n int64) {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		fi, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		n += fi.Size()
	}
	return n
}

func TestTheCacheKeepsItsBoundAndWhatIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		c := newCache(t, dir, 3500)
		for i := range byte(10) {
			time.Sleep(time.Second)
			put(t, c, i)
			kept(t, c, 1) // frame 0 is asked for all the time
			if n := onDisk(t, dir); n > 3500 {
				t.Fatalf("%d bytes on the disk", n)
			}
		}
		if got := kept(t, c, 10); !bytes.Equal(got, []byte{0, 8, 9}) {
			t.Errorf("kept %v", got)
		}
		if got := kept(t, newCache(t, dir, 2500), 10); len(got) != 2 {
			t.Errorf("of them with a smaller bound, after a restart: %v", got)
		}
		time.Sleep(stale + time.Hour)
		c.trim(time.Now())
		if n := onDisk(t, dir); n != 0 {
			t.Errorf("%d bytes that nobody asked for", n)
		}
	})
}

func TestTheCacheGivesWayToWhatElseTheDiskIsFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := newCache(t, dir, 1<<20)
	put(t, c, 1, 2, 3)
	c.free = func(string) (int64, error) { return leave, nil }
	put(t, c, 4) // in another's place
	if got := kept(t, c, 5); len(got) != 3 || onDisk(t, dir) != 3000 {
		t.Errorf("kept %v, %d bytes", got, onDisk(t, dir))
	}
	c.free = func(string) (int64, error) { return leave - 5000, nil }
	if err := c.put(fleet.DigestOf(frameOf(5)), frameOf(5)); !fault.Is(err, fault.Exhausted) || onDisk(t, dir) != 0 {
		t.Errorf("on a disk that is full: %v, %d bytes kept", err, onDisk(t, dir))
	}
	c.free = func(string) (int64, error) { return math.MaxInt64 / 2, nil }
	put(t, c, 6)
	c.clear()
	if n := onDisk(t, dir); n != 0 || c.used != 0 {
		t.Errorf("%d bytes kept, %d counted", n, c.used)
	}
}

func TestADamagedFrameIsNotGiven(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := newCache(t, dir, 1<<20)
	put(t, c, 1, 2)
	d := fleet.DigestOf(frameOf(1))
	if err := os.WriteFile(c.path(d), frameOf(9), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/tmp123", frameOf(9), 0o644); err != nil { // a write that was cut short
		t.Fatal(err)
	}
	if got := kept(t, c, 5); !bytes.Equal(got, []byte{2}) || c.has(d) {
		t.Errorf("given %v", got)
	}
	if got := kept(t, newCache(t, dir, 1<<20), 5); !bytes.Equal(got, []byte{2}) || onDisk(t, dir) != 1000 {
		t.Errorf("after a restart %v, %d bytes", got, onDisk(t, dir))
	}
}

// What cannot be opened now is not for that damaged.
func TestAFrameThatCannotBeOpenedIsKept(t *testing.T) {
	t.Parallel()
	c := newCache(t, t.TempDir(), 1<<20)
	put(t, c, 1)
	d := fleet.DigestOf(frameOf(1))
	if err := os.Rename(c.path(d), c.path(d)+"x"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(c.path(d), c.path(d)); err != nil { // opening it is an error of its own
		t.Fatal(err)
	}
	if _, err := c.open(d, 1000); err == nil || fault.Is(err, fault.NotFound) {
		t.Errorf("opened with %v", err)
	}
	if err := os.Rename(c.path(d)+"x", c.path(d)); err != nil {
		t.Fatal(err)
	}
	if got := kept(t, c, 2); !bytes.Equal(got, []byte{1}) {
		t.Errorf("afterwards kept %v", got)
	}
}

// Frames written at once are counted before they are there.
func TestFramesWrittenAtOnceKeepTheBound(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := newCache(t, dir, 3500)
	var g sync.WaitGroup
	for i := range byte(40) {
		g.Go(func() {
			err := c.put(fleet.DigestOf(frameOf(i%10)), frameOf(i%10))
			if err != nil && !fault.Is(err, fault.Exhausted) {
				t.Error(err)
			}
		})
	}
	g.Wait()
	if n := onDisk(t, dir); c.used != n || c.writing != 0 || n == 0 || n > 3500 {
		t.Errorf("%d bytes kept, %d counted, %d being written", n, c.used, c.writing)
	}
}
