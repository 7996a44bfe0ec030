package artifact_test

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
)

// weights are bytes with a skewed distribution, as the bytes of weights have.
func weights(n int, seed byte) []byte {
	rng := rand.New(rand.NewChaCha8([32]byte{seed}))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.NormFloat64() * 12)
	}
	return b
}

// bfloats are n weights as bf16.
func bfloats(n int, seed byte) []byte {
	rng := rand.New(rand.NewChaCha8([32]byte{seed}))
	b := make([]byte, 0, 2*n)
	for range n {
		b = binary.LittleEndian.AppendUint16(b, uint16(math.Float32bits(float32(rng.NormFloat64()*0.02))>>16))
	}
	return b
}

// nudged is bf16 weights after a little training: every fourth moved by one step.
func nudged(w []byte) []byte {
	w = slices.Clone(w)
	for i := 0; i+2 <= len(w); i += 8 {
		binary.LittleEndian.PutUint16(w[i:], binary.LittleEndian.Uint16(w[i:])+1)
	}
	return w
}

func noise(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

type folder struct {
	path  string
	man   oms.Manifest
	files []artifact.File
}

func sign(t *testing.T, method oms.Method, m map[string][]byte) folder {
	t.Helper()
	f := folder{path: t.TempDir()}
	for p, b := range m {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(f.path, p)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(f.path, p), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	o := oms.Options{Method: method}
	if method == oms.Shards {
		o.ShardSize = 64 << 10
	}
	var err error
	if f.man, err = oms.Hash(t.Context(), f.path, o); err != nil {
		t.Fatal(err)
	}
	if f.files, err = artifact.FilesOf(f.man); err != nil {
		t.Fatal(err)
	}
	return f
}

func bucket(t *testing.T) *dir.Store {
	t.Helper()
	s, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func keys(t *testing.T, s *dir.Store) []string {
	t.Helper()
	var ks []string
	for o, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		ks = append(ks, o.Key)
	}
	return ks
}

func TestUploadPutsEachContentOnce(t *testing.T) {
	t.Parallel()
	for _, method := range []oms.Method{oms.Files, oms.Shards} {
		s := bucket(t)
		f := sign(t, method, map[string][]byte{
			"a/weights.bin": weights(500_000, 1), "b/copy.bin": weights(500_000, 1), "noise.bin": noise(200_000, 2),
		})
		var last artifact.UploadProgress
		var steps int
		st, err := artifact.Upload(t.Context(), s, f.path, f.files, artifact.UploadOptions{
			TempDir: t.TempDir(), Progress: func(p artifact.UploadProgress) {
				if p.Done < last.Done {
					t.Errorf("%s: progress went from %d back to %d", method, last.Done, p.Done)
				}
				last = p
				steps++
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		// weights: raw, raw.idx, full, full.idx; noise: raw, raw.idx
		if n := len(keys(t, s)); n != 6 || st.Objects != 6 || st.Files != 3 || st.Reused != 1 || st.Bytes != 1_200_000 {
			t.Errorf("%s: %d objects, %+v", method, n, st)
		}
		if steps < 6 || last.Done != 1_200_000 || last.Total != last.Done {
			t.Errorf("%s: progress ended at %+v", method, last)
		}
		if st.Packed >= 1_000_000 || st.Packed < 200_000 {
			t.Errorf("%s: members fetch %d bytes", method, st.Packed)
		}
		before := keys(t, s)
		again, err := artifact.Upload(t.Context(), s, f.path, f.files, artifact.UploadOptions{TempDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		if again.Objects != 0 || again.Sent != 0 || again.Reused != 3 || again.Packed != st.Packed {
			t.Errorf("%s: the second upload did %+v", method, again)
		}
		if diff := cmp.Diff(before, keys(t, s)); diff != "" {
			t.Error(diff)
		}
	}
}

// stopping is a bucket that fails after some objects, as a publisher's network does.
type stopping struct {
	*dir.Store
	left int
}

func (s *stopping) Create(ctx context.Context, key string, b registry.Body) (bool, error) {
	if s.left--; s.left < 0 {
		return false, fault.New(fault.Transient, "create object", key, errors.New("cut"))
	}
	return s.Store.Create(ctx, key, b)
}

// Stopped after any object, an upload that is done again ends with the same bucket.
func TestUploadGoesOnAfterAnyCut(t *testing.T) {
	t.Parallel()
	f := sign(t, oms.Shards, map[string][]byte{"w": weights(300_000, 3)})
	whole := bucket(t)
	if _, err := artifact.Upload(t.Context(), whole, f.path, f.files, artifact.UploadOptions{}); err != nil {
		t.Fatal(err)
	}
	want := keys(t, whole)
	for cut := range len(want) {
		s := bucket(t)
		_, err := artifact.Upload(t.Context(), &stopping{s, cut}, f.path, f.files, artifact.UploadOptions{})
		if !fault.Is(err, fault.Transient) {
			t.Fatalf("cut after %d: error is %v", cut, err)
		}
		if cut < len(want) && slices.Contains(keys(t, s), artifact.IndexKey(artifact.RawKey(f.files[0].Digest))) {
			t.Errorf("cut after %d: the plain index, which says all there, was written", cut)
		}
		st, err := artifact.Upload(t.Context(), s, f.path, f.files, artifact.UploadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, keys(t, s)); diff != "" {
			t.Errorf("cut after %d: %s", cut, diff)
		}
		if st.Found != cut || st.Objects != len(want)-cut || (st.FoundBytes > 0) != (cut > 0) {
			t.Errorf("cut after %d: %d of %d objects were found, %d bytes", cut, st.Found, len(want), st.FoundBytes)
		}
	}
}

func TestAFolderThatChangedSinceItWasSignedIsInvalid(t *testing.T) {
	t.Parallel()
	for _, method := range []oms.Method{oms.Files, oms.Shards} {
		for name, change := range map[string]func(path string) error{
			"another byte": func(p string) error { return os.WriteFile(p, append(weights(99_999, 4), 1), 0o644) },
			"shorter":      func(p string) error { return os.Truncate(p, 99_000) },
			"gone":         os.Remove,
			"a link": func(p string) error {
				return errors.Join(os.Rename(p, p+".real"), os.Symlink(p+".real", p))
			},
		} {
			s := bucket(t)
			f := sign(t, method, map[string][]byte{"w": weights(100_000, 4)})
			if err := change(filepath.Join(f.path, "w")); err != nil {
				t.Fatal(err)
			}
			_, err := artifact.Upload(t.Context(), s, f.path, f.files, artifact.UploadOptions{})
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("%s, %s: error is %v", method, name, err)
			}
			if n := len(keys(t, s)); n != 0 {
				t.Errorf("%s, %s: %d objects were made", method, name, n)
			}
		}
	}
}

func TestFilesOfIsStrict(t *testing.T) {
	t.Parallel()
	f := sign(t, oms.Shards, map[string][]byte{"w": weights(200_000, 5)})
	for name, change := range map[string]func(*oms.Manifest){
		"gap":           func(m *oms.Manifest) { m.Resources = slices.Delete(slices.Clone(m.Resources), 1, 2) },
		"huge shards":   func(m *oms.Manifest) { m.ShardSize = 1 << 30 },
		"no shard size": func(m *oms.Manifest) { m.ShardSize = 0 },
		"other method":  func(m *oms.Manifest) { m.Method = "pieces" },
	} {
		m := f.man
		change(&m)
		if _, err := artifact.FilesOf(m); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

// The name of a file signed in shards is a format too.
func TestFileDigestVector(t *testing.T) {
	t.Parallel()
	man := oms.Manifest{Name: "m", Method: oms.Shards, ShardSize: 4, Resources: []oms.Resource{
		{Path: "w", Start: 0, End: 4, Digest: oms.Digest(fleet.DigestOf([]byte("abcd")))},
		{Path: "w", Start: 4, End: 6, Digest: oms.Digest(fleet.DigestOf([]byte("ef")))},
	}}
	files, err := artifact.FilesOf(man)
	if err != nil {
		t.Fatal(err)
	}
	const want = "0fe50486838637690ab55b1c50f4343d4c20f839c702ca4e516b454caf56254a"
	if got := files[0].Digest.String(); got != want || files[0].Size != 6 {
		t.Errorf("digest %s of %d bytes", got, files[0].Size)
	}
}

// A long file that does not get shorter is not packed to its end, and its
// objects are those of any other.
func TestPackingIsGivenUpWhereItGainsNothing(t *testing.T) {
	t.Parallel()
	s := bucket(t)
	f := sign(t, oms.Shards, map[string][]byte{
		"noise": noise(100*64<<10, 6), "noise then zeros": append(noise(66*64<<10, 7), make([]byte, 64<<10)...),
		"zeros then noise": append(make([]byte, 80*64<<10), noise(20*64<<10, 8)...),
	})
	st, err := artifact.Upload(t.Context(), s, f.path, f.files, artifact.UploadOptions{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if st.Objects != 2+2+4 || st.Packed > int64((100+67+21)*64<<10) {
		t.Errorf("%+v", st)
	}
}

// watching is a bucket that looks at a folder whenever something is made in it.
type watching struct {
	artifact.Store
	look func()
}

func (w *watching) Create(ctx context.Context, key string, body registry.Body) (bool, error) {
	w.look()
	return w.Store.Create(ctx, key, body)
}

// What is packed lies under no name, so that nothing of it stays when the process is
// killed in the middle.
func TestAKilledUploadLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("open files keep their names there")
	}
	temp, looked := t.TempDir(), false
	s := &watching{bucket(t), func() {
		looked = true
		if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
			t.Errorf("in the temporary folder: %v, %v", left, err)
		}
	}}
	f := sign(t, oms.Shards, map[string][]byte{"model.bin": bfloats(100_000, 1)})
	if _, err := artifact.Upload(t.Context(), s, f.path, f.files, artifact.UploadOptions{TempDir: temp}); err != nil || !looked {
		t.Fatal(err)
	}
}
