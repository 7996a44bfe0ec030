package publisher_test

import (
	"context"
	"crypto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/coordinator/cli/folder"
	"github.com/modelfleet/modelfleet/coordinator/cli/publisher"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

var now = time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)

// bench is a fleet in a folder, with one team.
type bench struct {
	t     *testing.T
	store *dir.Store
	root  string // of the bucket
	key   *signer.Signer
	gen   repository.Genesis
}

func key(t *testing.T) *signer.Signer {
	t.Helper()
	k, err := signer.Ephemeral()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, root: t.TempDir(), key: key(t)}
	var err error
	b.gen, err = repository.Init(repository.InitOptions{
		Fleet: "orchard", Now: now, Root: []signature.Signer{key(t)}, Coordinator: key(t).Public(),
		Teams: []repository.Team{{Name: "vision", Keys: []crypto.PublicKey{b.key.Public()}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if b.store, err = dir.Open(b.root); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.store.Close() })
	if _, err := folder.Put(t.Context(), b.store, b.gen.Writes); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) repository(store registry.Reader) *repository.Repository {
	b.t.Helper()
	r, err := repository.Open(b.t.Context(), folder.Get(store), repository.Options{Root: b.gen.Root})
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *bench) publish(ctx context.Context, store registry.Store, r publisher.Release) (publisher.Outcome, error) {
	return publisher.Publish(ctx, publisher.Options{Store: store, Repository: b.repository(b.store), Key: b.key, Now: now}, r)
}

// model is a folder with these files, published as m@version.
func (b *bench) model(version fleet.Version, files map[string]string) publisher.Release {
	b.t.Helper()
	d := b.t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(d, name), []byte(text), 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
	return publisher.Release{Team: "vision", Model: "m", Version: version, Sources: []publisher.Source{{Dir: d}}}
}

// dying is a bucket that is gone after so many writes.
type dying struct {
	*dir.Store
	left int
}

func (d *dying) Create(ctx context.Context, key string, body registry.Body) (bool, error) {
	if d.left--; d.left < 0 {
		return false, fault.Newf(fault.Transient, "create", key, "the network is gone")
	}
	return d.Store.Create(ctx, key, body)
}

// Wherever publishing is cut short, nobody sees half a release, and repeating it
// finishes with what was begun.
func TestPublishIsFinishedByRepeatingIt(t *testing.T) {
	for cut := range 20 {
		b := newBench(t)
		r := b.model("1", map[string]string{"a": strings.Repeat("a", 9<<20), "b": "b"})
		_, err := b.publish(t.Context(), &dying{b.store, cut}, r)
		if err == nil {
			if cut < 5 {
				t.Fatalf("published with %d writes", cut)
			}
			return // more writes than it takes
		}
		if !fault.Is(err, fault.Transient) {
			t.Fatalf("cut after %d: %v", cut, err)
		}
		if d, err := b.repository(b.store).Draft(t.Context(), "vision"); err != nil || len(d.Role.Entries) != 0 {
			t.Fatalf("cut after %d: the role lists %d, %v", cut, len(d.Role.Entries), err)
		}
		out, err := b.publish(t.Context(), b.store, r)
		if err != nil || !out.Published {
			t.Fatalf("cut after %d, repeated: %+v, %v", cut, out, err)
		}
		if _, err := publisher.InBucket(t.Context(), b.store, b.repository(b.store), out.Release, func(int64) {}); err != nil {
			t.Fatalf("cut after %d, repeated: %v", cut, err)
		}
	}
	t.Error("20 writes were not enough")
}

// Two people of a team who publish at the same moment both succeed.
func TestPublishersOfOneTeamDoNotLoseEachOther(t *testing.T) {
	b := newBench(t)
	first, second := b.model("1", map[string]string{"a": "one"}), b.model("2", map[string]string{"a": "two"})
	late := b.repository(b.store) // opened before anybody published
	if _, err := b.publish(t.Context(), b.store, first); err != nil {
		t.Fatal(err)
	}
	out, err := publisher.Publish(t.Context(), publisher.Options{Store: b.store, Repository: late, Key: b.key, Now: now}, second)
	if err != nil || out.Release.Counter != 2 {
		t.Fatalf("%+v, %v", out, err)
	}
	d, err := b.repository(b.store).Draft(t.Context(), "vision")
	if err != nil || len(d.Role.Entries) != 2 {
		t.Errorf("the role lists %d, %v", len(d.Role.Entries), err)
	}
}

// Everything that lies in the bucket is looked at: whichever byte is changed,
// the release is not good any more.
func TestEveryChangedObjectIsFound(t *testing.T) {
	b := newBench(t)
	out, err := b.publish(t.Context(), b.store, b.model("1", map[string]string{"a": strings.Repeat("a", 9<<20), "b": "b"}))
	if err != nil {
		t.Fatal(err)
	}
	check := func() error {
		home := folder.Folder{FleetFile: api.FleetFile{Name: "orchard", Root: b.gen.Pin}}
		r, err := home.Repository(t.Context(), b.store)
		if err != nil {
			return err
		}
		_, err = publisher.InBucket(t.Context(), b.store, r, out.Release, func(int64) {})
		return err
	}
	if err := check(); err != nil {
		t.Fatal(err)
	}
	changed := 0
	for o, err := range b.store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		// Indexes are hints, and nobody reads compressed copies here.
		if strings.HasSuffix(o.Key, ".idx") || strings.HasSuffix(o.Key, "/full") || strings.HasPrefix(o.Key, "tuf/targets/") {
			continue
		}
		path := filepath.Join(b.root, filepath.FromSlash(o.Key))
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad := []byte(strings.Replace(string(good), `"sig": "`, `"sig": "00`, 1))
		if string(bad) == string(good) {
			bad[len(bad)/2] ^= 1
		}
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := check(); err == nil {
			t.Errorf("%s was changed, and nobody noticed", o.Key)
		}
		if err := os.WriteFile(path, good, 0o644); err != nil {
			t.Fatal(err)
		}
		changed++
	}
	if changed < 5 {
		t.Errorf("only %d objects were tried", changed)
	}
	if err := check(); err != nil {
		t.Errorf("put back: %v", err)
	}
}

