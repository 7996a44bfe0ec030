package delivery_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// site is the neighbours of a member: they have every file of a model, but do
// as told.
type site struct {
	sharers int
	owns    func(delivery.FrameRef) bool
	answer  func(r delivery.FrameRef, plain []byte) ([]byte, error) // nil: the truth

	mu    sync.Mutex
	files map[fleet.Digest][]byte
	asked []delivery.FrameRef
	lied  []string
}

func (s *site) Sharers(fleet.Digest) int { return s.sharers }

func (s *site) Owns(r delivery.FrameRef) bool { return s.owns != nil && s.owns(r) }

func (s *site) Frame(_ context.Context, r delivery.FrameRef, dst []byte) (string, error) {
	s.mu.Lock()
	s.asked = append(s.asked, r)
	b, ok := s.files[r.File]
	s.mu.Unlock()
	if !ok || len(dst) != r.Length {
		return "", fault.Newf(fault.NotFound, "ask", "", "no such file")
	}
	b = b[r.Frame*shard:][:r.Length]
	if s.answer != nil {
		var err error
		if b, err = s.answer(r, b); err != nil {
			return "", err
		}
	}
	copy(dst, b)
	return "cam-7", nil
}

func (s *site) Lied(from string, _ delivery.FrameRef) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lied = append(s.lied, from)
}

// shared is a published model that the neighbours have, too.
func shared(w *world, m model) (delivery.Want, *site) {
	want := w.publish(m, oms.Shards)
	want.Path = "models/vision/detector/1.0.0/default.oms"
	s := &site{sharers: 10, files: map[fleet.Digest][]byte{}}
	for p, f := range w.files(want) {
		s.files[f.Digest] = m[p]
	}
	s.owns = func(r delivery.FrameRef) bool { return r.Digest[0] < 26 } // a tenth
	return want, s
}

func TestNeighboursBringWhatTheyOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := model{"model.bin": noise(200*shard+99, 1), "head.bin": noise(3*shard, 2)}
	want, s := shared(w, m)
	res, err := w.fetcher(func(o *delivery.Options) { o.Peers = s }).Install(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.holds(res.Dir, m)
	p := res.Progress
	if p.From[delivery.Peer] < want.Size*8/10 || p.Wire != p.From[delivery.Raw] || p.Wire == 0 {
		t.Errorf("came from %v, %d of %d bytes from the bucket", p.From, p.Wire, want.Size)
	}
	inOrder := 0
	for i, r := range s.asked {
		f := w.files(want)["model.bin"]
		if r.Release != want.Key || r.Path != want.Path || s.owns(r) {
			t.Fatalf("asked for %+v", r)
		}
		if r.File == f.Digest && r.Digest != f.Frames[r.Frame] {
			t.Fatalf("frame %d is not the signed one", r.Frame)
		}
		if i > 0 && r.Frame == s.asked[i-1].Frame+1 {
			inOrder++
		}
	}
	if inOrder > len(s.asked)/4 {
		t.Errorf("%d of %d frames were asked for in their order", inOrder, len(s.asked))
	}
}

// Whatever neighbours say or do, the member ends with the signed bytes.
func TestNeighboursMayLieOrFail(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer func(delivery.FrameRef, []byte) ([]byte, error)
		lies   bool
	}{
		"all refuse":     {func(delivery.FrameRef, []byte) ([]byte, error) { return nil, errors.New("refused") }, false},
		"all lie":        {func(_ delivery.FrameRef, b []byte) ([]byte, error) { return noise(len(b), 99), nil }, true},
		"half a frame":   {func(_ delivery.FrameRef, b []byte) ([]byte, error) { return b[:len(b)/2], nil }, true},
		"a few lie":      {func(r delivery.FrameRef, b []byte) ([]byte, error) { return flipped(b, r.Frame%7 == 0), nil }, true},
		"another offset": {func(_ delivery.FrameRef, b []byte) ([]byte, error) { return append([]byte{0}, b[:len(b)-1]...), nil }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			m := model{"model.bin": noise(40*shard+99, 3)}
			want, s := shared(w, m)
			s.answer = c.answer
			res, err := w.fetcher(func(o *delivery.Options) { o.Peers = s }).Install(t.Context(), want, nil)
			if err != nil {
				t.Fatal(err)
			}
			w.holds(res.Dir, m)
			if c.lies != (len(s.lied) > 0) {
				t.Errorf("%d lies were told of", len(s.lied))
			}
			if p := res.Progress; p.From[delivery.Peer]+p.From[delivery.Raw] != want.Size {
				t.Errorf("came from %v", p.From)
			}
		})
	}
}

