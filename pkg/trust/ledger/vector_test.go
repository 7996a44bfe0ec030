package ledger_test

import (
	"bytes"
	"context"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

var update = flag.Bool("update", false, "rewrite testdata/vector")

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The committed log lies as C2SP's tlog-tiles wants it, and every later version
// must write it the same and read it the same. Its key is for tests.
func TestTheCommittedLog(t *testing.T) {
	t.Parallel()
	const (
		private = "PRIVATE+KEY+modelfleet/vector+d02e76a7+AQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
		dir     = "testdata/vector"
	)
	keyed := testKey(t, private)
	w := newWorld(t, 0)
	w.signer = keyed
	for i := range 300 {
		w.add(entry(i))
	}
	w.write(0)
	cp := w.checkpoint(300)
	cp.Origin = keyed.Name()
	w.bucket[ledger.CheckpointKey] = []byte(must(cp.Sign(keyed))(t))
	if *update {
		for key, body := range w.bucket {
			write(t, filepath.Join(dir, key), string(body))
		}
	}
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, filepath.ToSlash(strings.TrimPrefix(path, dir+"/")))
		}
		return err
	})
	if err != nil || len(files) != len(w.bucket)+1 {
		t.Fatalf("%d files, want %d and the public key: %v", len(files), len(w.bucket), err)
	}
	get := func(_ context.Context, key string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, key)) }
	for key, want := range w.bucket {
		if got, err := get(t.Context(), key); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what is written now: %v", key, err)
		}
	}
	key := must(ledger.ParseKey(string(must(os.ReadFile(dir + "/audit.vkey"))(t))))(t)
	head := must(ledger.Open(string(must(os.ReadFile(dir+"/audit/checkpoint"))(t)), key))(t)
	n := 0
	if _, err := ledger.Verify(t.Context(), get, head, func(uint64, []byte, ledger.Entry) error { n++; return nil }); err != nil || n != 300 {
		t.Errorf("read %d entries: %v", n, err)
	}
}

// testKey reads a private key whose hash is made to fit.
func testKey(t *testing.T, private string) note.Signer {
	path := filepath.Join(t.TempDir(), "k")
	write(t, path, private)
	s, public, err := ledger.LoadKey(path, "vector")
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		write(t, "testdata/vector/audit.vkey", public+"\n")
	}
	return s
}

func FuzzOpen(f *testing.F) {
	w := newWorld(f, 3)
	want := w.checkpoint(3)
	f.Add(string(w.bucket[ledger.CheckpointKey]))
	f.Add("modelfleet/plant\n3\nAAAA\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ledger.Peek(text)
		if err == nil && (c.Origin == "" || strings.Contains(c.Origin, "\n")) {
			t.Errorf("origin %q", c.Origin)
		}
		if got, err := ledger.Open(text, w.key); err == nil && got != want {
			t.Errorf("a checkpoint that was never signed: %v", got)
		}
	})
}

func FuzzParseProof(f *testing.F) {
	w := newWorld(f, 5)
	want := w.checkpoint(5)
	f.Add([]byte(`{"checkpoint":"x","index":1,"leaf":{},"path":["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="],"since":[{"size":1,"path":[]}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := ledger.ParseProof(raw)
		if err != nil {
			return
		}
		if c, _, err := p.Check(w.key); err == nil && c != want {
			t.Errorf("proven by a checkpoint that was never signed: %v", c)
		}
	})
}

func FuzzParseBundle(f *testing.F) {
	f.Add([]byte{0, 1, 'x', 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		leaves, err := ledger.ParseBundle(raw)
		if err != nil {
			return
		}
		if again, err := ledger.Bundle(leaves); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("read %d leaves, written again they are other bytes (%v)", len(leaves), err)
		}
	})
}

func FuzzParseEntry(f *testing.F) {
	leaf, _, _ := entry(3).Leaf()
	f.Add(leaf)
	f.Add([]byte(`{"at":"2026-01-01T00:00:00Z","actor":"a","action":"b","detail":{"x":1e400}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := ledger.ParseEntry(raw)
		if err != nil || e.Aside != nil || len(e.Detail) > ledger.MaxDetail || len(e.Reason)+len(e.Subject)+len(e.Actor)+len(e.Action) > ledger.MaxDetail {
			return
		}
		if again, _, err := e.Leaf(); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("%s is read as an entry whose leaf is %s (%v)", raw, again, err)
		}
	})
}
