package publish_test

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/coordinator/publish"
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
			t.Fatal(err)
		}
		return v
	}
}

// memory is a publication store, and failing counts down the steps to a crash.
type memory struct {
	signed []byte
	*failing
}

var errCrash = errors.New("the power failed")

// failing lets so many steps pass; then every step fails.
type failing struct{ left int }

func (f *failing) step() error {
	if f.left == 0 {
		return errCrash
	}
	f.left--
	return nil
}

func (m *memory) SavePublication(_ context.Context, signed []byte) error {
	if err := m.step(); err != nil {
		return err
	}
	m.signed = signed
	return nil
}

func (m *memory) Publication(context.Context) ([]byte, error) { return m.signed, nil }

// bucket is a folder whose writes may fail.
type bucket struct {
	*dir.Store
	*failing
}

func (b bucket) Create(ctx context.Context, key string, body registry.Body) (bool, error) {
	if err := b.step(); err != nil {
		return false, err
	}
	return b.Store.Create(ctx, key, body)
}

func (b bucket) Swap(ctx context.Context, key string, body []byte, etag string) (string, error) {
	if err := b.step(); err != nil {
		return "", err
	}
	return b.Store.Swap(ctx, key, body, etag)
}

type world struct {
	t      *testing.T
	bucket bucket
	memory *memory
	opts   publish.Options
	root   []byte
	pin    fleet.Digest
	keeper *signer.Signer // of root and policy
	policy []byte
	vision *signer.Signer // the publisher
}

func newWorld(t *testing.T) *world {
	f := &failing{left: -1}
	w := &world{t: t, bucket: bucket{must(dir.Open(t.TempDir()))(t), f}, memory: &memory{failing: f}}
	t.Cleanup(func() { w.bucket.Close() })
	key := func() *signer.Signer { return must(signer.Ephemeral())(t) }
	coord, stamp := key(), key()
	w.keeper, w.vision = key(), key()
	g := must(repository.Init(repository.InitOptions{
		Fleet: "plant", Now: time.Now(), Root: []signature.Signer{w.keeper}, Coordinator: coord.Public(), Timestamp: []crypto.PublicKey{stamp.Public()},
		Teams: []repository.Team{{Name: "vision", Keys: []crypto.PublicKey{w.vision.Public()}}},
	}))(t)
	for _, x := range g.Writes {
		must(w.bucket.Store.Create(t.Context(), x.Key, registry.BodyOf(x.Body)))(t)
	}
	w.root, w.pin, w.policy = g.Root, g.Pin, g.Policy
	w.opts = publish.Options{Bucket: w.bucket, Store: w.memory, Root: g.Root, Coordinator: coord, Timestamp: stamp, Logger: slog.New(slog.DiscardHandler)}
	return w
}

func (w *world) open() (*publish.Publisher, error) { return publish.Open(w.t.Context(), w.opts) }

func directive(seq uint64) []byte {
	d := fleet.Directive{Schema: fleet.DirectiveSchema, Group: fleet.DefaultGroup, Sequence: seq, Issued: time.Unix(int64(seq), 0).UTC(), Models: []fleet.Placement{}}
	b, _ := json.Marshal(d)
	return b
}

// member is what a member that comes now believes.
func (w *world) member() uint64 {
	w.t.Helper()
	pack, _, err := w.bucket.Get(w.t.Context(), fleet.DefaultGroup.PackKey(), "")
	if err != nil {
		return 0
	}
	st := must(trust.NewState(w.root, w.pin))(w.t)
	trusted, _, err := trust.Verify(pack, st, fleet.Facts{ID: "m", Group: fleet.DefaultGroup}, time.Now())
	if err != nil {
		w.t.Fatalf("a member that comes now: %v", err)
	}
	return trusted.Directive.Sequence
}

func TestACrashAtAnyStepIsRepeatedHarmlessly(t *testing.T) {
	crashed := 0
	for steps := 0; ; steps++ {
		w := newWorld(t)
		w.bucket.left = -1
		must(must(w.open())(t).Publish(t.Context(), directive(1), time.Now()))(t)
		w.bucket.left = steps
		_, err := must(w.open())(t).Publish(t.Context(), directive(2), time.Now())
		if err == nil && w.bucket.left > 0 {
			if steps < 6 {
				t.Errorf("published in %d steps, which is fewer than there are writes", steps)
			}
			break
		}
		if err != nil && !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		crashed++
		if seq := w.member(); seq != 1 && seq != 2 {
			t.Fatalf("after a crash in step %d members see directive %d", steps, seq)
		}
		w.bucket.left = -1 // the power is back
		p := must(w.open())(t)
		must(p.Publish(t.Context(), directive(2), time.Now()))(t)
		must(p.Publish(t.Context(), directive(3), time.Now()))(t)
		if seq := w.member(); seq != 3 {
			t.Fatalf("after a restart from step %d members see directive %d", steps, seq)
		}
		if bytes.Contains(w.memory.signed, []byte(`"Writes":[`)) {
			t.Fatalf("a publication is left over from step %d", steps)
		}
	}
	if crashed < 6 {
		t.Errorf("crashed at %d steps only", crashed)
	}
}

