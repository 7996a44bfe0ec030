package cli_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/cli"
	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// modelVector is one of pkg/oms's test vectors; their format is documented
// there.
type modelVector struct {
	Name, Method, Only, Key, Bundle, Want string
	Serialization                         string
	ShardSize                             int64
	Roots, Ignore                         []string
	Historical, IgnoreUnsigned            bool
	Model                                 []struct{ Path, PathHex, Text, Hex, Link, Kind string }
}

// lay makes the vector's model and returns its path.
func (v modelVector) lay(t *testing.T, dir string) string {
	t.Helper()
	must(t, os.Mkdir(dir, 0o755))
	for _, f := range v.Model {
		name, err := hex.DecodeString(f.PathHex)
		must(t, err)
		content, err := hex.DecodeString(f.Hex)
		must(t, err)
		path := filepath.Join(dir, f.Path+string(name))
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		switch {
		case f.Link != "":
			err = os.Symlink(f.Link, path)
		case f.Kind == "folder":
			err = os.Mkdir(path, 0o755)
		case f.Kind == "pipe":
			err = syscall.Mkfifo(path, 0o600)
		default:
			err = os.WriteFile(path, append([]byte(f.Text), content...), 0o644)
		}
		must(t, err)
	}
	return filepath.Join(dir, v.Only)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// runModel runs the program at a moment.
func runModel(t *testing.T, now time.Time, args ...string) (code int, said string) {
	t.Helper()
	var out bytes.Buffer
	code = cli.Run(t.Context(), cli.Options{
		Args: args, Streams: console.Streams{Out: &out, Err: &out}, Env: func(string) string { return "" },
		Now: func() time.Time { return now },
	})
	return code, out.String()
}

// Every vector of pkg/oms ends with the right exit code when it is run as the
// conformance suite runs an adapter: absolute paths, flags, and the code alone.
func TestTheAdapterEndsAsEachVectorSays(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../pkg/oms/testdata/vectors/*.json")
	must(t, err)
	if len(files) == 0 {
		t.Fatal("no vectors")
	}
	for _, path := range files {
		raw, err := os.ReadFile(path)
		must(t, err)
		var family struct {
			Family  string
			Now     time.Time
			Vectors []modelVector
		}
		must(t, json.Unmarshal(raw, &family))
		for _, v := range family.Vectors {
			if v.Want != "ok" && !v.Historical && family.Family == "historical" {
				continue // verify-model reads old bundles
			}
			t.Run(family.Family+"/"+v.Name, func(t *testing.T) {
				t.Parallel()
				v.check(t, family.Now)
			})
		}
	}
}

func (v modelVector) check(t *testing.T, now time.Time) {
	dir := t.TempDir()
	model := v.lay(t, filepath.Join(dir, "model"))
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(text), 0o644))
		return path
	}
	args := []string{"verify-model", "--method", v.Method, "--model-path", model, "--bundle", write("model.sig", v.Bundle)}
	want := fault.Untrusted.Exit()
	if v.Method == "" {
		args = []string{"sign-model", "--method", "key", "--model-path", model, "--output-bundle", filepath.Join(dir, "new.sig"), "--private-key", write("key.pem", newKey(t))}
		if v.Serialization == "shards" {
			args = append(args, "--shard-size", strconv.FormatInt(max(v.ShardSize, 1), 10))
		}
		want = fault.Invalid.Exit()
	}
	if v.Key != "" {
		args = append(args, "--public-key", write("key.pub", v.Key))
	}
	for i, root := range v.Roots {
		args = append(args, "--cert-chain", write("root"+strconv.Itoa(i)+".pem", root))
	}
	for _, p := range v.Ignore {
		if !filepath.IsLocal(p) {
			t.Skip("the adapter leaves out paths that lie elsewhere")
		}
		args = append(args, "--ignore-paths", filepath.Join(model, p))
	}
	if v.IgnoreUnsigned {
		args = append(args, "--ignore-unsigned-files")
	}
	switch {
	case v.Want == "ok":
		want = 0
	case v.Method == "" && v.Serialization != "shards" && (v.ShardSize != 0 || v.Serialization != ""), v.ShardSize < 0:
		t.Skip("the adapter cannot be asked for it")
	case v.Method == "key" && v.Key == "", v.Method == "certificate" && len(v.Roots) == 0:
		want = fault.Invalid.Exit() // the flag is needed
	}
	if code, said := runModel(t, now, args...); code != want {
		t.Errorf("exit %d, want %d (%s): %s", code, want, v.Want, said)
	}
}

// What the adapter cannot do it says, and ends with another code than 0.
func TestTheAdapterRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	id, dir := newIdentity(t, elliptic.P256(), moment), t.TempDir()
	model, bundle := filepath.Join(dir, "model"), filepath.Join(dir, "b.sig")
	must(t, os.Mkdir(model, 0o755))
	must(t, os.WriteFile(filepath.Join(model, "w"), []byte("x"), 0o644))
	for want, calls := range map[fault.Kind][][]string{
		fault.Invalid: {
			{"sign-model", "--method", "key", "--model-path", model, "--output-bundle", bundle},
			{"sign-model", "--method", "key", "--model-path", model, "--private-key", id.key},
			{"sign-model", "--method", "certificate", "--model-path", model, "--output-bundle", bundle, "--private-key", id.key},
			{"sign-model", "--method", "key", "--model-path", model, "--output-bundle", bundle, "--private-key", id.pub},
			{"sign-model", "--method", "certificate", "--model-path", model, "--output-bundle", bundle, "--private-key", id.key, "--signing-cert", id.key},
			{"verify-model", "--method", "key", "--model-path", model, "--bundle", bundle},
			{"verify-model", "--method", "certificate", "--model-path", model, "--bundle", bundle},
			{"verify-model", "--model-path", model, "--bundle", bundle, "--public-key", id.pub},
		},
		fault.NotFound: {
			{"sign-model", "--method", "key", "--model-path", filepath.Join(dir, "none"), "--output-bundle", bundle, "--private-key", id.key},
			{"sign-model", "--method", "key", "--model-path", model, "--output-bundle", bundle, "--private-key", filepath.Join(dir, "none")},
			{"verify-model", "--method", "key", "--model-path", model, "--bundle", filepath.Join(dir, "none"), "--public-key", id.pub},
		},
	} {
		for _, args := range calls {
			if code, said := runModel(t, moment, args...); code != want.Exit() {
				t.Errorf("%q: exit %d, want %d: %s", args, code, want.Exit(), said)
			}
		}
	}
}

func newKey(t *testing.T) string {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalECPrivateKey(k)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

// identity is a key and its own certificate, in files.
type identity struct{ key, pub, cert string }

func newIdentity(t *testing.T, curve elliptic.Curve, now time.Time) identity {
	t.Helper()
	dir := t.TempDir()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	must(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "self"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	cert, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(k)
	must(t, err)
	public, err := x509.MarshalPKIXPublicKey(k.Public())
	must(t, err)
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o644))
		return path
	}
	return identity{write("key.pem", "PRIVATE KEY", private), write("key.pub", "PUBLIC KEY", public), write("cert.pem", "CERTIFICATE", cert)}
}

// What sign-model writes, verify-model accepts, by either method, for each
// curve, also when the bundle lies in the model; and it says of itself what the
// suite looks at.
func TestWhatTheAdapterSignsItVerifies(t *testing.T) {
	t.Parallel()
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		for _, method := range []string{"key", "certificate"} {
			t.Run(method+"/"+curve.Params().Name, func(t *testing.T) {
				t.Parallel()
				model := filepath.Join(t.TempDir(), "model")
				must(t, os.Mkdir(model, 0o755))
				for name, text := range map[string]string{"b": "two", "a": "one", "left-out": "", ".gitignore": "x"} {
					must(t, os.WriteFile(filepath.Join(model, name), []byte(text), 0o644))
				}
				id, bundle := newIdentity(t, curve, moment), filepath.Join(model, "bundle.sig")
				sign := []string{"sign-model", "--model-path", model, "--method", method, "--output-bundle", bundle, "--private-key", id.key, "--ignore-paths", filepath.Join(model, "left-out")}
				verify := []string{"verify-model", "--bundle", bundle, "--method", method, "--model-path", model}
				if method == "key" {
					verify = append(verify, "--public-key", id.pub)
				} else {
					sign = append(sign, "--signing-cert", id.cert, "--cert-chain", id.cert)
					verify = append(verify, "--cert-chain", id.cert)
				}
				for _, args := range [][]string{sign, verify, sign, verify} { // twice: the old bundle is no part of the model
					if code, said := runModel(t, moment, args...); code != 0 {
						t.Fatalf("%s: exit %d: %s", args[0], code, said)
					}
				}
				looksAsTheSuiteWants(t, bundle, "model", []string{"a", "b"})
				must(t, os.WriteFile(filepath.Join(model, "b"), []byte("twO"), 0o644))
				if code, said := runModel(t, moment, verify...); code != fault.Untrusted.Exit() {
					t.Errorf("after a change: exit %d: %s", code, said)
				}
			})
		}
	}
}

// looksAsTheSuiteWants asserts what the conformance suite asserts of a bundle.
func looksAsTheSuiteWants(t *testing.T, path, name string, files []string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	must(t, err)
	var b struct {
		MediaType            string
		VerificationMaterial struct {
			PublicKey            *struct{ Hint string }
			X509CertificateChain *struct{ Certificates []struct{ RawBytes string } }
		}
		DsseEnvelope struct{ Payload, PayloadType string }
	}
	must(t, json.Unmarshal(raw, &b))
	payload, err := base64.StdEncoding.DecodeString(b.DsseEnvelope.Payload)
	must(t, err)
	var s struct {
		Type          string `json:"_type"`
		PredicateType string
		Subject       []struct{ Name string }
		Predicate     struct {
			Serialization map[string]any
			Resources     []struct{ Name, Algorithm string }
		}
	}
	must(t, json.Unmarshal(payload, &s))
	ser, material := s.Predicate.Serialization, b.VerificationMaterial
	if b.MediaType != "application/vnd.dev.sigstore.bundle.v0.3+json" || s.PredicateType != "https://model_signing/signature/v1.0" ||
		s.Type != "https://in-toto.io/Statement/v1" || b.DsseEnvelope.PayloadType != "application/vnd.in-toto+json" {
		t.Errorf("types: %s %s %s", b.MediaType, s.Type, s.PredicateType)
	}
	if k := material.PublicKey; k != nil && len(k.Hint) != 64 || k == nil && len(material.X509CertificateChain.Certificates) != 1 {
		t.Errorf("verification material %+v", material)
	}
	if len(s.Subject) != 1 || s.Subject[0].Name != name {
		t.Errorf("subject %+v, want %s", s.Subject, name)
	}
	if ser["method"] != "files" || ser["hash_type"] != "sha256" || ser["allow_symlinks"] != false || ser["shard_size"] != nil {
		t.Errorf("serialization %v", ser)
	}
	var got []string
	for _, r := range s.Predicate.Resources {
		got = append(got, r.Name)
		if r.Algorithm != "sha256" {
			t.Errorf("%s: algorithm %s", r.Name, r.Algorithm)
		}
	}
	if len(got) != len(files) || got[0] != files[0] || got[1] != files[1] {
		t.Errorf("signed %q, want %q in this order", got, files)
	}
}

// The registry's optional hashes are for models that others signed: what one run
// of the program signs another verifies, and the root digest is SHA-256 always.
func TestModelsMayBeHashedOtherwise(t *testing.T) {
	t.Parallel()
	id, dir := newIdentity(t, elliptic.P256(), moment), t.TempDir()
	model := filepath.Join(dir, "model")
	must(t, os.Mkdir(model, 0o755))
	must(t, os.WriteFile(filepath.Join(model, "w"), []byte("weights"), 0o644))
	for name, size := range map[string]int{"blake2b": 64, "blake3": 32} {
		for _, shards := range []string{"0", "3"} {
			bundle := filepath.Join(dir, name+shards)
			if code, said := runModel(t, moment, "sign-model", "--method", "key", "--model-path", model, "--output-bundle", bundle, "--private-key", id.key, "--hash-algorithm", name, "--shard-size", shards); code != 0 {
				t.Fatal(said)
			}
			var b struct{ DsseEnvelope struct{ Payload []byte } }
			raw, err := os.ReadFile(bundle)
			must(t, err)
			must(t, json.Unmarshal(raw, &b))
			said := string(b.DsseEnvelope.Payload)
			if !strings.Contains(said, `"hash_type":"`+name+`"`) || !regexp.MustCompile(fmt.Sprintf(`"digest":"[0-9a-f]{%d}"`, 2*size)).MatchString(said) {
				t.Errorf("signed %s", said)
			}
			verify := []string{"verify-model", "--method", "key", "--model-path", model, "--bundle", bundle, "--public-key", id.pub}
			if code, said := runModel(t, moment, verify...); code != 0 {
				t.Errorf("%s in shards of %s: %s", name, shards, said)
			}
			must(t, os.WriteFile(filepath.Join(model, "w"), []byte("poison!"), 0o644))
			if code, said := runModel(t, moment, verify...); code != fault.Untrusted.Exit() {
				t.Errorf("%s in shards of %s, changed: exit %d: %s", name, shards, code, said)
			}
			must(t, os.WriteFile(filepath.Join(model, "w"), []byte("weights"), 0o644))
		}
	}
}

// The two calls that the suite's benchmarks make besides.
func TestTheSuitesBenchmarksAreAnswered(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Mkdir(at("model"), 0o755))
	must(t, os.WriteFile(at("model/weights.bin"), []byte("weights"), 0o644))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	must(t, os.WriteFile(at("key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	must(t, os.WriteFile(at("key.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o644))

	var can struct {
		Flags  []string `json:"flags"`
		Hashes []string `json:"hash_algorithms"`
		Timed  bool     `json:"benchmark_model"`
	}
	code, said := runModel(t, moment, "capabilities")
	if err := json.Unmarshal([]byte(said), &can); code != 0 || err != nil || !can.Timed || len(can.Flags) == 0 || len(can.Hashes) != 3 {
		t.Fatalf("exit %d, %v: %s", code, err, said)
	}
	timed := func(args ...string) {
		t.Helper()
		var out struct {
			Times []float64 `json:"times_ms"`
		}
		code, said := runModel(t, moment, append(args, "--method", "key", "--model-path", at("model"), "--repeat", "3", "--max-workers", "2")...)
		if err := json.Unmarshal([]byte(said), &out); code != 0 || err != nil || len(out.Times) != 3 || out.Times[0] <= 0 {
			t.Errorf("%v: exit %d, %v: %s", args, code, err, said)
		}
	}
	timed("benchmark-model", "--operation", "sign", "--private-key", at("key.pem"), "--output-bundle", at("model.sig"), "--hash-algorithm", "blake2b")
	timed("benchmark-model", "--operation", "sign", "--private-key", at("key.pem"), "--shard-size", "4")
	timed("benchmark-model", "--operation", "verify", "--public-key", at("key.pub"), "--bundle", at("model.sig"))
	for _, args := range [][]string{{"--operation", "hash"}, {"--operation", "sign", "--repeat", "0"}, {"--operation", "verify"}} {
		if code, said := runModel(t, moment, append(args, "benchmark-model", "--method", "key", "--model-path", at("model"))...); code != fault.Invalid.Exit() {
			t.Errorf("%v: exit %d: %s", args, code, said)
		}
	}
}
