package install

import (
	"os"
	"path/filepath"
	"testing"
)

func TestAStoreIsCopiedByLinks(t *testing.T) {
	t.Parallel()
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	if err := os.MkdirAll(filepath.Join(from, "files", "aa"), 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("files", "aa", "f")
	if err := os.WriteFile(filepath.Join(from, path), []byte("weights"), 0o444); err != nil {
		t.Fatal(err)
	}
	if err := linkTree(from, to); err != nil {
		t.Fatal(err)
	}
	a, err := os.Stat(filepath.Join(from, path))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.Stat(filepath.Join(to, path))
	if err != nil || !os.SameFile(a, b) {
		t.Errorf("the copy is not the same file: %v", err)
	}
}
