package oms_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/sha256"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/pkg/oms"
)

// rootOf is the root digest of resources in the order given.
func rootOf(rs []oms.Resource) oms.Digest {
	h := sha256.New()
	for _, r := range rs {
		h.Write(r.Digest[:])
	}
	return oms.Digest(h.Sum(nil))
}

// drawModel draws a folder's files; none is a folder of another.
func drawModel(t *rapid.T) map[string][]byte {
	name := rapid.StringMatching(`[a-c.é :]{1,4}`).Filter(func(s string) bool { return s != "." && s != ".." })
	content := rapid.SliceOfN(rapid.Byte(), 1, 40)
	model := map[string][]byte{}
	for range rapid.IntRange(1, 6).Draw(t, "files") {
		path := "d" + name.Draw(t, "folder") + "/f" + name.Draw(t, "name")
		if rapid.Bool().Draw(t, "top") {
			path = "f" + name.Draw(t, "name")
		}
		model[path] = content.Draw(t, "content")
	}
	return model
}

func layMap(t testing.TB, model map[string][]byte) string {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "m")
	must(t, err)
	for path, content := range model {
		write(t, dir, path, content)
	}
	return dir
}

func drawOptions(t *rapid.T) oms.Options {
	o := oms.Options{Workers: rapid.IntRange(1, 4).Draw(t, "workers")}
	if rapid.Bool().Draw(t, "shards") {
		o.Method, o.ShardSize = oms.Shards, rapid.Int64Range(1, 50).Draw(t, "shard size")
	}
	return o
}

// WhatIsSignedIsRead: a folder is what its bundle says, and only that folder.
func TestLawWhatIsSignedIsRead(t *testing.T) {
	t.Parallel()
	k := named(t, "publisher", elliptic.P256())
	rapid.Check(t, func(rt *rapid.T) {
		model := drawModel(rt)
		dir := layMap(t, model)
		m, err := oms.Hash(t.Context(), dir, drawOptions(rt))
		if err != nil {
			rt.Fatal(err)
		}
		raw, err := oms.Sign(m, k)
		if err != nil {
			rt.Fatal(err)
		}
		b, err := oms.Parse(raw)
		if err != nil {
			rt.Fatal(err)
		}
		got, err := b.VerifyKey(&k.PublicKey)
		if err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(m, got); diff != "" {
			rt.Fatalf("signed and read differ:\n%s", diff)
		}
		if err := got.Check(t.Context(), dir, oms.CheckOptions{}); err != nil {
			rt.Fatal(err)
		}
		paths := slices.Sorted(maps.Keys(model))
		path := rapid.SampledFrom(paths).Draw(rt, "changed")
		content := bytes.Clone(model[path])
		what := rapid.SampledFrom([]string{"flip", "cut", "grow", "remove", "add"}).Draw(rt, "change")
		switch what {
		case "flip":
			content[rapid.IntRange(0, len(content)-1).Draw(rt, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(rt, "bit")
		case "cut":
			content = content[:rapid.IntRange(0, len(content)-1).Draw(rt, "length")]
		case "grow":
			content = append(content, 0)
		case "add":
			path = "zz"
		}
		if at := filepath.Join(dir, path); what == "remove" {
			err = os.Remove(at)
		} else {
			err = os.WriteFile(at, content, 0o644)
		}
		if err != nil {
			rt.Fatal(err)
		}
		if err := got.Check(t.Context(), dir, oms.CheckOptions{}); err == nil {
			rt.Fatalf("%s of %q went unseen", what, path)
		}
	})
}

// TheRootIsTheContents: the root digest hangs on names and bytes, and on neither
// the number of workers nor where the folder lies. Whole files and one shard of
// each have the same digests.
func TestLawTheRootIsTheContents(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		model := drawModel(rt)
		o := drawOptions(rt)
		a, err := oms.Hash(t.Context(), layMap(t, model), o)
		if err != nil {
			rt.Fatal(err)
		}
		o.Workers = 1
		b, err := oms.Hash(t.Context(), layMap(t, model), o)
		if err != nil {
			rt.Fatal(err)
		}
		if a.Root != b.Root {
			rt.Fatalf("root %s and %s", a.Root, b.Root)
		}
		for _, f := range a.Files() {
			if f.Size >= 0 && f.Size != int64(len(model[f.Path])) {
				rt.Fatalf("%q: %d bytes signed of %d", f.Path, f.Size, len(model[f.Path]))
			}
			for _, r := range f.Ranges {
				part := model[f.Path]
				if r.End >= 0 {
					part = part[r.Start:r.End]
				}
				if sha256.Sum256(part) != r.Digest {
					rt.Fatalf("%q: digest of %d:%d", f.Path, r.Start, r.End)
				}
			}
		}
	})
}

// PythonBytes is what Python 3 prints.
func TestPythonBytesAreWhatPythonPrints(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                         `b''`,
		"{\"a\": 1}\n":             `b'{"a": 1}\n'`,
		"it's":                     `b"it's"`,
		"it's \"so\"":              `b'it\'s "so"'`,
		"\t\r\x00\x1f\x7f\\é/\"~ ": `b'\t\r\x00\x1f\x7f\\\xc3\xa9/"~ '`,
	} {
		if got := oms.PythonBytes([]byte(in)); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
