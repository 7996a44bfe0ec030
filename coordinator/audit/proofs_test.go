package audit_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// proofs are the proofs in the bucket; with an age, they get it.
func (w *world) proofs(age time.Duration) (keys []string) {
	w.t.Helper()
	for o, err := range w.bucket.List(w.t.Context(), trust.AuditProofs) {
		if at := time.Now().Add(-age); err == nil && age > 0 {
			err = os.Chtimes(filepath.Join(w.dir, o.Key), at, at)
		}
		if err != nil {
			w.t.Fatal(err)
		}
		keys = append(keys, o.Key)
	}
	return keys
}

// A proof goes once the proof of a newer directive has been there for a day, or that
// of the same one by a newer key; one of a directive in force stays, however old.
func TestProofsAreRemovedOnceNoPackIsMadeOfThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := must(w.open())(t)
	var keys []string
	issue := func(age time.Duration) {
		t.Helper()
		if w.wrote == nil || age >= 0 {
			w.decide()
		}
		must(w.prove(l))(t)
		keys = append(keys, trust.AuditProofKey(w.key, fleet.DigestOf(w.wrote)))
	}
	sweep := func(at time.Time, inForce string, want ...string) {
		t.Helper()
		if _, err := l.SweepProofs(t.Context(), w.key, map[string]bool{inForce: true}, at); err != nil {
			t.Fatal(err)
		}
		slices.Sort(want)
		if got := w.proofs(0); !slices.Equal(got, want) {
			t.Fatalf("left are %v, want %v", got, want)
		}
	}
	issue(0)
	issue(0)
	w.proofs(48 * time.Hour)
	issue(0)
	now := time.Now()
	sweep(now, keys[2], keys[1], keys[2])                           // the second has been there for long, the third not
	sweep(now.Add(25*time.Hour), keys[1], keys[1], keys[2])         // metadata that lags behind
	sweep(now.Add(25*time.Hour), keys[2], keys[2])                  // and does not any more
	sweep(now.Add(1000*time.Hour), "", keys[2])                     // the newest has nothing after it
	junk := trust.AuditProofKey(w.key, fleet.DigestOf([]byte("x"))) // of a stranger
	raw := must(w.get(t.Context(), keys[2]))(t)
	for key, body := range map[string][]byte{junk: raw, trust.AuditProofs + "readme.txt": []byte("junk")} {
		path := filepath.Join(w.dir, key)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, body, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(filepath.Join(w.dir, trust.AuditProofs+"readme.txt"), registry.MaxObject+1); err != nil { // too large to be read
		t.Fatal(err)
	}
	sweep(now.Add(1000*time.Hour), "", keys[2], junk, trust.AuditProofs+"readme.txt")

	// Another key, the same directive.
	w.key = w.newKey()
	issue(-1)
	sweep(now, keys[3], keys[2], keys[3], junk, trust.AuditProofs+"readme.txt")
	sweep(now.Add(25*time.Hour), keys[3], keys[3], junk, trust.AuditProofs+"readme.txt")
	if _, err := l.SweepProofs(t.Context(), "", nil, now.Add(1000*time.Hour)); err != nil || len(w.proofs(0)) != 3 {
		t.Errorf("without a key in the policy: %v, %v", w.proofs(0), err)
	}
}

// Wherever the power fails, the next sweep goes on.
func TestSweepingProofsGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := must(w.open())(t)
	for range 4 {
		w.decide()
		must(w.prove(l))(t)
	}
	w.proofs(48 * time.Hour)
	last := trust.AuditProofKey(w.key, fleet.DigestOf(w.wrote))
	for range 3 {
		w.bucket.left = 1
		_, _ = l.SweepProofs(t.Context(), w.key, map[string]bool{last: true}, time.Now())
	}
	w.bucket.left = -1
	if got := w.proofs(0); !slices.Equal(got, []string{last}) {
		t.Errorf("left are %v, want %s", got, last)
	}
}
