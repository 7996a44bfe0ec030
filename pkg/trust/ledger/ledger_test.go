package ledger_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// world is a log, its key, and the bucket it lies in.
type world struct {
	t      testing.TB
	tree   ledger.Tree
	leaves [][]byte
	signer note.Signer
	key    note.Verifier
	bucket map[string][]byte
}

func newWorld(t testing.TB, n int) *world {
	private, public, err := ledger.NewKey("plant")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, signer: must(note.NewSigner(private))(t), key: must(ledger.ParseKey(public))(t), bucket: map[string][]byte{}}
	for i := range n {
		w.add(entry(i))
	}
	w.write(0)
	return w
}

func entry(i int) ledger.Entry {
	e := ledger.Entry{At: time.Unix(1_800_000_000+int64(i), 0), Actor: "ann", Action: "member.enrolled", Subject: fmt.Sprintf("dev-%03d", i), Reason: "by token <t1> & more"}
	if i%7 == 3 {
		detail, _ := json.Marshal(ledger.Directive{Group: "default", Sequence: uint64(i), Digest: fleet.DigestOf([]byte{byte(i)})})
		e.Actor, e.Action, e.Subject, e.Detail = "coordinator", ledger.DirectiveIssued, "default", detail
	}
	return e
}

func (w *world) add(e ledger.Entry) {
	leaf, _, err := e.Leaf()
	if err == nil {
		err = w.tree.Append(leaf)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.leaves = append(w.leaves, leaf)
}

func (w *world) checkpoint(size uint64) ledger.Checkpoint {
	return ledger.Checkpoint{Origin: "modelfleet/plant", Size: size, Root: must(w.tree.Root(size))(w.t)}
}

// write puts tiles and checkpoint into the bucket.
func (w *world) write(from uint64) {
	for _, t := range ledger.Tiles(from, w.tree.Size()) {
		if t.L >= 0 {
			w.bucket[ledger.TileKey(t)] = must(tlog.ReadTileData(t, &w.tree))(w.t)
			continue
		}
		first := int(t.N) << t.H
		w.bucket[ledger.TileKey(t)] = must(ledger.Bundle(w.leaves[first : first+t.W]))(w.t)
	}
	w.bucket[ledger.CheckpointKey] = []byte(must(w.checkpoint(w.tree.Size()).Sign(w.signer))(w.t))
}

func (w *world) get(_ context.Context, key string) ([]byte, error) {
	b, ok := w.bucket[key]
	if !ok {
		return nil, fault.Newf(fault.NotFound, "get", key, "there is none")
	}
	return b, nil
}

func (w *world) verify() (entries int, err error) {
	cp, err := ledger.Open(string(w.bucket[ledger.CheckpointKey]), w.key)
	if err != nil {
		return 0, err
	}
	_, err = ledger.Verify(w.t.Context(), w.get, cp, func(uint64, []byte, ledger.Entry) error { entries++; return nil })
	return entries, err
}

// mth is the tree hash as RFC 6962 defines it, section 2.1.
func mth(leaves [][]byte) [32]byte {
	switch len(leaves) {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return sha256.Sum256(append([]byte{0}, leaves[0]...))
	}
	k := 1
	for k*2 < len(leaves) {
		k *= 2
	}
	l, r := mth(leaves[:k]), mth(leaves[k:])
	return sha256.Sum256(append(append([]byte{1}, l[:]...), r[:]...))
}

func TestTheTreeIsRFC6962s(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 300)
	for _, n := range []uint64{1, 2, 3, 7, 8, 255, 256, 257, 300} {
		if got, want := must(w.tree.Root(n))(t), mth(w.leaves[:n]); got != tlog.Hash(want) {
			t.Errorf("%d leaves: root %s, want %x", n, got, want)
		}
	}
}