// A coordinator whose disk is lost with a publication half written finds versions
// in the bucket that lead nowhere, and whose signed bytes nobody has any more. It
// goes past them; nobody who saw any pack before sees an older one.
func TestALostStoreAfterACrashAtAnyStepStopsNothing(t *testing.T) {
	for steps := 0; ; steps++ {
		w := newWorld(t)
		must(must(w.open())(t).Publish(t.Context(), directive(1), time.Now()))(t)
		old := w.remember()
		w.bucket.left = steps
		_, err := must(w.open())(t).Publish(t.Context(), directive(2), time.Now())
		if err == nil && w.bucket.left > 0 {
			break
		}
		seen := w.remember()
		w.bucket.left, w.memory.signed = -1, nil // the power is back, the store is not
		p := must(w.open())(t)
		must(p.Publish(t.Context(), directive(3), time.Now()))(t)
		must(p.Publish(t.Context(), directive(4), time.Now()))(t)
		for _, st := range []trust.State{old, seen} {
			if seq := w.memberWith(st).Sequence; seq != 4 {
				t.Fatalf("after a loss in step %d members see directive %d", steps, seq)
			}
		}
	}
}

// A standby that takes over is not set back by the one before when that one comes
// up again with a publication half written.
func TestAnInterruptedPublicationDoesNotUndoALaterOne(t *testing.T) {
	for steps := range 8 {
		w := newWorld(t)
		must(must(w.open())(t).Publish(t.Context(), directive(1), time.Now()))(t)
		w.bucket.left = steps
		if _, err := must(w.open())(t).Publish(t.Context(), directive(2), time.Now()); err != nil && !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		w.bucket.left = -1
		theirs := *w
		theirs.opts.Store = &memory{failing: w.bucket.failing}
		p := must(theirs.open())(t)
		must(p.Publish(t.Context(), directive(5), time.Now()))(t)
		must(p.Publish(t.Context(), directive(6), time.Now()))(t)
		seen := w.remember()
		must(w.open())(t)
		if got := w.memberWith(seen).Sequence; got != 6 {
			t.Fatalf("step %d: members see directive %d, want 6", steps, got)
		}
	}
}

// What is in the store is what a restart can finish: nothing goes to the bucket
// that is not there.
func TestNothingIsWrittenThatIsNotKept(t *testing.T) {
	w := newWorld(t)
	p := must(w.open())(t)
	w.bucket.left = 0
	for range 3 {
		if _, err := p.Publish(t.Context(), directive(1), time.Now()); !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
	}
	w.bucket.left = 2 // the store, and one object
	if _, err := p.Publish(t.Context(), directive(1), time.Now()); !errors.Is(err, errCrash) || w.memory.signed == nil {
		t.Fatalf("an object was written, the store has %d bytes: %v", len(w.memory.signed), err)
	}
}

// remember is the state of a member that just believed what is in the bucket.
func (w *world) remember() trust.State {
	w.t.Helper()
	return w.memberWith(must(trust.NewState(w.root, w.pin))(w.t))
}

func (w *world) memberWith(st trust.State) trust.State {
	w.t.Helper()
	pack := must2(w.bucket.Get(w.t.Context(), fleet.DefaultGroup.PackKey(), ""))(w.t)
	_, st, err := trust.Verify(pack, st, fleet.Facts{ID: "m", Group: fleet.DefaultGroup}, time.Now())
	if err != nil {
		w.t.Fatalf("a member that saw directive %d: %v", st.Sequence, err)
	}
	return st
}

func must2[T, U any](v T, _ U, err error) func(*testing.T) T { return must(v, err) }

func TestATransientFailureIsFinishedByTheNextTurn(t *testing.T) {
	w := newWorld(t)
	p := must(w.open())(t)
	w.bucket.left = 3
	if _, err := p.Publish(t.Context(), directive(1), time.Now()); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	if _, ok := p.Pack(fleet.DefaultGroup); ok {
		t.Error("a pack is shown that is not in the bucket")
	}
	w.bucket.left = -1
	woken := p.Woken()
	must(p.Publish(t.Context(), directive(1), time.Now()))(t)
	select {
	case <-woken:
	default:
		t.Error("nobody was woken")
	}
	if pack, ok := p.Pack(fleet.DefaultGroup); !ok || pack.Sequence != 1 || w.member() != 1 {
		t.Errorf("pack of directive %d", pack.Sequence)
	}
}

