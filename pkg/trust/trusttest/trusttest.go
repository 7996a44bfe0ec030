// Package trusttest is a whole fleet's trust in memory for tests: real keys, a
// real repository, a bucket that is a map. Tests of other packages use it to
// get packs that verify, and attackers start from it.
package trusttest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// Team is the publisher every [Fleet] has.
const Team fleet.Team = "vision"

// Start is the time at which every [Fleet] is made.
func Start() time.Time { return time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC) }

// Bucket keeps objects as the real one does: created if absent, or replaced. It
// is safe for concurrent use.
type Bucket struct {
	mu      sync.Mutex
	objects map[string][]byte
}

// Get reads an object.
func (b *Bucket) Get(_ context.Context, key string) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	body, ok := b.objects[key]
	if !ok {
		return nil, fault.Newf(fault.NotFound, "get", key, "no such object")
	}
	return bytes.Clone(body), nil
}

// Put does writes in order; an immutable object that holds other bytes is a Conflict.
func (b *Bucket) Put(writes ...repository.Write) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, w := range writes {
		if old, ok := b.objects[w.Key]; ok && !w.Mutable && !bytes.Equal(old, w.Body) {
			return fault.Newf(fault.Conflict, "put", w.Key, "it holds other bytes")
		}
		b.objects[w.Key] = bytes.Clone(w.Body)
	}
	return nil
}

// Overwrite replaces or, with nil, removes an object, as someone who broke into
// the bucket could.
func (b *Bucket) Overwrite(key string, body []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if body == nil {
		delete(b.objects, key)
		return
	}
	b.objects[key] = bytes.Clone(body)
}

// Copy is an independent copy of the bucket as it is now.
func (b *Bucket) Copy() *Bucket {
	b.mu.Lock()
	defer b.mu.Unlock()
	return &Bucket{objects: maps.Clone(b.objects)}
}

// Fleet is a fleet with one team and the keys of everybody.
type Fleet struct {
	Bucket      *Bucket
	Root        *signer.Signer // also the policy's
	Publisher   *signer.Signer
	Coordinator *signer.Signer // fleet and snapshot
	Timestamp   *signer.Signer
	Genesis     repository.Genesis
	Repo        *repository.Repository
	Now         time.Time // moves when a test moves it
	Audit       *Log      // of [NewAudited]; tests may put another history in its place

	t        testing.TB
	sequence uint64
}

// New makes a fleet named "test". edit, when not nil, changes the options.
func New(t testing.TB, edit func(*repository.InitOptions)) *Fleet {
	t.Helper()
	f := &Fleet{Bucket: &Bucket{objects: map[string][]byte{}}, Now: Start(), t: t}
	f.Root, f.Publisher, f.Coordinator, f.Timestamp = Key(t), Key(t), Key(t), Key(t)
	o := repository.InitOptions{
		Fleet: "test", Now: f.Now, Root: []signature.Signer{f.Root},
		Teams:       []repository.Team{{Name: Team, Keys: []crypto.PublicKey{f.Publisher.Public()}}},
		Coordinator: f.Coordinator.Public(), Timestamp: Keys(f.Timestamp),
	}
	if edit != nil {
		edit(&o)
	}
	var err error
	f.Genesis, err = repository.Init(o)
	f.ok(err)
	f.ok(f.Bucket.Put(f.Genesis.Writes...))
	f.Repo = f.Open(f.Genesis.Root)
	return f
}

// Key makes a key in memory.
func Key(t testing.TB) *signer.Signer {
	t.Helper()
	s, err := signer.Ephemeral()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (f *Fleet) ok(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatalf("%v (next: %s)", err, fault.Hint(err))
	}
}

// Open opens the bucket as the coordinator would after a restart.
func (f *Fleet) Open(root []byte) *repository.Repository {
	f.t.Helper()
	r, err := repository.Open(f.t.Context(), f.Bucket.Get, repository.Options{Root: root, Coordinator: f.Coordinator, Timestamp: f.Timestamp})
	f.ok(err)
	return r
}

// Bundle signs a model of one file and returns its bundle and size.
func Bundle(t testing.TB, content string, key crypto.Signer) ([]byte, int64) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "weights.safetensors"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := oms.Hash(t.Context(), dir, oms.Options{Name: "model", Method: oms.Shards})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := oms.Sign(m, key)
	if err != nil {
		t.Fatal(err)
	}
	return raw, m.Size()
}

