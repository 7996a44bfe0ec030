package oms_test

import (
	"crypto/elliptic"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/pkg/oms"
)

// seeds are the bundles of the committed vectors.
func seeds(f *testing.F, family string) [][]byte {
	f.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "vectors", family+".json"))
	must(f, err)
	var read struct{ Vectors []struct{ Bundle string } }
	must(f, json.Unmarshal(data, &read))
	var out [][]byte
	for _, v := range read.Vectors {
		out = append(out, []byte(v.Bundle))
	}
	return out
}

// What is read can be said again and is then read as the same.
func FuzzParse(f *testing.F) {
	k := named(f, "publisher", elliptic.P256())
	for _, family := range []string{"roundtrip", "bundle", "foreign", "historical"} {
		for _, s := range seeds(f, family) {
			f.Add(s)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := oms.ParseHistorical(data)
		if err != nil {
			classified(t, err)
			return
		}
		m, err := b.Unverified()
		if err != nil {
			classified(t, err)
			return
		}
		again, err := oms.Sign(m, k)
		if err != nil {
			return // of an older shape, or in another order
		}
		b2, err := oms.Parse(again)
		must(t, err)
		m2, err := b2.VerifyKey(&k.PublicKey)
		must(t, err)
		if diff := cmp.Diff(m, m2); diff != "" {
			t.Fatal(diff)
		}
	})
}

// FuzzStatement puts the payload behind the right signature.
func FuzzStatement(f *testing.F) {
	k := named(f, "publisher", elliptic.P256())
	for _, family := range []string{"roundtrip", "statement", "json", "path", "shard", "foreign"} {
		for _, s := range seeds(f, family) {
			var b struct{ DsseEnvelope struct{ Payload []byte } }
			must(f, json.Unmarshal(s, &b))
			f.Add(b.DsseEnvelope.Payload)
		}
	}
	good := seeds(f, "roundtrip")[0]
	f.Fuzz(func(t *testing.T, payload []byte) {
		b, err := oms.Parse(resign(t, good, k, nil, func([]byte) []byte { return payload }, nil))
		must(t, err)
		m, err := b.VerifyKey(&k.PublicKey)
		if err != nil {
			if classified(t, err); oms.ClassOf(err) == oms.Signature {
				t.Fatal(err)
			}
			return
		}
		for _, file := range m.Files() {
			at := int64(0)
			for _, r := range file.Ranges {
				if m.Method == oms.Shards && (r.Start != at || r.End <= r.Start) {
					t.Fatalf("%q: range %d:%d does not follow byte %d", file.Path, r.Start, r.End, at)
				}
				at = r.End
			}
			if !filepath.IsLocal(file.Path) || filepath.Clean(file.Path) != file.Path || strings.Contains(file.Path, `\`) {
				t.Fatalf("path %q gets out of the folder", file.Path)
			}
		}
	})
}

// What the reader accepts, encoding/json accepts and understands the same.
func FuzzStrictJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,-0.5e+3,true,false,null,"x\u00e9\ud83d\ude00"]}`, `{"a":1,"A":2}`, `"\ud800"`, `[01]`, `{} {}`, `"`, `-`, `{"a":`, "\"\x00\"", `{"s":1,"ſ":2}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v any
		if err := oms.DecodeStrict(data, &v); err != nil {
			return
		}
		var w any
		if err := json.Unmarshal(data, &w); err != nil {
			t.Fatalf("encoding/json refuses it: %v", err)
		}
		again, err := json.Marshal(v)
		must(t, err)
		var x any
		if err := oms.DecodeStrict(again, &x); err != nil || !cmp.Equal(w, x) {
			t.Fatalf("written again as %s: %v %s", again, err, cmp.Diff(w, x))
		}
	})
}

// Whatever a resource is called, it is refused or lies in the folder and comes
// back by the same name.
func FuzzPath(f *testing.F) {
	k := named(f, "publisher", elliptic.P256())
	for _, s := range []string{"a", "../a", "a/b", "/a", "a//b", "a:0:1", "é", "e\u0301", `a\b`, ".", "", "a\x00", "C:/a", ".git", "a/.."} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, path string, shards bool) {
		m := oms.Manifest{Name: "m", Method: oms.Files, Resources: []oms.Resource{{Path: path, End: -1}}}
		if shards {
			m.Method, m.ShardSize, m.Resources[0].End = oms.Shards, 8, 5
		}
		m.Root = rootOf(m.Resources)
		raw, err := oms.Sign(m, k)
		if err != nil {
			classified(t, err)
			return
		}
		b, err := oms.Parse(raw)
		must(t, err)
		got, err := b.VerifyKey(&k.PublicKey)
		must(t, err)
		if p := got.Resources[0].Path; p != path || !filepath.IsLocal(p) {
			t.Fatalf("%q came back as %q", path, p)
		}
	})
}

// classified fails when an error has no class.
func classified(t *testing.T, err error) {
	t.Helper()
	if oms.ClassOf(err) == oms.Unclassified {
		t.Fatalf("unclassified: %v", err)
	}
}