// A bundle that somebody else put in the release's place is not taken up.
func TestForeignBundleIsRefused(t *testing.T) {
	b, thief := newBench(t), newBench(t)
	r := b.model("1", map[string]string{"a": "a"})
	out, err := thief.publish(t.Context(), thief.store, r)
	if err != nil {
		t.Fatal(err)
	}
	path := out.Release.BundlePath("default")
	body, _, err := thief.store.Get(t.Context(), path, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.store.Create(t.Context(), path, registry.BodyOf(body)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.publish(t.Context(), b.store, r); !fault.Is(err, fault.Untrusted) {
		t.Errorf("got %v", err)
	}
}

// A pack is judged as a new member would.
func TestPackIsJudgedByTheRootOneHas(t *testing.T) {
	coordinator, root := key(t), key(t)
	gen, err := repository.Init(repository.InitOptions{Fleet: "orchard", Now: now, Root: []signature.Signer{root}, Coordinator: coordinator.Public()})
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string][]byte{}
	for _, w := range gen.Writes {
		objects[w.Key] = w.Body
	}
	r, err := repository.Open(t.Context(), func(_ context.Context, key string) ([]byte, error) {
		if b, ok := objects[key]; ok {
			return b, nil
		}
		return nil, fault.Newf(fault.NotFound, "get", key, "absent")
	}, repository.Options{Root: gen.Root, Coordinator: coordinator})
	if err != nil {
		t.Fatal(err)
	}
	pub, err := r.Sign(fleet.Directive{Group: "default", Sequence: 1, Issued: now}, now)
	if err != nil {
		t.Fatal(err)
	}
	facts := fleet.Facts{ID: "x", Kind: fleet.Device, Group: "default"}
	pack := pub.Packs["default"]
	if p, err := publisher.Pack(pack, gen.Pin, facts, now); err != nil || p.Fleet != "orchard" || p.Freshness != trust.Fresh {
		t.Errorf("good: %+v, %v", p.Freshness, err)
	}
	if p, err := publisher.Pack(pack, gen.Pin, facts, now.Add(48*time.Hour)); err != nil || p.Freshness != trust.Stale {
		t.Errorf("two days later: %v, %v", p.Freshness, err)
	}
	if _, err := publisher.Pack(pack, fleet.Digest{1}, facts, now); !fault.Is(err, fault.Untrusted) {
		t.Errorf("another root: %v", err)
	}
	if _, err := publisher.Pack(pack[:len(pack)/2], gen.Pin, facts, now); !fault.Is(err, fault.Untrusted) {
		t.Errorf("cut short: %v", err)
	}
}