// Addition is a release of one variant, with its bundle put into the bucket.
func (f *Fleet) Addition(model fleet.ModelName, version fleet.Version) repository.Addition {
	f.t.Helper()
	bundle, size := Bundle(f.t, string(model)+"@"+string(version), f.Publisher)
	r := fleet.Release{Team: Team, Model: model, Version: version, Variants: []fleet.Variant{{Name: fleet.DefaultVariant, Size: size}}}
	f.Bucket.Overwrite(r.BundlePath(fleet.DefaultVariant), bundle)
	return repository.Addition{Entry: trust.Entry{Release: r}, Bundles: map[string][]byte{fleet.DefaultVariant: bundle}}
}

// Publish signs and admits a change of the publisher's role.
func (f *Fleet) Publish(c repository.Change) repository.Admission {
	f.t.Helper()
	d, err := f.Repo.Draft(f.t.Context(), Team)
	f.ok(err)
	s, err := d.Next(c, f.Now, f.Publisher)
	f.ok(err)
	f.ok(f.Bucket.Put(s.Write))
	a, err := f.Repo.Admit(f.t.Context(), Team, f.Now)
	f.ok(err)
	f.ok(f.Bucket.Put(a.Writes...))
	return a
}

// Release publishes and admits one release.
func (f *Fleet) Release(model fleet.ModelName, version fleet.Version) fleet.Release {
	f.t.Helper()
	a := f.Publish(repository.Change{Add: []repository.Addition{f.Addition(model, version)}})
	if len(a.Added) != 1 {
		f.t.Fatalf("admitted %d releases, want 1", len(a.Added))
	}
	return a.Added[0].Release
}

// Direct signs the next directive of the default group, with the releases as
// stable, and returns the pack.
func (f *Fleet) Direct(stable ...fleet.Release) []byte {
	f.t.Helper()
	d := fleet.Directive{Group: fleet.DefaultGroup, Issued: f.Now}
	for i := range stable {
		d.Models = append(d.Models, fleet.Placement{Model: stable[i].Model, Stable: &stable[i]})
	}
	return f.Sign(d)
}

// Sign signs a directive with the next sequence, writes everything and returns
// the pack.
func (f *Fleet) Sign(d fleet.Directive) []byte {
	f.t.Helper()
	f.sequence++
	d.Sequence = f.sequence
	if f.Audit != nil {
		f.prove(d)
	}
	pub, err := f.Repo.Sign(d, f.Now)
	f.ok(err)
	f.ok(f.Bucket.Put(pub.Writes...))
	return pub.Packs[d.Group]
}

// prove gives the repository the proof that a directive is in the audit log.
func (f *Fleet) prove(d fleet.Directive) {
	f.t.Helper()
	body, err := repository.DirectiveBytes(d)
	f.ok(err)
	p, err := json.Marshal(f.Audit.Prove(d.Group, d.Sequence, fleet.DigestOf(body), f.Now))
	f.ok(err)
	f.Repo.Prove(fleet.DigestOf(body), p)
}

// Member is a member's facts.
func (f *Fleet) Member() fleet.Facts {
	return fleet.Facts{ID: "cam-1", Kind: fleet.Device, Group: fleet.DefaultGroup, Enrolled: Start(), Agent: "1.0.0"}
}

// State is the trust state of a member that just enrolled.
func (f *Fleet) State() trust.State {
	f.t.Helper()
	st, err := trust.NewState(f.Genesis.Root, f.Genesis.Pin)
	f.ok(err)
	return st
}

// Keys is public keys as options want them.
func Keys(signers ...*signer.Signer) []crypto.PublicKey {
	var out []crypto.PublicKey
	for _, s := range signers {
		var k *ecdsa.PublicKey = s.ECDSA()
		out = append(out, k)
	}
	return out
}

// Newest is the newest version of a role's metadata in the bucket.
func (b *Bucket) Newest(t testing.TB, role string) []byte {
	t.Helper()
	var newest []byte
	for v := int64(1); ; v++ {
		raw, err := b.Get(t.Context(), trust.MetadataKey(role, v))
		if err != nil {
			return newest
		}
		newest = raw
	}
}
