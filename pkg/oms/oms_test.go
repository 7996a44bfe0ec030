package oms_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/pkg/oms"
)

// model is a small folder with the awkward cases: a subfolder, a name that
// sorts differently by element than by byte, a colon, more than one shard.
func model(t testing.TB) string {
	dir := t.TempDir()
	write(t, dir, "weights.bin", bytes.Repeat([]byte("0123456789"), 100))
	write(t, dir, "a/b", []byte("one"))
	write(t, dir, "a.b", []byte("two"))
	write(t, dir, "x:0:3", []byte("colons"))
	return dir
}

func write(t testing.TB, dir, name string, data []byte) {
	t.Helper()
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func key(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func hash(t testing.TB, dir string, o oms.Options) oms.Manifest {
	t.Helper()
	m, err := oms.Hash(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func wantClass(t *testing.T, err error, want oms.Class) {
	t.Helper()
	if err == nil || oms.ClassOf(err) != want {
		t.Errorf("error %v of class %s, want class %s", err, oms.ClassOf(err), want)
	}
}

func TestWhatIsSignedVerifies(t *testing.T) {
	t.Parallel()
	for _, o := range []oms.Options{{Method: oms.Files}, {Method: oms.Shards, ShardSize: 64}, {Method: oms.Shards}, {}} {
		for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
			dir, k := model(t), key(t, curve)
			m := hash(t, dir, o)
			raw, err := oms.Sign(m, k)
			if err != nil {
				t.Fatal(err)
			}
			b, err := oms.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			other := key(t, elliptic.P256())
			got, err := b.VerifyKey(&other.PublicKey, &k.PublicKey)
			if err != nil {
				t.Fatalf("%s %s: %v", m.Method, curve.Params().Name, err)
			}
			if diff := cmp.Diff(m, got); diff != "" {
				t.Errorf("manifest changed on the way (-signed +verified):\n%s", diff)
			}
			if err := got.Check(t.Context(), dir, oms.CheckOptions{}); err != nil {
				t.Errorf("%s: %v", m.Method, err)
			}
			_, err = b.VerifyKey(&other.PublicKey)
			wantClass(t, err, oms.Signature)
			_, err = b.VerifyKey()
			wantClass(t, err, oms.Signature)
		}
	}
}

// The root digest is what the specification says: SHA-256 over the raw digests
// in the order of the names.
func TestRootDigestIsOverNamesInOrder(t *testing.T) {
	t.Parallel()
	dir := model(t)
	sum := func(b string) []byte { s := sha256.Sum256([]byte(b)); return s[:] }
	want := sha256.New()
	want.Write(sum("two")) // "a.b" < "a/b"
	want.Write(sum("one"))
	want.Write(sum(string(bytes.Repeat([]byte("0123456789"), 100))))
	want.Write(sum("colons"))
	m := hash(t, dir, oms.Options{})
	if got := m.Root.String(); got != hex.EncodeToString(want.Sum(nil)) {
		t.Errorf("root %s, want %x", got, want.Sum(nil))
	}
	if hash(t, dir, oms.Options{Workers: 1}).Root != m.Root {
		t.Error("the number of workers changes the root")
	}
}

func TestFilesListsWholeFiles(t *testing.T) {
	t.Parallel()
	dir := model(t)
	m := hash(t, dir, oms.Options{Method: oms.Shards, ShardSize: 300})
	var got []string
	for _, f := range m.Files() {
		got = append(got, f.Path)
		var at int64
		for _, r := range f.Ranges {
			if r.Start != at {
				t.Errorf("%s: range begins at %d, want %d", f.Path, r.Start, at)
			}
			at = r.End
		}
		if at != f.Size {
			t.Errorf("%s: ranges end at %d of %d", f.Path, at, f.Size)
		}
	}
	if diff := cmp.Diff([]string{"a.b", "a/b", "weights.bin", "x:0:3"}, got); diff != "" {
		t.Error(diff)
	}
	if m.Size() != 1012 {
		t.Errorf("size %d, want 1012", m.Size())
	}
	if hash(t, dir, oms.Options{}).Size() != -1 {
		t.Error("files mode does not sign lengths, and must say so")
	}
}

// A manifest made by hand is not signed unless it would be believed.
func TestOnlyWhatWouldBeBelievedIsSigned(t *testing.T) {
	t.Parallel()
	good := hash(t, model(t), oms.Options{})
	k := key(t, elliptic.P256())
	for want, change := range map[oms.Class]func(*oms.Manifest){
		oms.Root:        func(m *oms.Manifest) { m.Root[0]++ },
		oms.Malformed:   func(m *oms.Manifest) { m.Resources = nil },
		oms.Irregular:   func(m *oms.Manifest) { m.Ignored = []string{"../x"} },
		oms.Unsupported: func(m *oms.Manifest) { m.Method = "chunks" },
	} {
		m := good
		change(&m)
		_, err := oms.Sign(m, k)
		wantClass(t, err, want)
	}
	_, err := oms.Sign(good, key(t, elliptic.P224()))
	wantClass(t, err, oms.Unsupported)
	_, err = oms.Sign(good, ed25519.NewKeyFromSeed(make([]byte, 32)))
	wantClass(t, err, oms.Unsupported)
	_, err = oms.SignCertificate(good, k)
	wantClass(t, err, oms.Certificate)
	stranger := named(t, "stranger", elliptic.P256())
	_, err = oms.SignCertificate(good, k, issue(t, "leaf", stranger.Public(), nil, stranger, nil))
	wantClass(t, err, oms.Certificate)
}

func TestWhatCannotBeReadIsSaid(t *testing.T) {
	t.Parallel()
	_, err := oms.Hash(t.Context(), filepath.Join(t.TempDir(), "none"), oms.Options{})
	wantClass(t, err, oms.Reading)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v is not os.ErrNotExist", err)
	}
	wantClass(t, hash(t, model(t), oms.Options{}).Check(t.Context(), filepath.Join(t.TempDir(), "none"), oms.CheckOptions{}), oms.Reading)
	_, err = oms.Parse(make([]byte, oms.MaxBundle+1))
	wantClass(t, err, oms.TooLarge)
}

// A file that is written to while it is hashed must not be signed half and half.
func TestAFileThatChangesMeanwhileIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(path string) error{
		"grown": func(path string) error {
			f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("more")
			return errors.Join(err, f.Close())
		},
		"touched": func(path string) error { return os.Chtimes(path, time.Time{}, time.Unix(1, 0)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write(t, dir, "w", make([]byte, 1<<20))
			var once sync.Once
			o := oms.Options{Workers: 1, Progress: func(int64) {
				once.Do(func() { must(t, change(filepath.Join(dir, "w"))) })
			}}
			_, err := oms.Hash(t.Context(), dir, o)
			wantClass(t, err, oms.Changed)
		})
	}
}

// Bundles that the first version of this package wrote. The root digests were
// worked out independently of it.
func TestFirstBundlesStillVerify(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("testdata", "vector")
	text, err := os.ReadFile(filepath.Join(dir, "key.pub"))
	must(t, err)
	pub := readKey(t, string(text))
	for name, root := range map[string]string{
		"files.oms":  "67a37b82fd7cfb4db0af9821a7cfcd113e2d349958ebf96c7c291d80786fa85c",
		"shards.oms": "89ea89e9d29c512c93fb23a19e9d9ff258ae4b4708595105628f9e9f1bbef396",
	} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		b, err := oms.Parse(raw)
		must(t, err)
		m, err := b.VerifyKey(pub)
		must(t, err)
		if m.Root.String() != root {
			t.Errorf("%s: root digest %s, want %s", name, m.Root, root)
		}
		must(t, m.Check(t.Context(), filepath.Join(dir, "model"), oms.CheckOptions{}))
		if fp, err := oms.Fingerprint(pub); err != nil || fp != b.Hint() {
			t.Errorf("%s: names key %s, its fingerprint is %s (%v)", name, b.Hint(), fp, err)
		}
	}
}