func flipped(b []byte, really bool) []byte {
	b = bytes.Clone(b)
	if really {
		b[len(b)/2] ^= 1
	}
	return b
}

// A member alone, one that has no neighbours, and files whose frames were not
// signed ask nobody.
func TestNobodyIsAskedInVain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := model{"model.bin": noise(9*shard, 4)}
	want, s := shared(w, m)
	s.sharers = 1
	if _, err := w.fetcher(func(o *delivery.Options) { o.Peers = s }).Install(t.Context(), want, nil); err != nil {
		t.Fatal(err)
	}
	s.sharers = 5
	if _, err := w.fetcher(func(o *delivery.Options) { o.Peers = s }).Install(t.Context(), w.publish(model{"a": noise(99, 5)}, oms.Files), nil); err != nil {
		t.Fatal(err)
	}
	if len(s.asked) > 0 {
		t.Errorf("asked for %v", s.asked)
	}
}

// ref names a frame of a file as a neighbour does.
func ref(w *world, want delivery.Want, path string, frame int) delivery.FrameRef {
	f := w.files(want)[path]
	return delivery.FrameRef{
		Release: want.Key, File: f.Digest, Frame: frame, Digest: f.Frames[frame],
		Length: int(min(f.FrameSize, f.Size-int64(frame)*f.FrameSize)),
	}
}

func TestAFrameIsPulledThroughOnceForAll(t *testing.T) {
	inBubble(t, testPulledThrough)
}

func testPulledThrough(t *testing.T, w *world) {
	w.src.open = func(string, int64, int64) error { // so that all eight come before it is there
		<-time.After(time.Second)
		return nil
	}
	m := model{"model.bin": weights(9*shard+55, 6)}
	want := w.publish(m, oms.Shards)
	f := w.fetcher(nil)
	for _, frame := range []int{4, 9} {
		r := ref(w, want, "model.bin", frame)
		if err := f.Read(r, make([]byte, r.Length)); !fault.Is(err, fault.NotFound) {
			t.Fatalf("before: %v", err)
		}
		w.src.bytes = 0
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				dst := make([]byte, r.Length)
				if err := f.Frame(t.Context(), want, r, dst); err != nil || sha256.Sum256(dst) != r.Digest {
					t.Errorf("frame %d: %v", frame, err)
				}
			})
		}
		wg.Wait()
		if w.src.bytes > int64(r.Length) {
			t.Errorf("%d bytes were asked for, one frame has %d", w.src.bytes, r.Length)
		}
	}
	res, err := f.Install(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.holds(res.Dir, m)
	r := ref(w, want, "model.bin", 9)
	dst := make([]byte, r.Length)
	if err := f.Read(r, dst); err != nil || sha256.Sum256(dst) != r.Digest {
		t.Errorf("after the install: %v", err)
	}
	if rc, err := f.Open(r); err != nil {
		t.Error(err)
	} else {
		b, err := io.ReadAll(rc)
		if err != nil || sha256.Sum256(b) != r.Digest {
			t.Errorf("opened: %d bytes, %v", len(b), err)
		}
		_ = rc.Close()
	}
	corrupt(t, w.store.FilePath(r.File), func(b []byte) []byte { b[9*shard] ^= 1; return b })
	if err := f.Read(r, dst); !fault.Is(err, fault.NotFound) {
		t.Errorf("a damaged frame: %v", err)
	}
	if _, err := f.Open(r); !fault.Is(err, fault.NotFound) {
		t.Errorf("a damaged frame is opened: %v", err)
	}
	if err := f.Frame(t.Context(), want, r, dst); err != nil || sha256.Sum256(dst) != r.Digest {
		t.Errorf("a damaged frame is not fetched instead: %v", err)
	}
}

