package delivery_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

func detector() model {
	return model{
		"model.safetensors":   weights(1<<20+777, 1),
		"tokenizer/vocab.txt": []byte(strings.Repeat("token\n", 5000)),
		"head.bin":            noise(200<<10, 2),
		"config.json":         []byte(`{"layers": 3}`),
	}
}

func TestInstallGivesExactlyTheSignedFiles(t *testing.T) {
	t.Parallel()
	for _, method := range []oms.Method{oms.Shards, oms.Files} {
		t.Run(string(method), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			m := detector()
			want := w.publish(m, method)
			var last delivery.Progress
			res, err := w.fetcher(nil).Install(t.Context(), want, func(p delivery.Progress) {
				if p.Done < last.Done || p.Done > p.Total {
					t.Errorf("progress went from %d to %d of %d", last.Done, p.Done, p.Total)
				}
				last = p
			})
			if err != nil {
				t.Fatal(err)
			}
			w.holds(res.Dir, m)
			if err := want.Manifest.Check(t.Context(), res.Dir, oms.CheckOptions{}); err != nil {
				t.Errorf("the signed manifest refuses the folder: %v", err)
			}
			if last.Done != want.Size || last.Total != want.Size || last.From[delivery.Full] == 0 {
				t.Errorf("ended with %+v of %d bytes", last, want.Size)
			}
			if last.Wire >= want.Size {
				t.Errorf("%d bytes came over the wire for %d that pack well", last.Wire, want.Size)
			}
			if es, _ := os.ReadDir(filepath.Join(w.store.Dir(), "staging")); len(es) != 0 {
				t.Errorf("%d leftovers in staging", len(es))
			}
		})
	}
}

func TestInstallAgainFetchesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	want := w.publish(detector(), oms.Shards)
	f := w.fetcher(nil)
	first, err := f.Install(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	asked := w.src.ranges
	again, err := f.Install(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	if again.Dir != first.Dir || w.src.ranges != asked || again.Progress.From[delivery.Copy] != want.Size {
		t.Errorf("the second install asked %d ranges and ended with %+v", w.src.ranges-asked, again.Progress)
	}
}

func TestEmptyAndEqualFiles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := model{"empty": {}, "also-empty": {}, "a": []byte("same"), "b/c": []byte("same")}
	want := w.publish(m, oms.Files)
	res, err := w.fetcher(nil).Install(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.holds(res.Dir, m)
	if w.src.ranges != 1 {
		t.Errorf("%d ranges for one content", w.src.ranges)
	}
}

// An update that changes the last layer moves only the frames that changed.
func TestAnUpdateCopiesWhatIsHere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	v1 := model{"model.bin": noise(20*shard+99, 3), "config.json": []byte("{}")}
	f := w.fetcher(nil)
	if _, err := f.Install(t.Context(), w.publish(v1, oms.Shards), nil); err != nil {
		t.Fatal(err)
	}
	changed := append([]byte(nil), v1["model.bin"]...)
	copy(changed[19*shard:], noise(shard, 4))
	v2 := model{"model.bin": changed, "config.json": []byte("{}")}
	res, err := f.Install(t.Context(), w.publish(v2, oms.Shards), nil)
	if err != nil {
		t.Fatal(err)
	}
	w.holds(res.Dir, v2)
	if res.Progress.Wire != shard {
		t.Errorf("%d bytes came over the wire for one changed frame: %+v", res.Progress.Wire, res.Progress)
	}
}

