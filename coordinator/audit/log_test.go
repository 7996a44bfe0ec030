package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/cli/auditor"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/coordinator/store/sqlite"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
	"github.com/modelfleet/modelfleet/pkg/trust"
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

var errCrash = errors.New("the power failed")

// bucket is a folder whose writes fail once left is used up.
type bucket struct {
	*dir.Store
	left int // negative: never
}

func (b *bucket) step() error {
	if b.left == 0 {
		return errCrash
	}
	b.left--
	return nil
}

func (b *bucket) Create(ctx context.Context, key string, body registry.Body) (bool, error) {
	if err := b.step(); err != nil {
		return false, err
	}
	return b.Store.Create(ctx, key, body)
}

func (b *bucket) Swap(ctx context.Context, key string, body []byte, etag string) (string, error) {
	if err := b.step(); err != nil {
		return "", err
	}
	return b.Store.Swap(ctx, key, body, etag)
}

type world struct {
	t      *testing.T
	dir    string // the bucket's
	store  *sqlite.Store
	bucket *bucket
	key    string
	n      int
	wrote  []byte // the newest directive
	former []string
	keys   map[string]note.Signer // every private key that is at hand, by its public one
	said   bytes.Buffer           // what the log warned of
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir(), keys: map[string]note.Signer{}}
	w.bucket = &bucket{must(dir.Open(w.dir))(t), -1}
	t.Cleanup(func() { w.bucket.Close() })
	w.store, w.key = w.fresh(), w.newKey()
	return w
}

func (w *world) newKey() (public string) {
	private, public, err := ledger.NewKey("plant")
	w.keys[public] = must(note.NewSigner(must(private, err)(w.t)))(w.t)
	return public
}

// find is the private key of a public one.
func (w *world) find(_ context.Context, public string) (note.Signer, error) {
	if s, has := w.keys[public]; has {
		return s, nil
	}
	return nil, trust.Violated(trust.RuleAudit, "find key", public, errors.New("it is not here"))
}

func (w *world) fresh() *sqlite.Store {
	s := must(sqlite.Open(w.t.Context(), filepath.Join(w.t.TempDir(), "db")))(w.t)
	w.t.Cleanup(func() { s.Close() })
	return s
}