// What nobody signed is not fetched for anybody.
func TestOnlySignedFramesArePulledThrough(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	want := w.publish(model{"model.bin": weights(9*shard, 6)}, oms.Shards)
	f := w.fetcher(nil)
	good := ref(w, want, "model.bin", 3)
	for name, change := range map[string]func(*delivery.FrameRef){
		"another file":   func(r *delivery.FrameRef) { r.File[0]++ },
		"another digest": func(r *delivery.FrameRef) { r.Digest[0]++ },
		"no such frame":  func(r *delivery.FrameRef) { r.Frame = 9 },
		"before all":     func(r *delivery.FrameRef) { r.Frame = -1 },
		"another length": func(r *delivery.FrameRef) { r.Length++ },
	} {
		r := good
		change(&r)
		if err := f.Frame(t.Context(), want, r, make([]byte, r.Length)); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, k := range []string{artifact.RawKey(good.File), artifact.FullKey(good.File)} {
		w.put(k, noise(9*shard, 7))
	}
	if err := f.Frame(t.Context(), want, good, make([]byte, good.Length)); !fault.Is(err, fault.Untrusted) {
		t.Errorf("a wrong frame: %v", err)
	}
}

// While the release is being installed, a frame fetched for a neighbour is the
// install's as well, and the other way round: nothing is fetched twice.
func TestAPullIsPartOfTheInstallUnderWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := model{"model.bin": noise(100*shard+1, 8)}
	want := w.publish(m, oms.Shards)
	var wg sync.WaitGroup
	var f *delivery.Fetcher
	var once sync.Once
	w.src.open = func(string, int64, int64) error {
		once.Do(func() {
			for frame := range 101 {
				wg.Go(func() {
					r := ref(w, want, "model.bin", (frame*37)%101)
					dst := make([]byte, r.Length)
					if err := f.Frame(t.Context(), want, r, dst); err != nil || sha256.Sum256(dst) != r.Digest {
						t.Errorf("frame %d: %v", r.Frame, err)
					}
				})
			}
		})
		return nil
	}
	f = w.fetcher(nil)
	res, err := f.Install(t.Context(), want, nil)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	w.holds(res.Dir, m)
	if w.src.bytes > want.Size*11/10 {
		t.Errorf("%d bytes were asked for, the release has %d", w.src.bytes, want.Size)
	}
	if es, err := os.ReadDir(w.store.StagingDir(want.Key)); err == nil && len(es) > 0 {
		t.Errorf("left in staging: %v", es)
	}
}

// A neighbour may need this member for the very frame that it is asked for: then
// nobody waits for the other.
func TestAskingAndPullingOneFrameDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := model{"model.bin": noise(9*shard, 10)}
	want, s := shared(w, m)
	s.owns = nil
	var f *delivery.Fetcher
	s.answer = func(r delivery.FrameRef, b []byte) ([]byte, error) {
		dst := make([]byte, len(b))
		return dst, f.Frame(t.Context(), want, r, dst)
	}
	f = w.fetcher(func(o *delivery.Options) { o.Peers = s })
	res, err := f.Install(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.holds(res.Dir, m)
	if f.Wire() != want.Size || res.Progress.Wire != 0 {
		t.Errorf("%d bytes from the bucket, %d of them by the install itself", f.Wire(), res.Progress.Wire)
	}
}

func TestAWrongFrameNamesItsSource(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	want, s := shared(w, model{"model.bin": noise(9*shard, 9)})
	s.answer = func(delivery.FrameRef, []byte) ([]byte, error) { return noise(shard, 1), nil }
	w.tamper(artifact.RawKey(w.files(want)["model.bin"].Digest), 8*shard)
	_, err := w.fetcher(func(o *delivery.Options) { o.Peers = s }).Install(t.Context(), want, nil)
	if !fault.Is(err, fault.Untrusted) || !strings.Contains(err.Error(), "/raw") {
		t.Errorf("error is %v", err)
	}
}
