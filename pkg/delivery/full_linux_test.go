package delivery_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// smallDisk is a file system of 4 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	d := t.TempDir()
	if err := syscall.Mount("tmpfs", d, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("NOT TRIED: what a disk that fills up during an install does: none can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(d, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return d
}

// fill takes all that is free of a disk.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	for _, n := range []int{1 << 20, 4096, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, n))
		}
	}
}

// A disk that somebody else fills in the middle of an install ends it as this
// member's trouble; nothing of it is seen, and what came is used when there is
// room again.
func TestADiskThatFillsUpDuringAnInstall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	disk := smallDisk(t)
	w.store = openStore(t, filepath.Join(disk, "store"))
	m := model{"a.bin": noise(16*shard, 1), "b.bin": noise(16*shard+5, 2)}
	want := w.publish(m, oms.Shards)
	b, taken := w.files(want)["b.bin"].Digest.String(), filepath.Join(disk, "taken")
	w.src.open = func(key string, _, _ int64) error {
		if strings.Contains(key, b) {
			fill(t, taken)
		}
		return nil
	}
	alone := func(o *delivery.Options) { o.Streams, o.Reserve = 1, 1 }
	_, err := w.fetcher(alone).Install(t.Context(), want, nil)
	if !fault.Is(err, fault.Exhausted) {
		t.Fatalf("error is %v", err)
	}
	if w.store.HasRelease(want.Key) {
		t.Error("the release is visible")
	}
	if err := os.Remove(taken); err != nil {
		t.Fatal(err)
	}
	w.src.open = nil
	res, err := w.fetcher(alone).Install(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.holds(res.Dir, m)
	if p := res.Progress; p.From[delivery.Copy]+p.Resume < 16*shard {
		t.Errorf("what came before was fetched again: %+v", p)
	}
}

// Disk that was borrowed after room was made for an install is given back when
// the install needs it.
func TestBorrowedDiskIsGivenBackDuringAnInstall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	disk := smallDisk(t)
	w.store = openStore(t, filepath.Join(disk, "store"))
	m := model{"a.bin": noise(16*shard, 1), "b.bin": noise(16*shard+5, 2)}
	borrowed := filepath.Join(disk, "borrowed")
	var once sync.Once
	w.src.open = func(string, int64, int64) error {
		once.Do(func() { fill(t, borrowed) })
		return nil
	}
	f := w.fetcher(func(o *delivery.Options) {
		o.Streams, o.Reserve = 1, 1
		o.Spare = func() {
			if err := os.Truncate(borrowed, 0); err != nil {
				t.Error(err)
			}
		}
	})
	res, err := f.Install(t.Context(), w.publish(m, oms.Shards), nil)
	if err != nil {
		t.Fatal(err)
	}
	w.holds(res.Dir, m)
}