// Whatever the log and the two sizes: every entry is proven in the later one, the
// earlier one is its beginning, and no changed proof passes.
func TestProofsHoldAndOnlyThey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 600)
	rapid.Check(t, func(t *rapid.T) {
		newer := rapid.Uint64Range(1, 600).Draw(t, "newer")
		older := rapid.Uint64Range(0, newer).Draw(t, "older")
		index := rapid.Uint64Range(0, newer-1).Draw(t, "index")
		a, b := w.checkpoint(older), w.checkpoint(newer)
		since := must(ledger.ProveConsistency(older, newer, &w.tree))(w.t)
		if err := ledger.Consistent(a, b, since); err != nil {
			t.Fatalf("%d to %d: %v", older, newer, err)
		}
		p := ledger.Proof{
			Checkpoint: must(b.Sign(w.signer))(w.t), Index: index, Leaf: w.leaves[index],
			Path: must(tlog.ProveRecord(int64(newer), int64(index), &w.tree))(w.t), Since: []ledger.Since{{Size: older, Path: since}},
		}
		raw := must(json.Marshal(p))(w.t)
		if !bytes.Contains(raw, w.leaves[index]) {
			t.Fatal("the leaf does not lie in the proof byte for byte")
		}
		read := must(ledger.ParseProof(raw))(w.t)
		if cp, e, err := read.Check(w.key); err != nil || cp != b || e.Subject == "" {
			t.Fatalf("entry %d in %d: %v", index, newer, err)
		}
		bit := rapid.IntRange(0, 255).Draw(t, "bit")
		if len(read.Path) > 0 {
			h := &read.Path[rapid.IntRange(0, len(read.Path)-1).Draw(t, "hash")]
			h[bit/8] ^= 1 << (bit % 8)
			if _, _, err := read.Check(w.key); err == nil {
				t.Fatal("a changed inclusion proof passed")
			}
		}
		if older > 0 && older < newer {
			a.Root[bit/8] ^= 1 << (bit % 8)
			if ledger.Consistent(a, b, since) == nil {
				t.Fatal("another log passed for the beginning of this one")
			}
		}
	})
}

// However a log grows, in whatever steps it is published: what lies in the bucket
// verifies, and earlier partial tiles may be tidied away.
func TestTilesOfAnyGrowthVerify(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(outer{}, 0)
		for range rapid.IntRange(1, 5).Draw(t, "steps") {
			from := w.tree.Size()
			for range rapid.IntRange(1, 200).Draw(t, "added") {
				w.add(entry(len(w.leaves)))
			}
			w.write(from)
		}
		w.t = outer{}
		if n, err := w.verify(); err != nil || n != len(w.leaves) {
			t.Fatalf("%d entries of %d: %v", n, len(w.leaves), err)
		}
		at := rapid.IntRange(0, len(w.leaves)-1).Draw(t, "index")
		if leaf, err := ledger.Load(context.Background(), w.get, w.tree.Size(), uint64(at)); err != nil || !bytes.Equal(leaf, w.leaves[at]) {
			t.Fatalf("entry %d: %s, %v", at, leaf, err)
		}
		from := rapid.IntRange(0, len(w.leaves)).Draw(t, "from")
		if got, err := ledger.Restore(context.Background(), w.get, uint64(from), w.tree.Size()); err != nil || len(got) != len(w.leaves)-from {
			t.Fatalf("restored %d of %d: %v", len(got), len(w.leaves)-from, err)
		}
	})
}

// outer lets a world live inside a rapid check.
type outer struct{ testing.TB }

func (outer) Helper()                  {}
func (outer) Fatal(args ...any)        { panic(fmt.Sprint(args...)) }
func (outer) Context() context.Context { return context.Background() }

