package oms_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/pkg/oms"
)

var update = flag.Bool("update", false, "make the test vectors anew")

// vector is one case of testdata/vectors, for readers in any language: a model,
// a bundle, whom to trust, and what must come of it.
type vector struct {
	Name   string `json:"name"`
	Method string `json:"method,omitempty"` // key or certificate; empty: sign the model
	Model  []file `json:"model"`
	Only   string `json:"only,omitempty"` // the model is this file of the folder
	// How to sign, or how it was signed.
	Serialization oms.Method `json:"serialization,omitempty"`
	ShardSize     int64      `json:"shardSize,omitempty"`
	// How to verify.
	Key            string   `json:"key,omitempty"`   // PEM
	Roots          []string `json:"roots,omitempty"` // PEM
	Historical     bool     `json:"historical,omitempty"`
	Ignore         []string `json:"ignore,omitempty"`
	IgnoreUnsigned bool     `json:"ignoreUnsigned,omitempty"`
	Bundle         string   `json:"bundle,omitempty"`
	// Want is "ok" or the class of the error, and From the step that gives it:
	// "parse", "verify", "check" or "sign".
	Want string `json:"want"`
	From string `json:"from,omitempty"`
	Root string `json:"root,omitempty"` // the root digest, when it is ok
}

// family is one file of vectors.
type family struct {
	Family  string    `json:"family"`
	About   string    `json:"about"`
	Now     time.Time `json:"now"`
	Vectors []vector  `json:"vectors"`
}

// The committed vectors are what the generator makes, and each ends as it says.
func TestVectors(t *testing.T) {
	dir := filepath.Join("testdata", "vectors")
	total := 0
	for _, f := range generate(t) {
		made, err := json.MarshalIndent(f, "", "\t")
		must(t, err)
		path := filepath.Join(dir, f.Family+".json")
		if *update {
			must(t, os.WriteFile(path, append(made, '\n'), 0o644))
		}
		kept, err := os.ReadFile(path)
		must(t, err)
		if diff := cmp.Diff(string(bytes.TrimSpace(kept)), string(made)); diff != "" {
			t.Fatalf("%s is not what the generator makes; look, then run with -update (-kept +made):\n%.2000s", path, diff)
		}
		var read family
		must(t, json.Unmarshal(kept, &read))
		names := map[string]bool{}
		for _, v := range read.Vectors {
			if names[v.Name] {
				t.Errorf("%s: two vectors are called %q", f.Family, v.Name)
			}
			names[v.Name] = true
			total++
			t.Run(f.Family+"/"+v.Name, func(t *testing.T) {
				t.Parallel()
				v.run(t, read.Now)
			})
		}
	}
	t.Logf("%d vectors", total)
}

// run does what the vector says.
func (v vector) run(t *testing.T, now time.Time) {
	dir := filepath.Join(t.TempDir(), "model")
	must(t, os.Mkdir(dir, 0o755))
	lay(t, dir, v.Model)
	path := dir
	if v.Only != "" {
		path = filepath.Join(dir, v.Only)
	}
	from, root, err := v.outcome(t, path, now)
	got := "ok"
	if err != nil {
		got = oms.ClassOf(err).String()
	} else if from = ""; root != v.Root {
		t.Errorf("root digest %s, want %s", root, v.Root)
	}
	if got != v.Want || from != v.From {
		t.Errorf("%s from %q, want %s from %q: %v", got, from, v.Want, v.From, err)
	}
}

func (v vector) outcome(t *testing.T, path string, now time.Time) (from, root string, err error) {
	if v.Method == "" {
		m, err := oms.Hash(t.Context(), path, oms.Options{Method: v.Serialization, ShardSize: v.ShardSize, Ignore: v.Ignore})
		return "sign", m.Root.String(), err
	}
	parse := oms.Parse
	if v.Historical {
		parse = oms.ParseHistorical
	}
	b, err := parse([]byte(v.Bundle))
	if err != nil {
		return "parse", "", err
	}
	var m oms.Manifest
	if v.Method == "key" {
		m, err = b.VerifyKey(readKey(t, v.Key))
	} else {
		pool := x509.NewCertPool()
		for _, root := range v.Roots {
			if !pool.AppendCertsFromPEM([]byte(root)) {
				t.Fatal("no certificate in a root")
			}
		}
		m, err = b.VerifyCertificate(pool, now)
	}
	if err != nil {
		return "verify", "", err
	}
	return "check", m.Root.String(), m.Check(t.Context(), path, oms.CheckOptions{Ignore: v.Ignore, IgnoreUnsigned: v.IgnoreUnsigned})
}

func readKey(t *testing.T, text string) *ecdsa.PublicKey {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	must(t, err)
	return pub.(*ecdsa.PublicKey)
}

// builder makes a family.
type builder struct {
	t testing.TB
	family
	key steady // signs by default
}

// signed makes a bundle over files, and the vector that accepts it.
func (b *builder) signed(name string, files []file, o oms.Options) vector {
	b.t.Helper()
	dir := filepath.Join(b.t.TempDir(), "model")
	must(b.t, os.Mkdir(dir, 0o755))
	lay(b.t, dir, files)
	m, err := oms.Hash(b.t.Context(), dir, o)
	must(b.t, err)
	raw, err := oms.Sign(m, b.key)
	must(b.t, err)
	return vector{Name: name, Method: "key", Model: files, Serialization: o.Method, ShardSize: o.ShardSize,
		Key: publicPEM(b.t, b.key), Bundle: string(raw), Want: "ok", Root: m.Root.String()}
}

// add takes a vector.
func (b *builder) add(v vector) { b.Vectors = append(b.Vectors, v) }

// refuse takes a vector that ends with a class, from a step.
func (b *builder) refuse(v vector, from string, want oms.Class) {
	v.Want, v.From, v.Root = want.String(), from, ""
	b.add(v)
}

// changed is v with its bundle changed and signed again by the right key.
func (b *builder) changed(v vector, name string, change func(*doc), raw func([]byte) []byte) vector {
	b.t.Helper()
	v.Name, v.Bundle = name, string(resign(b.t, []byte(v.Bundle), b.key, change, raw, nil))
	return v
}
