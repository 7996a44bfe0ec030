package oms_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

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

// Every way a folder may differ from what was signed is found, by its class.
func TestCheckFindsEveryDifference(t *testing.T) {
	t.Parallel()
	at := func(dir, name string) string { return filepath.Join(dir, filepath.FromSlash(name)) }
	cases := []struct {
		name  string
		do    func(t *testing.T, dir string)
		files oms.Class
		shard oms.Class
	}{
		{"a byte changed", func(t *testing.T, dir string) {
			write(t, dir, "weights.bin", append(bytes.Repeat([]byte("0123456789"), 99), []byte("012345678X")...))
		}, oms.Changed, oms.Changed},
		{"a file is gone", func(t *testing.T, dir string) { must(t, os.Remove(at(dir, "a/b"))) }, oms.Missing, oms.Missing},
		{"a file more", func(t *testing.T, dir string) { write(t, dir, "evil.py", []byte("x")) }, oms.Extra, oms.Extra},
		{"an empty file more", func(t *testing.T, dir string) { write(t, dir, "a/__init__.py", nil) }, oms.Extra, oms.Extra},
		{"bytes after the end", func(t *testing.T, dir string) { write(t, dir, "a.b", []byte("two+")) }, oms.Changed, oms.Uncovered},
		{"cut short", func(t *testing.T, dir string) { write(t, dir, "a.b", []byte("tw")) }, oms.Changed, oms.Changed},
		{"a link to the same bytes", func(t *testing.T, dir string) {
			must(t, os.Rename(at(dir, "a.b"), at(dir, ".git-x")))
			must(t, os.Symlink(".git-x", at(dir, "a.b")))
		}, oms.Irregular, oms.Irregular},
		{"a link to a folder", func(t *testing.T, dir string) { must(t, os.Symlink("/etc", at(dir, "etc"))) }, oms.Irregular, oms.Irregular},
		{"a pipe", func(t *testing.T, dir string) { must(t, syscall.Mkfifo(at(dir, "pipe"), 0o600)) }, oms.Irregular, oms.Irregular},
		{"a folder in place of a file", func(t *testing.T, dir string) {
			must(t, os.Remove(at(dir, "a.b")))
			must(t, os.Mkdir(at(dir, "a.b"), 0o755))
		}, oms.Missing, oms.Missing},
		{"a name that is not UTF-8", func(t *testing.T, dir string) { write(t, dir, "b\xff", []byte("x")) }, oms.Irregular, oms.Irregular},
	}
	for _, c := range cases {
		for method, want := range map[oms.Method]oms.Class{oms.Files: c.files, oms.Shards: c.shard} {
			t.Run(c.name+"/"+string(method), func(t *testing.T) {
				t.Parallel()
				dir := model(t)
				m := hash(t, dir, oms.Options{Method: method})
				c.do(t, dir)
				wantClass(t, m.Check(t.Context(), dir, oms.CheckOptions{}), want)
			})
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSigningRefusesWhatCannotBeSigned(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	_, err := oms.Hash(t.Context(), empty, oms.Options{})
	wantClass(t, err, oms.Empty)
	_, err = oms.Hash(t.Context(), filepath.Join(empty, "none"), oms.Options{})
	wantClass(t, err, oms.Reading)

	dir := model(t)
	write(t, dir, "empty", nil)
	_, err = oms.Hash(t.Context(), dir, oms.Options{Method: oms.Shards})
	wantClass(t, err, oms.Empty)
	if err := hash(t, dir, oms.Options{Method: oms.Files}).Check(t.Context(), dir, oms.CheckOptions{}); err != nil {
		t.Error(err)
	}
	for _, o := range []oms.Options{{Method: "chunks"}, {Method: oms.Shards, ShardSize: -1}, {Method: oms.Files, ShardSize: 1}} {
		_, err := oms.Hash(t.Context(), dir, o)
		wantClass(t, err, oms.Unsupported)
	}
	_, err = oms.Hash(t.Context(), dir, oms.Options{Ignore: []string{"../x"}})
	wantClass(t, err, oms.Irregular)

	// A manifest made by hand is not signed unless it would be believed.
	m := hash(t, dir, oms.Options{})
	m.Root[0]++
	_, err = oms.Sign(m, key(t, elliptic.P256()))
	wantClass(t, err, oms.Root)
}

func TestIgnoredPathsAreLookedOver(t *testing.T) {
	t.Parallel()
	dir := model(t)
	write(t, dir, ".git/config", []byte("x"))
	write(t, dir, "logs/run.txt", []byte("x"))
	m := hash(t, dir, oms.Options{Ignore: []string{"logs"}})
	write(t, dir, "logs/run.txt", []byte("changed"))
	write(t, dir, "model.sig", []byte("the bundle itself"))
	if err := m.Check(t.Context(), dir, oms.CheckOptions{Ignore: []string{"model.sig"}}); err != nil {
		t.Error(err)
	}
	wantClass(t, m.Check(t.Context(), dir, oms.CheckOptions{}), oms.Extra)
	write(t, dir, "a/.git/config", []byte("only the top level is looked over"))
	wantClass(t, m.Check(t.Context(), dir, oms.CheckOptions{Ignore: []string{"model.sig"}}), oms.Extra)
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

// doc is a bundle taken apart, to be changed and signed again.
type doc struct {
	bundle    map[string]any
	statement map[string]any
}

// resign signs what change makes of a good bundle with the right key, so that
// it dies at the check meant for it and not at the signature.
func resign(t testing.TB, m oms.Manifest, k *ecdsa.PrivateKey, change func(*doc), raw func([]byte) []byte) []byte {
	t.Helper()
	good, err := oms.Sign(m, k)
	if err != nil {
		t.Fatal(err)
	}
	d := doc{}
	unmarshal(t, good, &d.bundle)
	env := d.bundle["dsseEnvelope"].(map[string]any)
	var payload []byte
	unmarshal(t, []byte(`"`+env["payload"].(string)+`"`), &payload)
	unmarshal(t, payload, &d.statement)
	if change != nil {
		change(&d)
	}
	payload, err = json.Marshal(d.statement)
	if err != nil {
		t.Fatal(err)
	}
	if raw != nil {
		payload = raw(payload)
	}
	pae := append([]byte("DSSEv1 28 application/vnd.in-toto+json "), []byte(itoa(len(payload))+" ")...)
	sum := sha256.Sum256(append(pae, payload...))
	sig, err := k.Sign(nil, sum[:], crypto.SHA256) // without randomness the fuzzer sees the same paths twice
	if err != nil {
		t.Fatal(err)
	}
	env["payload"] = payload
	if sigs, ok := env["signatures"].([]any); ok && len(sigs) > 0 {
		sigs[0].(map[string]any)["sig"] = sig
	}
	out, err := json.Marshal(d.bundle)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

func unmarshal(t testing.TB, b []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

func (d *doc) serialization() map[string]any {
	return d.statement["predicate"].(map[string]any)["serialization"].(map[string]any)
}

func (d *doc) resources() []any {
	return d.statement["predicate"].(map[string]any)["resources"].([]any)
}

func (d *doc) resource(i int) map[string]any { return d.resources()[i].(map[string]any) }

func (d *doc) setResources(r []any) { d.statement["predicate"].(map[string]any)["resources"] = r }

// reroot makes the root digest fit the resources again.
func (d *doc) reroot() {
	h := sha256.New()
	for i := range d.resources() {
		b, _ := hex.DecodeString(d.resource(i)["digest"].(string))
		h.Write(b)
	}
	d.statement["subject"].([]any)[0].(map[string]any)["digest"] = map[string]any{"sha256": hex.EncodeToString(h.Sum(nil))}
}

// Each malformed statement is signed with the right key and must be refused by
// the check it is meant for.
func TestResignedStatementsDieAtTheirOwnCheck(t *testing.T) {
	t.Parallel()
	dir, k := model(t), key(t, elliptic.P256())
	files, shards := hash(t, dir, oms.Options{}), hash(t, dir, oms.Options{Method: oms.Shards, ShardSize: 400})
	cases := []struct {
		name   string
		m      oms.Manifest
		change func(*doc)
		raw    func([]byte) []byte
		want   oms.Class
	}{
		{"statement type", files, func(d *doc) { d.statement["_type"] = "https://in-toto.io/Statement/v0.1" }, nil, oms.Malformed},
		{"predicate type", files, func(d *doc) { d.statement["predicateType"] = "https://model_signing/Digests/v0.1" }, nil, oms.Unsupported},
		{"unknown field", files, func(d *doc) { d.statement["extra"] = 1 }, nil, oms.Malformed},
		{"no predicate", files, func(d *doc) { delete(d.statement, "predicate") }, nil, oms.Malformed},
		{"no subject", files, func(d *doc) { d.statement["subject"] = []any{} }, nil, oms.Malformed},
		{"two subjects", files, func(d *doc) {
			s := d.statement["subject"].([]any)
			d.statement["subject"] = append(s, s[0])
		}, nil, oms.Malformed},
		{"wrong root", files, func(d *doc) {
			d.statement["subject"].([]any)[0].(map[string]any)["digest"] = map[string]any{"sha256": string(bytes.Repeat([]byte("0"), 64))}
		}, nil, oms.Root},
		{"root of another algorithm", files, func(d *doc) {
			d.statement["subject"].([]any)[0].(map[string]any)["digest"] = map[string]any{"sha512": "00"}
		}, nil, oms.Malformed},
		{"no resources", files, func(d *doc) { d.setResources([]any{}) }, nil, oms.Malformed},
		{"a resource twice", files, func(d *doc) { d.setResources(append(d.resources(), d.resource(0))); d.reroot() }, nil, oms.Malformed},
		{"algorithm is not the hash type", files, func(d *doc) { d.resource(0)["algorithm"] = "blake2b" }, nil, oms.Malformed},
		{"shard label with files", files, func(d *doc) { d.resource(0)["algorithm"] = "sha256-sharded-400" }, nil, oms.Malformed},
		{"hash type", files, func(d *doc) { d.serialization()["hash_type"] = "blake2b" }, nil, oms.Unsupported},
		{"method", files, func(d *doc) { d.serialization()["method"] = "dfs" }, nil, oms.Unsupported},
		{"symlinks unsaid", files, func(d *doc) { delete(d.serialization(), "allow_symlinks") }, nil, oms.Malformed},
		{"shard size with files", files, func(d *doc) { d.serialization()["shard_size"] = 5 }, nil, oms.Malformed},
		{"upper-case digest", files, func(d *doc) {
			r := d.resource(0)
			r["digest"] = string(bytes.ToUpper([]byte(r["digest"].(string))))
		}, nil, oms.Malformed},
		{"short digest", files, func(d *doc) { d.resource(0)["digest"] = "00" }, nil, oms.Malformed},
		{"path goes up", files, func(d *doc) { d.resource(0)["name"] = "../evil" }, nil, oms.Irregular},
		{"absolute path", files, func(d *doc) { d.resource(0)["name"] = "/etc/passwd" }, nil, oms.Irregular},
		{"path not clean", files, func(d *doc) { d.resource(0)["name"] = "a//b" }, nil, oms.Irregular},
		{"backslash", files, func(d *doc) { d.resource(0)["name"] = `a\b` }, nil, oms.Irregular},
		{"ignored path goes up", files, func(d *doc) { d.serialization()["ignore_paths"] = []any{"../x"} }, nil, oms.Irregular},
		{"file and folder", files, func(d *doc) { d.resource(2)["name"] = "a" }, nil, oms.Malformed},
		{"no shard size", shards, func(d *doc) { delete(d.serialization(), "shard_size") }, nil, oms.Malformed},
		{"shard size zero", shards, func(d *doc) { d.serialization()["shard_size"] = 0 }, nil, oms.Malformed},
		{"shard size not whole", shards, func(d *doc) { d.serialization()["shard_size"] = 400.5 }, nil, oms.Malformed},
		{"shard without range", shards, func(d *doc) { d.resource(0)["name"] = "a.b" }, nil, oms.Malformed},
		{"shard range with sign", shards, func(d *doc) { d.resource(0)["name"] = "a.b:+0:3" }, nil, oms.Malformed},
		{"shard does not begin at 0", shards, func(d *doc) { d.resource(0)["name"] = "a.b:1:3" }, nil, oms.Uncovered},
		{"empty shard", shards, func(d *doc) { d.resource(0)["name"] = "a.b:0:0" }, nil, oms.Uncovered},
		{"gap", shards, func(d *doc) { r := d.resources(); d.setResources(append(r[:3:3], r[4:]...)); d.reroot() }, nil, oms.Uncovered},
		{"overlap", shards, func(d *doc) {
			r := d.resources()
			d.setResources(append(r, map[string]any{"name": "a.b:2:3", "algorithm": "sha256", "digest": d.resource(0)["digest"]}))
			d.reroot()
		}, nil, oms.Uncovered},
		{"shard over the size", shards, func(d *doc) { d.resource(0)["name"] = "a.b:0:401" }, nil, oms.Uncovered},
		{"duplicate key", files, nil, func(b []byte) []byte {
			return bytes.Replace(b, []byte(`{"_type"`), []byte(`{"_type":"x","_type"`), 1)
		}, oms.Malformed},
		{"key that differs by case", files, nil, func(b []byte) []byte {
			return bytes.Replace(b, []byte(`"predicateType"`), []byte(`"PredicateType":"x","predicateType"`), 1)
		}, oms.Malformed},
		{"something after", files, nil, func(b []byte) []byte { return append(b, "{}"...) }, oms.Malformed},
		{"not UTF-8", files, nil, func(b []byte) []byte { return bytes.Replace(b, []byte("weights"), []byte("w\xff"), 1) }, oms.Malformed},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b, err := oms.Parse(resign(t, c.m, k, c.change, c.raw))
			if err != nil {
				t.Fatalf("the envelope must be good: %v", err)
			}
			_, err = b.VerifyKey(&k.PublicKey)
			wantClass(t, err, c.want)
		})
	}
}

// What the reference implementation writes differently is understood.
func TestForeignHabitsAreAccepted(t *testing.T) {
	t.Parallel()
	dir, k := model(t), key(t, elliptic.P256())
	shards := hash(t, dir, oms.Options{Method: oms.Shards, ShardSize: 400})
	accept := func(name string, change func(*doc)) {
		b, err := oms.Parse(resign(t, shards, k, change, nil))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		m, err := b.VerifyKey(&k.PublicKey)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if err := m.Check(t.Context(), dir, oms.CheckOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	accept("labels with the shard size", func(d *doc) {
		for i := range d.resources() {
			d.resource(i)["algorithm"] = "sha256-sharded-400"
		}
	})
	accept("another order", func(d *doc) {
		r := d.resources()
		r[0], r[1] = r[1], r[0]
		d.reroot()
	})
	accept("empty log entries", func(d *doc) { d.bundle["verificationMaterial"].(map[string]any)["tlogEntries"] = []any{} })
	accept("a foreign or null keyid", func(d *doc) {
		d.bundle["dsseEnvelope"].(map[string]any)["signatures"].([]any)[0].(map[string]any)["keyid"] = "whatever"
	})
	accept("bundles before 1.0", func(d *doc) {
		d.bundle["verificationMaterial"] = map[string]any{"publicKey": map[string]any{"rawBytes": "AAAA", "keyDetails": "PKIX_ECDSA_P256_SHA_256"}}
	})
}

func TestEnvelopesThatAreNotOMSAreRefused(t *testing.T) {
	t.Parallel()
	dir, k := model(t), key(t, elliptic.P256())
	m := hash(t, dir, oms.Options{})
	env := func(d *doc) map[string]any { return d.bundle["dsseEnvelope"].(map[string]any) }
	mat := func(d *doc) map[string]any { return d.bundle["verificationMaterial"].(map[string]any) }
	for name, c := range map[string]struct {
		change func(*doc)
		want   oms.Class
	}{
		"media type":    {func(d *doc) { d.bundle["mediaType"] = "application/json" }, oms.Malformed},
		"payload type":  {func(d *doc) { env(d)["payloadType"] = "text/plain" }, oms.Malformed},
		"unknown field": {func(d *doc) { d.bundle["extra"] = 1 }, oms.Malformed},
		"no signature":  {func(d *doc) { env(d)["signatures"] = []any{} }, oms.Malformed},
		"two signatures": {func(d *doc) {
			s := env(d)["signatures"].([]any)
			env(d)["signatures"] = append(s, map[string]any{"sig": "AA=="})
		}, oms.Malformed},
		"no material":        {func(d *doc) { d.bundle["verificationMaterial"] = map[string]any{} }, oms.Malformed},
		"two materials":      {func(d *doc) { mat(d)["x509CertificateChain"] = map[string]any{"certificates": []any{}} }, oms.Malformed},
		"keyless":            {func(d *doc) { mat(d)["certificate"] = map[string]any{"rawBytes": "AA=="} }, oms.Unsupported},
		"case-variant field": {func(d *doc) { d.bundle["mediatype"] = d.bundle["mediaType"] }, oms.Malformed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := oms.Parse(resign(t, m, k, c.change, nil))
			wantClass(t, err, c.want)
		})
	}
	_, err := oms.Parse(make([]byte, oms.MaxBundle+1))
	wantClass(t, err, oms.TooLarge)
}

// steady is a key that signs without randomness.
type steady struct{ *ecdsa.PrivateKey }

func (s steady) Sign(_ io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	return s.PrivateKey.Sign(nil, digest, o)
}

func FuzzParse(f *testing.F) {
	dir, k := model(f), key(f, elliptic.P256())
	for _, o := range []oms.Options{{}, {Method: oms.Shards, ShardSize: 400}} {
		raw, err := oms.Sign(hash(f, dir, o), k)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte(`{"mediaType":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := oms.Parse(data)
		if err != nil {
			return
		}
		m, err := b.Unverified()
		if err != nil {
			return
		}
		// What is read can be said again and is then read as the same.
		if again, err := oms.Sign(m, steady{k}); err == nil {
			b2, err := oms.Parse(again)
			if err != nil {
				t.Fatal(err)
			}
			m2, err := b2.VerifyKey(&k.PublicKey)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(m, m2); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}

// FuzzStatement puts the payload behind the right signature.
func FuzzStatement(f *testing.F) {
	dir, k := model(f), key(f, elliptic.P256())
	m := hash(f, dir, oms.Options{Method: oms.Shards, ShardSize: 400})
	resign(f, m, k, nil, func(b []byte) []byte { f.Add(b); return b })
	resign(f, hash(f, dir, oms.Options{}), k, nil, func(b []byte) []byte { f.Add(b); return b })
	f.Fuzz(func(t *testing.T, payload []byte) {
		b, err := oms.Parse(resign(t, m, k, nil, func([]byte) []byte { return payload }))
		if err != nil {
			t.Fatal(err)
		}
		got, err := b.VerifyKey(&k.PublicKey)
		if err != nil {
			if oms.ClassOf(err) == oms.Unclassified || oms.ClassOf(err) == oms.Signature {
				t.Fatal(err)
			}
			return
		}
		for _, file := range got.Files() {
			if filepath.IsAbs(file.Path) || !filepath.IsLocal(file.Path) {
				t.Fatalf("path %q gets out of the folder", file.Path)
			}
		}
	})
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