// Each object that is tampered with is found, and named.
func TestTamperingIsFoundAndNamed(t *testing.T) {
	t.Parallel()
	swap := func(w *world, key string, leaves [][]byte) { w.bucket[key] = must(ledger.Bundle(leaves))(t) }
	for name, c := range map[string]struct {
		do   func(w *world)
		want string
	}{
		"an entry is changed": {func(w *world) {
			e := must(ledger.ParseEntry(w.leaves[17]))(t)
			e.Actor = "eve"
			leaf, _, _ := e.Leaf()
			swap(w, "audit/tile/entries/000", append(append(append([][]byte{}, w.leaves[:17]...), leaf), w.leaves[18:256]...))
		}, "audit/tile/entries/000: entry 18"},
		"an entry is dropped":         {func(w *world) { swap(w, "audit/tile/entries/001.p/44", w.leaves[257:300]) }, "entries/001.p/44"},
		"an entry is dropped, cut on": {func(w *world) { swap(w, "audit/tile/entries/000", append(w.leaves[1:256:256], w.leaves[256])) }, "audit/tile/entries/000: entry 1 "},
		"a tile is changed":           {func(w *world) { w.bucket["audit/tile/0/000"][32*5] ^= 1 }, "audit/tile/0/000: it does not hold the hash of entry 6"},
		"an upper tile is changed":    {func(w *world) { w.bucket["audit/tile/1/000.p/1"][0] ^= 1 }, "audit/tile/1/000.p/1"},
		"a tile is missing":           {func(w *world) { delete(w.bucket, "audit/tile/0/001.p/44") }, "audit/tile/0/001.p/44"},
		"bundle and tile are made anew": {func(w *world) {
			other := newWorld(t, 299)
			other.add(entry(1))
			other.write(299)
			w.bucket["audit/tile/entries/001.p/44"], w.bucket["audit/tile/0/001.p/44"] = other.bucket["audit/tile/entries/001.p/44"], other.bucket["audit/tile/0/001.p/44"]
		}, "audit/checkpoint"},
		"the checkpoint is another key's": {func(w *world) { w.bucket[ledger.CheckpointKey] = newWorld(t, 300).bucket[ledger.CheckpointKey] }, "no verifiable signatures"},
		"a size is forged": {func(w *world) {
			w.bucket[ledger.CheckpointKey] = bytes.Replace(w.bucket[ledger.CheckpointKey], []byte("\n300\n"), []byte("\n299\n"), 1)
		}, "invalid signature"},
	} {
		w := newWorld(t, 300)
		c.do(w)
		if _, err := w.verify(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error that names %q", name, err, c.want)
		}
	}
	if n, err := newWorld(t, 300).verify(); err != nil || n != 300 {
		t.Errorf("untouched: %d entries, %v", n, err)
	}
}

func TestLongDetailsLieAside(t *testing.T) {
	t.Parallel()
	e := entry(1)
	e.Detail = json.RawMessage(`{"text": "` + strings.Repeat("<", ledger.MaxDetail) + `"}`)
	leaf, aside, err := e.Leaf()
	if err != nil || len(leaf) > 1000 || len(aside) == 0 {
		t.Fatalf("leaf of %d bytes, aside %d: %v", len(leaf), len(aside), err)
	}
	whole := must(must(ledger.ParseEntry(leaf))(t).Whole(aside))(t)
	if again, _, err := whole.Leaf(); err != nil || !bytes.Equal(again, leaf) {
		t.Errorf("the whole entry makes another leaf: %s, %v", again, err)
	}
	if _, err := must(ledger.ParseEntry(leaf))(t).Whole([]byte("{}")); err == nil {
		t.Error("another detail was taken")
	}
	e.Reason, e.Detail = strings.Repeat("é", 10_000)+"\xff", nil
	if leaf, _, err = e.Leaf(); err != nil || len(leaf) > 5000 {
		t.Errorf("a long reason makes a leaf of %d bytes: %v", len(leaf), err)
	}
	must(ledger.ParseEntry(leaf))(t)
}

func TestKeyFilesAreReadStrictly(t *testing.T) {
	t.Parallel()
	private, public, err := ledger.NewKey("plant")
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/audit.key"
	write(t, path, private+"\n")
	s, pub, err := ledger.LoadKey(path, "plant")
	if err != nil || pub != public || s.Name() != "modelfleet/plant" {
		t.Errorf("read %q (%v), want %q", pub, err, public)
	}
	if _, _, err := ledger.LoadKey(path, "other"); !fault.Is(err, fault.Untrusted) {
		t.Errorf("another fleet's key: %v", err)
	}
	write(t, path, private[:len(private)-5])
	if _, _, err := ledger.LoadKey(path, "plant"); !fault.Is(err, fault.Invalid) || strings.Contains(err.Error(), private[20:40]) {
		t.Errorf("a cut key: %v", err)
	}
}