func (w *world) open() (*audit.Log, error) {
	return audit.Open(w.t.Context(), audit.Options{Store: w.store, Bucket: w.bucket, Key: w.key, Keys: w.find, Logger: slog.New(slog.NewTextHandler(&w.said, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Former: func(context.Context) ([]string, error) { return w.former, nil }})
}

// decide adds some entries, the last of which is a directive's.
func (w *world) decide() {
	w.t.Helper()
	w.n++
	at := time.Unix(int64(w.n), 0)
	w.wrote = []byte(strings.Repeat("d", w.n))
	notes := []audit.Note{
		{At: at, Actor: "ann", Action: audit.TokenCreated, Subject: "t1"},
		{At: at, Actor: audit.Coordinator, Action: audit.RolloutDecided, Subject: "r1", Detail: map[string]string{"evidence": strings.Repeat("<e>", ledger.MaxDetail) + string(w.wrote)}},
		{At: at, Actor: audit.Coordinator, Action: audit.DirectiveIssued, Subject: "default", Detail: ledger.Directive{Group: "default", Sequence: uint64(w.n), Digest: fleet.DigestOf(w.wrote)}},
	}
	if err := w.store.Append(w.t.Context(), notes...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) prove(l *audit.Log) ([]byte, error) {
	return l.Prove(w.t.Context(), w.key, fleet.DefaultGroup, w.wrote)
}

func (w *world) get(ctx context.Context, key string) ([]byte, error) {
	b, _, err := w.bucket.Get(ctx, key, "")
	return b, err
}

// check reads the whole log out of the bucket as an outsider would.
func (w *world) check() uint64 {
	w.t.Helper()
	get := w.get
	signed := must(get(w.t.Context(), ledger.CheckpointKey))(w.t)
	cp := must(ledger.Open(string(signed), must(ledger.ParseKey(w.key))(w.t)))(w.t)
	must(ledger.Verify(w.t.Context(), get, cp, func(_ uint64, _ []byte, e ledger.Entry) error {
		if e.Aside != nil {
			_, err := e.Whole(must(get(w.t.Context(), ledger.DetailKey(e.Aside.Digest)))(w.t))
			return err
		}
		return nil
	}))(w.t)
	return cp.Size
}

// The power may fail at any write: what is in the bucket verifies, and the next
// start goes on to the same log.
func TestACrashAtAnyStepIsRepeatedHarmlessly(t *testing.T) {
	crashed := 0
	for steps := 0; ; steps++ {
		w := newWorld(t)
		w.decide()
		must(w.prove(must(w.open())(t)))(t)
		filler := make([]audit.Note, 300) // past the first tile
		for i := range filler {
			filler[i] = audit.Note{At: time.Unix(9, 0), Actor: "ann", Action: audit.TokenDeleted, Subject: "t1"}
		}
		if err := w.store.Append(t.Context(), filler...); err != nil {
			t.Fatal(err)
		}
		w.decide()
		w.bucket.left = steps
		_, err := w.prove(must(w.open())(t))
		if err == nil {
			break
		}
		if !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		crashed++
		w.bucket.left = -1
		if n := w.check(); n != 4 && n != 307 {
			t.Fatalf("after a crash in step %d the bucket's log has %d entries", steps, n)
		}
		l := must(w.open())(t)
		raw := must(w.prove(l))(t)
		if again := must(w.prove(l))(t); !bytes.Equal(raw, again) {
			t.Error("a proof that is there was made anew")
		}
		if n := w.check(); n != 307 {
			t.Fatalf("after the restart from step %d the bucket's log has %d entries", steps, n)
		}
	}
	if crashed < 8 { // a detail that lies aside, two bundles, three tiles, checkpoint, proof
		t.Errorf("crashed at %d steps only", crashed)
	}
}

func TestAProofLeadsFromEarlierCheckpoints(t *testing.T) {
	w := newWorld(t)
	l := must(w.open())(t)
	v := must(ledger.ParseKey(w.key))(t)
	var heads []ledger.Checkpoint
	for range 8 {
		w.decide()
		p := must(ledger.ParseProof(must(w.prove(l))(t)))(t)
		cp, e, err := p.Check(v)
		if d, derr := e.Directive(); err != nil || derr != nil || d.Digest != fleet.DigestOf(w.wrote) {
			t.Fatalf("entry %+v: %v, %v", e, err, derr)
		}
		if want := min(len(heads), 4); len(p.Since) != want {
			t.Errorf("leads from %d checkpoints, want %d", len(p.Since), want)
		}
		for i, s := range p.Since {
			if err := ledger.Consistent(heads[len(heads)-1-i], cp, s.Path); err != nil {
				t.Error(err)
			}
		}
		heads = append(heads, cp)
	}
	raw, _ := json.Marshal("")
	if _, err := l.Prove(t.Context(), w.key, fleet.DefaultGroup, raw); err == nil {
		t.Error("a directive that is not in the log was proven")
	}
}

// A store that was restored from an old copy, or made anew, takes what it lacks
// from the tiles.
func TestARestoredStoreGoesOnWithTheBucketsLog(t *testing.T) {
	for _, kept := range []int{0, 1, 2} {
		w := newWorld(t)
		old := w.fresh()
		for i := range 4 {
			if w.decide(); i < kept {
				copyTo(t, w.store, old, i*3)
			}
		}
		must(w.prove(must(w.open())(t)))(t)
		w.store = old
		l := must(w.open())(t)
		if n := must(w.store.AuditSize(t.Context()))(t); n != 13 {
			t.Errorf("kept %d decisions: the store has %d entries, want 13", kept, n)
		}
		for _, e := range must(w.store.Audit(t.Context(), 0, 100))(t) {
			if e.Action == audit.RolloutDecided && len(e.Detail) < ledger.MaxDetail {
				t.Errorf("entry %d lost its evidence", e.Index)
			}
		}
		w.decide()
		must(w.prove(l))(t)
		if n := w.check(); n != 16 {
			t.Errorf("the log has %d entries, want 16", n)
		}
	}
}

// copyTo copies the entries after one, as a backup does.
func copyTo(t *testing.T, from, to *sqlite.Store, after int) {
	t.Helper()
	for _, e := range must(from.Audit(t.Context(), uint64(after), 100))(t) {
		n := audit.Note{At: e.At, Actor: e.Actor, Action: e.Action, Subject: e.Subject, Reason: e.Reason}
		if e.Detail != nil {
			n.Detail = e.Detail
		}
		if err := to.Append(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
}

// A store that went on alone after a restore is refused: both logs are signed by
// one key, and members hold one of them.
func TestAForkedStoreIsRefused(t *testing.T) {
	w := newWorld(t)
	w.decide()
	must(w.prove(must(w.open())(t)))(t)
	w.decide()
	must(w.prove(must(w.open())(t)))(t)
	w.store, w.n = w.fresh(), 7
	for range 3 {
		w.decide()
	}
	if _, err := w.open(); !fault.Is(err, fault.Untrusted) || fault.Hint(err) == "" {
		t.Errorf("opened with another log of more entries: %v", err)
	}
	w.store, w.n = w.fresh(), 7
	w.decide()
	_, err := w.open()
	if !fault.Is(err, fault.Untrusted) {
		t.Errorf("opened with another log of fewer entries: %v", err)
	}
	if n := must(w.store.AuditSize(t.Context()))(t); n != 3 {
		t.Errorf("%d entries of another log were mixed with 3", n)
	}
}

// Two coordinators with one key: whoever is behind is refused, and what lies in
// the bucket stays.
func TestTwoWritersDoNotWriteOverEachOther(t *testing.T) {
	w := newWorld(t)
	w.decide()
	first := must(w.open())(t)
	must(w.prove(first))(t)
	theirs := *w
	theirs.store = w.fresh()
	second := must(theirs.open())(t)
	theirs.n = 40
	theirs.decide()
	must(theirs.prove(second))(t)
	for range 2 {
		w.decide()
	}
	if _, err := w.prove(first); !fault.Is(err, fault.Conflict) {
		t.Errorf("published over somebody else's checkpoint: %v", err)
	}
	if n := theirs.check(); n != 7 {
		t.Errorf("the bucket's log has %d entries, want 7", n)
	}
}

// Whoever can write to the bucket but not sign cannot stop the log.
func TestAStrangersCheckpointIsWrittenOver(t *testing.T) {
	w := newWorld(t)
	w.decide()
	l := must(w.open())(t)
	must(w.prove(l))(t)
	_, etag, err := w.bucket.Get(t.Context(), ledger.CheckpointKey, "")
	must(w.bucket.Swap(t.Context(), ledger.CheckpointKey, []byte("modelfleet/plant\n99\nAAAA\n\n— x AAAA\n"), must(etag, err)(t)))(t)
	w.decide()
	must(w.prove(l))(t)
	if n := w.check(); n != 7 {
		t.Errorf("the bucket's log has %d entries, want 7", n)
	}
	if !strings.Contains(w.said.String(), "checkpoint in the bucket is not ours") {
		t.Errorf("nobody was warned: %s", &w.said)
	}
}

func TestOtherLogsAreJudged(t *testing.T) {
	w := newWorld(t)
	w.decide()
	l := must(w.open())(t)
	must(w.prove(l))(t)
	cp, signed := l.Head().Checkpoint, l.Head().Note
	for name, c := range map[string]struct {
		size uint64
		root []byte
		want string
	}{
		"ours":           {cp.Size, cp.Root[:], ""},
		"half a root":    {cp.Size, cp.Root[:16], ""},
		"another root":   {cp.Size, make([]byte, 16), "not ours"},
		"an earlier one": {2, make([]byte, 32), "not ours"},
		"a longer one":   {99, cp.Root[:], "ours has 4"},
		"none":           {0, nil, ""},
	} {
		if why := must(l.Judge(t.Context(), c.size, c.root))(t); (why == "") != (c.want == "") || !strings.Contains(why, c.want) {
			t.Errorf("%s: %q, want %q", name, why, c.want)
		}
	}
	if why, err := l.JudgeNote(t.Context(), signed); why != "" || err != nil {
		t.Errorf("our own checkpoint: %q, %v", why, err)
	}
	if _, err := l.JudgeNote(t.Context(), "x"); !fault.Is(err, fault.Untrusted) {
		t.Errorf("no checkpoint: %v", err)
	}
}

var _ store.AuditLog = (*sqlite.Store)(nil)

// The coordinator's machine is gone with its disk, and so the audit key is another
// one: the log goes on from what the former key signed.
func TestALostStoreGoesOnUnderAnotherKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := must(w.open())(t)
	w.decide()
	must(w.prove(l))(t)
	former := w.key
	w.key = w.newKey()
	w.store = w.fresh()
	w.former = []string{former}
	l = must(w.open())(t)
	must(w.prove(l))(t) // the directive in force, which the new policy has to be proven for
	w.decide()
	must(w.prove(l))(t)
	if n := w.check(); n != 8 { // two keys, two decisions
		t.Errorf("the log has %d entries, want 8", n)
	}
}

// A policy that lists another key asks for no restart: the log says which key signs
// from there on, and whoever kept a checkpoint by any of them finds it again. A key
// that is not at hand changes nothing.
func TestTheNextKeyIsTakenUpWithoutARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := must(w.open())(t)
	var kept []audit.Head
	for range 3 {
		w.decide()
		must(w.prove(l))(t)
		kept = append(kept, l.Head())
		if _, err := l.Prove(t.Context(), "modelfleet/plant+00000000+AAAA", fleet.DefaultGroup, w.wrote); err == nil || l.Head() != kept[len(kept)-1] {
			t.Errorf("a key that is no key: %v, head %+v", err, l.Head())
		}
		w.former = []string{w.key}
		w.key = w.newKey()
		signer := w.keys[w.key]
		delete(w.keys, w.key)
		if _, err := w.prove(l); trust.RuleOf(err) != trust.RuleAudit || l.Head() != kept[len(kept)-1] {
			t.Errorf("a key that is not here: %v, head %+v", err, l.Head())
		}
		w.keys[w.key] = signer
		w.bucket.left = 2 // the power fails while the log goes over to it
		if _, err := w.prove(l); !errors.Is(err, errCrash) {
			t.Errorf("without power: %v", err)
		}
		w.bucket.left = -1
		if h := l.Head(); h != kept[len(kept)-1] {
			t.Errorf("the head is not what lies in the bucket: %+v", h)
		}
		must(w.prove(l))(t) // the directive in force, for members that have the new policy
		if h := l.Head(); h.Key != w.key {
			t.Errorf("signed by %s, want %s", h.Key, w.key)
		}
	}
	src := must(auditor.With(w.get, w.key))(t)
	for _, h := range kept {
		if r, err := src.Verify(t.Context(), h.Note); err != nil || r.Since != h.Size {
			t.Errorf("from the checkpoint of %d entries: %+v, %v", h.Size, r, err)
		}
	}
	if w.said.Len() > 0 {
		t.Errorf("a rotation is nothing to warn of: %s", &w.said)
	}
	if n := w.check(); n != 4+3*3 {
		t.Errorf("the log has %d entries, want four keys and three decisions", n)
	}
	must(w.open())(t)
	if n := must(w.store.AuditSize(t.Context()))(t); n != 4+3*3 {
		t.Errorf("a restart under the same key made %d entries of 13", n)
	}
}

// A log that nobody signs is kept, says nothing, and is signed from the beginning
// once a policy lists a key.
func TestALogWithoutAKeyTakesUpTheFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := w.key
	w.key = ""
	l := must(w.open())(t)
	w.decide()
	if err := l.Publish(t.Context()); err != nil || l.Head().Note != "" {
		t.Errorf("without a key: %v, %+v", err, l.Head())
	}
	if _, err := l.JudgeNote(t.Context(), "x"); !fault.Is(err, fault.Untrusted) {
		t.Errorf("a checkpoint of nobody's: %v", err)
	}
	if _, err := l.Entry(t.Context(), 0); !fault.Is(err, fault.NotFound) {
		t.Errorf("an entry that nobody signed: %v", err)
	}
	w.key = key
	must(w.prove(l))(t)
	if n := w.check(); n != 4 {
		t.Errorf("the log has %d entries, want 4", n)
	}
}