func TestFreshnessIsRenewedBeforeItEnds(t *testing.T) {
	w := newWorld(t)
	var announced []uint64
	w.opts.Announce = func(_ fleet.Group, p publish.Pack) { announced = append(announced, p.Version) }
	p := must(w.open())(t)
	must(p.Publish(t.Context(), directive(1), time.Now()))(t)
	before, _ := p.Pack(fleet.DefaultGroup)
	if done, _, err := p.Refresh(t.Context(), time.Now().Add(time.Hour)); done || err != nil {
		t.Errorf("renewed after an hour: %v, %v", done, err)
	}
	if done, _, err := p.Refresh(t.Context(), time.Now().Add(11*time.Hour)); !done || err != nil {
		t.Fatalf("renewed after eleven hours: %v, %v", done, err)
	}
	after, _ := p.Pack(fleet.DefaultGroup)
	if !after.Expires.After(before.Expires) || after.Sequence != 1 || after.ETag == before.ETag {
		t.Errorf("before %v, after %v", before.Expires, after.Expires)
	}
	if len(announced) != 2 || announced[1] <= announced[0] {
		t.Errorf("announced versions %v, want two that grow", announced)
	}
}

func TestAnotherCoordinatorIsNoticed(t *testing.T) {
	w := newWorld(t)
	ours := must(w.open())(t)
	must(ours.Publish(t.Context(), directive(1), time.Now()))(t)
	theirs := *w
	theirs.opts.Store = &memory{failing: w.bucket.failing}
	must(must(theirs.open())(t).Publish(t.Context(), directive(5), time.Now()))(t)
	var err error
	for range 3 { // the first loses the race for a version, the next finds out why
		if _, err = ours.Publish(t.Context(), directive(2), time.Now()); err == nil {
			t.Fatal("an older directive replaced a newer one")
		}
	}
	if !fault.Is(err, fault.Conflict) {
		t.Errorf("got %v, want Conflict", err)
	}
	if seq := w.member(); seq != 5 {
		t.Errorf("members see directive %d, want 5", seq)
	}
}

// Junk under the name of the next root is no root: members must not turn stale by it,
// nor does it keep anything from starting, or a team from publishing. It is told of
// once, and the real root is taken up once it is written over the junk, as `key
// publish` does.
func TestJunkInPlaceOfTheNextRootStopsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var told []publish.Tampered
	w.opts.Tampered = func(_ context.Context, x publish.Tampered) error { told = append(told, x); return nil }
	p := must(w.open())(t)
	now := time.Now()
	must(p.Publish(t.Context(), directive(1), now))(t)
	real, whole, err := repository.NextRoot(w.root, repository.RootChange{}, now, repository.Lifetimes{}, w.keeper)
	if err != nil || !whole {
		t.Fatal(whole, err)
	}
	unsigned := must(metadata.Root().FromBytes(real))(t)
	unsigned.ClearSignatures()
	key, etag := trust.MetadataKey("root", 2), ""
	for i, junk := range [][]byte{[]byte("junk"), w.root, must(unsigned.ToBytes(false))(t), append(real, '\n')} {
		etag = must(w.bucket.Swap(t.Context(), key, junk, etag))(t)
		for range 2 {
			now = now.Add(12 * time.Hour)
			if done, _, err := p.Refresh(t.Context(), now); !done || err != nil {
				t.Errorf("renewed %v over %.20q: %v", done, junk, err)
			}
		}
		if _, err := p.Admit(t.Context(), "vision", now, func(repository.Admission) error { return nil }); err != nil {
			t.Errorf("admission over %.20q: %v", junk, err)
		}
		must(w.open())(t)
		if len(told) != i+1 || told[i].Key != key || !told[i].Ignored {
			t.Errorf("after %.20q it was told of %+v", junk, told)
		}
	}
	must(w.bucket.Swap(t.Context(), key, real, etag))(t)
	if _, _, err := p.Refresh(t.Context(), now.Add(time.Hour)); err != nil || p.Versions()["root"] != 2 {
		t.Errorf("root %d is in force, %v", p.Versions()["root"], err)
	}
}