func TestHashStopsWhenAskedAndTellsProgress(t *testing.T) {
	t.Parallel()
	dir := model(t)
	var done atomic.Int64
	hash(t, dir, oms.Options{Method: oms.Shards, ShardSize: 100, Progress: func(n int64) { done.Add(n) }})
	if done.Load() != 1012 {
		t.Errorf("progress of %d bytes, want 1012", done.Load())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := oms.Hash(ctx, dir, oms.Options{})
	wantClass(t, err, oms.Reading)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v is not context.Canceled", err)
	}
}

func BenchmarkHash(b *testing.B) {
	dir := b.TempDir()
	write(b, dir, "weights.bin", make([]byte, 64<<20))
	b.SetBytes(64 << 20)
	b.ReportAllocs()
	for b.Loop() {
		hash(b, dir, oms.Options{Method: oms.Shards})
	}
}

func BenchmarkVerifyKey(b *testing.B) {
	dir, k := b.TempDir(), key(b, elliptic.P256())
	write(b, dir, "weights.bin", make([]byte, 64<<20))
	raw, err := oms.Sign(hash(b, dir, oms.Options{Method: oms.Shards}), k)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		p, err := oms.Parse(raw)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := p.VerifyKey(&k.PublicKey); err != nil {
			b.Fatal(err)
		}
	}
}
