package audit_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

func (b *bucket) Remove(ctx context.Context, key string) error {
	if err := b.step(); err != nil {
		return err
	}
	return b.Store.Remove(ctx, key)
}

// partials are the partial tiles in the bucket.
func (w *world) partials() (keys []string) {
	w.t.Helper()
	for o, err := range w.bucket.List(w.t.Context(), ledger.TilePrefix) {
		if err != nil {
			w.t.Fatal(err)
		}
		if strings.Contains(o.Key, ".p/") {
			keys = append(keys, o.Key)
		}
	}
	return keys
}

// written makes all tiles that there are as old as that.
func (w *world) written(at time.Time) {
	w.t.Helper()
	for o, err := range w.bucket.List(w.t.Context(), ledger.TilePrefix) {
		if err == nil {
			err = os.Chtimes(filepath.Join(w.dir, o.Key), at, at)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

// grow adds entries, the last of them a directive's, and publishes them.
func (w *world) grow(l *audit.Log, n int) {
	w.t.Helper()
	notes := make([]audit.Note, n)
	for i := range notes {
		notes[i] = audit.Note{At: time.Unix(9, 0), Actor: "ann", Action: audit.TokenDeleted, Subject: "t1"}
	}
	if err := w.store.Append(w.t.Context(), notes...); err != nil {
		w.t.Fatal(err)
	}
	w.decide()
	must(w.prove(l))(w.t)
}

// Partial tiles go once a wider one has been there for a day, wherever the power
// fails meanwhile. Whoever began to read by a younger checkpoint reads to the end.
func TestPartialTilesAreRemovedOnceNobodyNeedsThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := must(w.open())(t)
	for range 4 {
		w.grow(l, 20)
	}
	now := time.Now()
	w.written(now.Add(-48 * time.Hour))
	w.grow(l, 10) // a checkpoint that somebody reads by
	auditor := l.Head()
	get := func(ctx context.Context, key string) ([]byte, error) { return w.get(ctx, key) }
	middle := false
	_, err := ledger.Verify(t.Context(), get, auditor.Checkpoint, func(i uint64, _ []byte, _ ledger.Entry) error {
		if i == 0 {
			middle = true
			w.grow(l, 300) // two more tiles
			_, err := l.Sweep(t.Context(), now)
			return err
		}
		return nil
	})
	if err != nil || !middle {
		t.Fatalf("reading by the checkpoint of %d entries, while it was swept: %v", auditor.Size, err)
	}
	kept := w.partials()
	if len(kept) == 0 || len(kept) >= 12 {
		t.Errorf("there are %d partial tiles left: %v", len(kept), kept)
	}
	if _, err := ledger.Verify(t.Context(), get, auditor.Checkpoint, func(uint64, []byte, ledger.Entry) error { return nil }); err != nil {
		t.Errorf("by the checkpoint of today: %v", err)
	}

	// A day later all but those of the newest checkpoint are gone; the power fails at
	// each of them.
	for steps := 0; ; steps++ {
		w.bucket.left = 1
		_, err := l.Sweep(t.Context(), now.Add(25*time.Hour))
		w.bucket.left = -1
		if n := w.check(); n != l.Head().Size {
			t.Fatalf("after %d crashes the log has %d entries", steps, n)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, errCrash) || steps > 50 {
			t.Fatal(err)
		}
	}
	size := l.Head().Size
	var want int
	for _, tile := range ledger.Tiles(0, size) {
		if tile.W < 256 {
			want++
		}
	}
	if got := w.partials(); len(got) != want {
		t.Errorf("%d partial tiles are left, want the newest %d: %v", len(got), want, got)
	}
	if n, err := l.Sweep(t.Context(), now.Add(25*time.Hour)); n != 0 || err != nil {
		t.Errorf("swept again: %d, %v", n, err)
	}
	w.grow(l, 5)
	if n := w.check(); n != l.Head().Size {
		t.Errorf("the log has %d entries, want %d", n, l.Head().Size)
	}
	// Who reads by a checkpoint that full tiles outgrew finds those.
	if _, err := ledger.Verify(t.Context(), get, auditor.Checkpoint, func(uint64, []byte, ledger.Entry) error { return nil }); err != nil {
		t.Errorf("by the old checkpoint: %v", err)
	}
}

// What a stranger puts there takes away nothing of the newest checkpoint.
func TestJunkTilesTakeNothingAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := must(w.open())(t)
	w.grow(l, 20)
	for _, name := range []string{"audit/tile/0/000", "audit/tile/entries/000.p/200", "audit/tile/0/000.p/x"} {
		path := filepath.Join(w.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("junk"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w.written(time.Unix(9, 0))
	must(l.Sweep(t.Context(), time.Now()))(t)
	if n := w.check(); n != l.Head().Size {
		t.Errorf("the log has %d entries, want %d", n, l.Head().Size)
	}
}
