package delta

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/modelfleet/modelfleet/infra/bench/weights"
)

// Of chunks only those count that the base has not, and the list of all.
func TestOnlyNewChunksCount(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for path, size := range map[string]int{
		"base.castr/aa/1.cacnk": 100, "next.castr/aa/1.cacnk": 100, "next.castr/bb/2.cacnk": 30, "next.caibx": 7,
	} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := casync().size(files{dir: dir}); err != nil || got != 37 {
		t.Errorf("an update of %d bytes (%v), want 30 of a chunk and 7 of the list", got, err)
	}
}

// Ours is compared with the smallest of the peers; the others are only shown.
func TestTheBestPeerIsTheAnchor(t *testing.T) {
	t.Parallel()
	ts := []tool{{name: "a", peer: true}, {name: "b", peer: true}, {name: "shown"}, {name: "failed", peer: true}}
	c := &cell{dtype: weights.BF16, name: weights.Tune20, tools: map[string]cost{"a": {Size: 30}, "b": {Size: 20}, "shown": {Size: 10}}}
	if name, size := c.best(ts); name != "b" || size != 20 {
		t.Errorf("best is %s with %d bytes", name, size)
	}
}