// Junk under the name of the next policy is no policy: what runs goes on, and the
// real one is taken up once it is written over the junk, as `key publish` does.
func TestJunkInPlaceOfTheNextPolicyStopsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := must(w.open())(t)
	now := time.Now()
	must(p.Publish(t.Context(), directive(1), now))(t)
	writes := must(repository.NextPolicy(w.policy, repository.PolicyChange{}, now, repository.Lifetimes{}, w.keeper))(t)
	next := writes[len(writes)-1]
	alone := must(metadata.Targets().FromBytes(next.Body))(t)
	alone.ClearSignatures()
	unsigned := must(alone.ToBytes(false))(t)
	etag := ""
	for _, junk := range [][]byte{[]byte("junk"), w.policy, unsigned} {
		etag = must(w.bucket.Swap(t.Context(), next.Key, junk, etag))(t)
		now = now.Add(12 * time.Hour)
		if done, _, err := p.Refresh(t.Context(), now); !done || err != nil {
			t.Errorf("renewed %v over %.20q: %v", done, junk, err)
		}
		if v := p.Versions()["targets"]; v != 1 {
			t.Errorf("policy %d is in force", v)
		}
		must(w.open())(t) // a start as well
	}
	must(w.bucket.Swap(t.Context(), next.Key, next.Body, etag))(t)
	if done, _, err := p.Refresh(t.Context(), now.Add(time.Hour)); !done || err != nil {
		t.Errorf("the policy is not taken up: %v, %v", done, err)
	}
	if v := p.Versions()["targets"]; v != 2 {
		t.Errorf("policy %d is in force, want 2", v)
	}
}

// Another policy goes into no pack before it is on record and before who has to
// know was told, however often that fails, and whether or not the coordinator ran.
func TestAPolicyIsToldOfBeforeMembersKnow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	told, fails := 0, true
	w.opts.Devices = func(context.Context, []byte) { told++ }
	taken := publish.Audit{Taken: func(context.Context, map[string]int64) error {
		if fails {
			return errCrash
		}
		return nil
	}}
	p := must(w.open())(t)
	p.Audited(taken)
	now := time.Now()
	must(p.Publish(t.Context(), directive(1), now))(t)
	if told != 0 {
		t.Errorf("told %d times of the first policy", told)
	}
	writes := must(repository.NextPolicy(w.policy, repository.PolicyChange{}, now, repository.Lifetimes{}, w.keeper))(t)
	for _, x := range writes {
		must(w.bucket.Store.Create(t.Context(), x.Key, registry.BodyOf(x.Body)))(t)
	}
	for range 2 {
		if done, _, err := p.Refresh(t.Context(), now.Add(time.Hour)); done || !errors.Is(err, errCrash) {
			t.Fatalf("renewed %v, error %v", done, err)
		}
	}
	if _, err := p.Publish(t.Context(), directive(2), now); !errors.Is(err, errCrash) || w.member() != 1 {
		t.Errorf("directive %d is out, error %v", w.member(), err)
	}
	p = must(w.open())(t) // a restart
	p.Audited(taken)
	if _, err := p.Publish(t.Context(), directive(2), now); !errors.Is(err, errCrash) {
		t.Errorf("after a restart: %v", err)
	}
	fails = false
	must(p.Publish(t.Context(), directive(2), now))(t)
	if told != 1 || w.member() != 2 {
		t.Errorf("told %d times, directive %d", told, w.member())
	}
}

// An admission that is not on record is undone, whatever the bucket does: it must
// not be published with the next renewal.
func TestAnAdmissionThatIsNotRecordedIsUndone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := must(w.open())(t)
	now := time.Now()
	must(p.Publish(t.Context(), directive(1), now))(t)
	get := func(ctx context.Context, key string) ([]byte, error) {
		b, _, err := w.bucket.Get(ctx, key, "")
		return b, err
	}
	repo := must(repository.Open(t.Context(), get, repository.Options{Root: w.root}))(t)
	s := must(must(repo.Draft(t.Context(), "vision"))(t).Next(repository.Change{Floors: map[fleet.ModelName]uint64{"detector": 7}}, now, w.vision))(t)
	must(w.bucket.Store.Create(t.Context(), s.Write.Key, registry.BodyOf(s.Write.Body)))(t)
	_, err := p.Admit(t.Context(), "vision", now, func(repository.Admission) error {
		_, etag, err := w.bucket.Get(t.Context(), trust.MetadataKey("timestamp", 0), "")
		if err == nil {
			_, err = w.bucket.Store.Swap(t.Context(), trust.MetadataKey("timestamp", 0), []byte("junk"), etag) // nothing can be read anew
		}
		return errors.Join(errCrash, err)
	})
	if !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	if done, _, err := p.Refresh(t.Context(), now.Add(time.Minute)); err != nil || done {
		t.Errorf("published %v, %v", done, err)
	}
	if a := must(p.Admit(t.Context(), "vision", now, func(repository.Admission) error { return nil }))(t); a.Floors["detector"] != 7 {
		t.Errorf("admitted then: %+v", a)
	}
}
