package beat_test

import (
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/functions/heartbeat/beat"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%v (next: %s)", err, fault.Hint(err))
		}
		return v
	}
}

// world is a fleet in a folder whose timestamp has the coordinator's key and the
// heartbeat's.
type world struct {
	t         *testing.T
	bucket    *dir.Store
	root      *signer.Signer
	coord     *signer.Signer
	stamp     *signer.Signer // the coordinator's timestamp key
	heart     beat.Options
	genesis   repository.Genesis
	elsewhere bool // the coordinator has no timestamp key
	now       time.Time
}

func newWorld(t *testing.T, elsewhere bool) *world {
	t.Parallel()
	key := func() *signer.Signer { return must(signer.Ephemeral())(t) }
	w := &world{t: t, bucket: must(dir.Open(t.TempDir()))(t), root: key(), coord: key(), stamp: key(), elsewhere: elsewhere}
	t.Cleanup(func() { w.bucket.Close() })
	w.now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	heart := key()
	keys := []crypto.PublicKey{heart.Public()}
	if !elsewhere {
		keys = append(keys, w.stamp.Public())
	}
	w.genesis = must(repository.Init(repository.InitOptions{
		Fleet: "plant", Now: w.now, Root: []signature.Signer{w.root}, Coordinator: w.coord.Public(), Timestamp: keys,
		Teams: []repository.Team{{Name: "vision", Keys: []crypto.PublicKey{key().Public()}}},
	}))(t)
	w.put(w.genesis.Writes)
	w.heart = beat.Options{Bucket: w.bucket, Pin: w.genesis.Pin, Key: heart, Logger: slog.New(slog.DiscardHandler)}
	return w
}

func (w *world) put(writes []repository.Write) {
	w.t.Helper()
	for _, x := range writes {
		if !x.Mutable {
			must(w.bucket.Create(w.t.Context(), x.Key, registry.BodyOf(x.Body)))(w.t)
			continue
		}
		_, etag, err := w.bucket.Get(w.t.Context(), x.Key, "")
		if err != nil && !fault.Is(err, fault.NotFound) {
			w.t.Fatal(err)
		}
		must(w.bucket.Swap(w.t.Context(), x.Key, x.Body, etag))(w.t)
	}
}

func (w *world) get(ctx context.Context, key string) ([]byte, error) {
	b, _, err := w.bucket.Get(ctx, key, "")
	return b, err
}

// direct has the coordinator sign a directive and write all but the last so many
// objects of it.
func (w *world) direct(seq uint64, without int) {
	w.t.Helper()
	o := repository.Options{Root: w.genesis.Root, Coordinator: w.coord, Timestamp: w.stamp, StampedElsewhere: w.elsewhere}
	repo := must(repository.Open(w.t.Context(), w.get, o))(w.t)
	pub := must(repo.Sign(fleet.Directive{Group: fleet.DefaultGroup, Sequence: seq, Issued: w.now}, w.now))(w.t)
	w.put(pub.Writes[:len(pub.Writes)-without])
}

func (w *world) beat() beat.Result {
	w.t.Helper()
	return must(beat.Beat(w.t.Context(), w.heart, w.now))(w.t)
}