// Two releases may have the same contents under other names, and so the same
// OMS root; neither may take the other's folder.
func TestSameContentOtherNamesAreTwoReleases(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f := w.fetcher(nil)
	a, b := model{"a.bin": []byte("content")}, model{"b.bin": []byte("content")}
	wantA, wantB := w.publish(a, oms.Files), w.publish(b, oms.Files)
	if wantA.Manifest.Root != wantB.Manifest.Root {
		t.Fatal("the roots differ; this test is about equal ones")
	}
	resA, err := f.Install(t.Context(), wantA, nil)
	if err != nil {
		t.Fatal(err)
	}
	resB, err := f.Install(t.Context(), wantB, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.holds(resA.Dir, a)
	w.holds(resB.Dir, b)
}

// A model file that rots on the disk is found by the next install and mended
// frame by frame; whoever has it open keeps what they have.
func TestADamagedFileIsMended(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := model{"model.bin": noise(20*shard, 5)}
	want := w.publish(m, oms.Shards)
	f := w.fetcher(nil)
	res, err := f.Install(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(res.Dir, "model.bin")
	open, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	rot, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rot.WriteAt([]byte("rotten"), 7*shard+5); err != nil {
		t.Fatal(err)
	}
	_ = rot.Close()
	again, err := f.Install(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.holds(again.Dir, m)
	if again.Progress.Wire != shard || again.Progress.From[delivery.Copy] != 19*shard {
		t.Errorf("mending took %+v", again.Progress)
	}
	was, err := open.Stat()
	if err != nil {
		t.Fatal(err)
	}
	now, err := os.Stat(path)
	if err != nil || os.SameFile(was, now) {
		t.Errorf("the file was mended in place: %v", err)
	}
}

func TestAFullDiskIsFoundBeforeTheFirstByte(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	want := w.publish(detector(), oms.Shards)
	f := w.fetcher(func(o *delivery.Options) { o.Reserve = 1 << 60 })
	_, err := f.Install(t.Context(), want, nil)
	if !fault.Is(err, fault.Exhausted) || fault.Hint(err) == "" {
		t.Fatalf("error is %v", err)
	}
	if w.src.ranges != 0 {
		t.Errorf("%d ranges were asked for all the same", w.src.ranges)
	}
}

// Making room must never take a release that is pinned or kept, and without a
// list of what to keep it takes none at all.
func TestMakingRoomKeepsWhatIsInUse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	f := w.fetcher(nil)
	var keys []fleet.Digest
	for i := range byte(3) {
		want := w.publish(model{"m": noise(1000, 10+i)}, oms.Files)
		if _, err := f.Install(t.Context(), want, nil); err != nil {
			t.Fatal(err)
		}
		keys = append(keys, want.Key)
	}
	next := w.publish(model{"m": noise(1000, 20)}, oms.Files)
	short := func(keep func() []fleet.Digest) {
		f := w.fetcher(func(o *delivery.Options) { o.Reserve, o.Keep = 1<<60, keep })
		if _, err := f.Install(t.Context(), next, nil); !fault.Is(err, fault.Exhausted) {
			t.Fatalf("error is %v", err)
		}
	}
	short(nil)
	for _, k := range keys {
		if !w.store.HasRelease(k) {
			t.Fatal("a release was removed though nobody said what to keep")
		}
	}
	if err := w.store.Pin("detector.previous", keys[0]); err != nil {
		t.Fatal(err)
	}
	short(func() []fleet.Digest { return keys[1:2] })
	for i, kept := range []bool{true, true, false} {
		if w.store.HasRelease(keys[i]) != kept {
			t.Errorf("release %d: kept is %v", i, !kept)
		}
	}
}

func TestFramesTooLargeForTheMemberAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	want := w.publish(detector(), oms.Shards)
	f := w.fetcher(func(o *delivery.Options) { o.Memory = 1 << 20 })
	if _, err := f.Install(t.Context(), want, nil); !fault.Is(err, fault.Exhausted) || fault.Hint(err) == "" {
		t.Fatalf("error is %v", err)
	}
}

// On a file system without O_DIRECT, or of another kind, the result is the same.
func TestInstallOnTmpfs(t *testing.T) {
	t.Parallel()
	const shm = "/dev/shm"
	var st syscall.Statfs_t
	if err := syscall.Statfs(shm, &st); err != nil {
		t.Skipf("no %s here: %v", shm, err)
	}
	d, err := os.MkdirTemp(shm, "modelfleet-*")
	if err != nil {
		t.Skipf("%s cannot be written: %v", shm, err)
	}
	defer os.RemoveAll(d)
	w := newWorld(t)
	w.store = openStore(t, d)
	m := detector()
	res, err := w.fetcher(nil).Install(t.Context(), w.publish(m, oms.Shards), nil)
	if err != nil {
		t.Fatal(err)
	}
	w.holds(res.Dir, m)
}
