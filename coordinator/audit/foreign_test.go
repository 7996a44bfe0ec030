package audit_test

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/modelfleet/modelfleet/coordinator/audit"
)

// foreign reads a log as C2SP's tlog-tiles lays it out, by what golang.org/x/mod
// offers and nothing of ours.
type foreign string

func (f foreign) Height() int { return 8 }

func (f foreign) SaveTiles([]tlog.Tile, [][]byte) {}

func (f foreign) ReadTiles(tiles []tlog.Tile) (data [][]byte, err error) {
	for _, t := range tiles {
		b, err := f.read(strconv.Itoa(t.L), t.N, t.W)
		if err != nil {
			return nil, err
		}
		data = append(data, b)
	}
	return data, nil
}

// read reads "<prefix>/tile/<L>/<N>[.p/<W>]"; N is in groups of three digits, all but
// the last of which begin with an x.
func (f foreign) read(level string, n int64, width int) ([]byte, error) {
	name := fmt.Sprintf("%03d", n%1000)
	for n /= 1000; n > 0; n /= 1000 {
		name = fmt.Sprintf("x%03d/%s", n%1000, name)
	}
	if width < 256 {
		name += fmt.Sprintf(".p/%d", width)
	}
	return os.ReadFile(filepath.Join(string(f), "tile", level, name))
}

// checkpoint opens the newest checkpoint.
func (f foreign) checkpoint(t *testing.T, vkey string) (origin string, tree tlog.Tree) {
	t.Helper()
	n := must(note.Open(must(os.ReadFile(filepath.Join(string(f), "checkpoint")))(t), note.VerifierList(must(note.NewVerifier(vkey))(t))))(t)
	lines := strings.Split(n.Text, "\n")
	tree.N = must(strconv.ParseInt(lines[1], 10, 64))(t)
	copy(tree.Hash[:], must(base64.StdEncoding.DecodeString(lines[2]))(t))
	return lines[0], tree
}

// entries are the leaves of a log: u16 length, big endian, and bytes.
func (f foreign) entries(t *testing.T, size int64) (leaves [][]byte) {
	t.Helper()
	for n := int64(0); n*256 < size; n++ {
		b := must(f.read("entries", n, int(min(256, size-n*256))))(t)
		for len(b) > 0 {
			l := int(binary.BigEndian.Uint16(b))
			leaves, b = append(leaves, b[2:2+l]), b[2+l:]
		}
	}
	return leaves
}

func TestAForeignProgramReadsTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := must(w.open())(t)
	f := foreign(filepath.Join(w.dir, "audit"))
	var before tlog.Tree
	for _, more := range []int{0, 3, 250, 300, 0} {
		filler := make([]audit.Note, more)
		for i := range filler {
			filler[i] = audit.Note{At: time.Unix(9, 0), Actor: "ann", Action: audit.TokenDeleted, Subject: fmt.Sprint(i)}
		}
		if err := w.store.Append(t.Context(), filler...); err != nil {
			t.Fatal(err)
		}
		w.decide()
		must(w.prove(l))(t)
		origin, tree := f.checkpoint(t, w.key)
		if origin != "modelfleet/plant" || tree.N != int64(l.Head().Size) {
			t.Fatalf("%q of %d entries, want %d", origin, tree.N, l.Head().Size)
		}
		hashes := tlog.TileHashReader(tree, f) // checks all that it reads against the tree
		leaves := f.entries(t, tree.N)
		if int64(len(leaves)) != tree.N {
			t.Fatalf("%d entries, want %d", len(leaves), tree.N)
		}
		index := make([]int64, tree.N)
		for i := range index {
			index[i] = tlog.StoredHashIndex(0, int64(i))
		}
		for i, h := range must(hashes.ReadHashes(index))(t) {
			if h != tlog.RecordHash(leaves[i]) {
				t.Fatalf("entry %d is not the one that was signed", i)
			}
		}
		last := tree.N - 1
		record := must(tlog.ProveRecord(tree.N, last, hashes))(t)
		if err := tlog.CheckRecord(record, tree.N, tree.Hash, last, tlog.RecordHash(leaves[last])); err != nil {
			t.Error(err)
		}
		if before.N > 0 {
			grown := must(tlog.ProveTree(tree.N, before.N, hashes))(t)
			if err := tlog.CheckTree(grown, tree.N, tree.Hash, before.N, before.Hash); err != nil {
				t.Error(err)
			}
		}
		before = tree
	}
}