// member is what a member with the state believes now.
func (w *world) member(st trust.State) (trust.Trusted, trust.State) {
	w.t.Helper()
	if st.Root == nil {
		st = must(trust.NewState(w.genesis.Root, w.genesis.Pin))(w.t)
	}
	pack := must(w.get(w.t.Context(), fleet.DefaultGroup.PackKey()))(w.t)
	got, st, err := trust.Verify(pack, st, fleet.Facts{ID: "m", Group: fleet.DefaultGroup}, w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	return got, st
}

func TestAnOutageOfTheCoordinatorMakesNobodyStale(t *testing.T) {
	w := newWorld(t, false)
	w.direct(1, 0)
	got, st := w.member(trust.State{})
	end := w.now.Add(7 * 24 * time.Hour)
	signed := 0
	for w.now = w.now.Add(6 * time.Hour); w.now.Before(end); w.now = w.now.Add(6 * time.Hour) {
		if w.beat().Signed {
			signed++
		}
		if again := w.beat(); again.Signed || len(again.Packs) > 0 {
			t.Fatalf("a second beat at once did something: %+v", again)
		}
		if got, st = w.member(st); got.Freshness != trust.Fresh || got.Directive.Sequence != 1 || got.Expires.After(end) {
			t.Fatalf("at %s: %s until %s", w.now, got.Freshness, got.Expires)
		}
	}
	if signed > 14 {
		t.Errorf("signed %d times in 7 days", signed)
	}
	w.now = end.Add(time.Second)
	_, err := beat.Beat(t.Context(), w.heart, w.now)
	if trust.RuleOf(err) != trust.RuleExpired || fault.Hint(err) == "" {
		t.Errorf("what the coordinator signed has expired: %v", err)
	}
	if got, _ := w.member(st); got.Freshness != trust.Stale {
		t.Error("fresh for longer than what the coordinator signed")
	}
	// The coordinator is back, and goes on above the heartbeat's versions.
	w.direct(2, 0)
	if got, _ = w.member(st); got.Freshness != trust.Fresh || got.Directive.Sequence != 2 {
		t.Errorf("%s, directive %d", got.Freshness, got.Directive.Sequence)
	}
}

func TestTheHeartbeatAloneHoldsTheKey(t *testing.T) {
	w := newWorld(t, true)
	w.direct(1, 0)
	if _, err := w.get(t.Context(), "tuf/timestamp.json"); !fault.Is(err, fault.NotFound) {
		t.Errorf("the coordinator wrote a timestamp: %v", err)
	}
	if r := w.beat(); !r.Signed || r.Timestamp != 1 || r.Snapshot != 1 || len(r.Packs) != 1 {
		t.Errorf("first beat: %+v", r)
	}
	got, st := w.member(trust.State{})
	for seq := uint64(2); seq < 5; seq++ {
		w.now = w.now.Add(time.Minute)
		w.direct(seq, 0)
		w.beat()
		if got, st = w.member(st); got.Directive.Sequence != seq || got.Freshness != trust.Fresh {
			t.Fatalf("directive %d: %s", got.Directive.Sequence, got.Freshness)
		}
	}
	// Two snapshots before one beat: the newer counts.
	w.direct(5, 0)
	w.direct(6, 0)
	w.beat()
	if got, _ = w.member(st); got.Directive.Sequence != 6 {
		t.Errorf("directive %d, want 6", got.Directive.Sequence)
	}
}

// What a coordinator that died half-way signed becomes visible; what it did not
// write whole does not.
func TestHalfAPublication(t *testing.T) {
	for without, want := range map[int]uint64{1: 2, 2: 2, 3: 1} { // pack, timestamp, snapshot
		t.Run(fmt.Sprint(without), func(t *testing.T) {
			w := newWorld(t, false)
			w.direct(1, 0)
			w.direct(2, without)
			w.now = w.now.Add(12 * time.Hour)
			w.beat()
			if got, _ := w.member(trust.State{}); got.Directive.Sequence != want || got.Freshness != trust.Fresh {
				t.Errorf("directive %d, want %d", got.Directive.Sequence, want)
			}
		})
	}
}

func TestWhatABeatDoesNotSign(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(w *world)
		rule trust.Rule
		kind fault.Kind
	}{
		"with another key":   {func(w *world) { w.heart.Key = must(signer.Ephemeral())(w.t) }, trust.RuleTimestamp, fault.Untrusted},
		"under another root": {func(w *world) { w.heart.Pin = fleet.Digest{1} }, "", fault.Untrusted},
		"a fleet role that was changed": {func(w *world) {
			_, etag, _ := w.bucket.Get(w.t.Context(), "tuf/1.fleet.json", "")
			must(w.bucket.Swap(w.t.Context(), "tuf/1.fleet.json", []byte("{}"), etag))(w.t)
		}, trust.RuleSnapshot, fault.Untrusted},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, true)
			w.direct(1, 0)
			c.do(w)
			_, err := beat.Beat(t.Context(), w.heart, w.now)
			if trust.RuleOf(err) != c.rule || !fault.Is(err, c.kind) || fault.Hint(err) == "" {
				t.Errorf("%v, want rule %q", err, c.rule)
			}
			if _, err := w.get(t.Context(), "tuf/timestamp.json"); !fault.Is(err, fault.NotFound) {
				t.Errorf("a timestamp was written: %v", err)
			}
		})
	}
}

func TestBeforeTheCoordinatorsFirstSignature(t *testing.T) {
	w := newWorld(t, true)
	if _, err := beat.Beat(t.Context(), w.heart, w.now); !fault.Is(err, fault.NotFound) {
		t.Errorf("before the coordinator's first signature: %v", err)
	}
}

// A snapshot that nobody of the fleet signed stops nothing.
func TestASquattedSnapshotIsPassedOver(t *testing.T) {
	w := newWorld(t, false)
	w.direct(1, 0)
	w.put([]repository.Write{{Key: "tuf/2.snapshot.json", Body: []byte(`{"signed":{},"signatures":[]}`)}})
	w.now = w.now.Add(12 * time.Hour)
	if r := w.beat(); !r.Signed || r.Snapshot != 1 {
		t.Errorf("%+v", r)
	}
	w.direct(2, 0)
	if r := w.beat(); r.Snapshot != 3 {
		t.Errorf("%+v", r)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	for event, want := range map[string]struct {
		from     string
		relevant bool
	}{
		`{"source":"aws.events","detail-type":"Scheduled Event","detail":{}}`:                      {"aws.events", true},
		`{"source":"aws.scheduler","detail-type":"Scheduled Event","detail":"{}"}`:                 {"aws.scheduler", true},
		`{"Records":[{"eventSource":"aws:s3","s3":{"object":{"key":"f/tuf/7.snapshot.json"}}}]}`:   {"bucket", true},
		`{"Records":[{"eventSource":"aws:s3","s3":{"object":{"key":"f/tuf/timestamp.json"}}}]}`:    {"bucket", false},
		`{"source":"aws.s3","detail-type":"Object Created","detail":{"object":{"key":"packs/x"}}}`: {"bucket", false},
		`{}`:  {"call", true},
		`"x"`: {"unknown event", true},
	} {
		from, relevant := beat.Notified(json.RawMessage(event))
		if from != want.from || relevant != want.relevant {
			t.Errorf("%s: %s %v", event, from, relevant)
		}
	}
}
