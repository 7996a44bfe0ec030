// Package agenttest is a small real fleet for tests of the agent: keys, a TUF
// repository and a bucket in a folder, and a coordinator over TLS that enrols,
// renews, gives packs and takes rows. Nothing of it decides: tests say what the
// directive is.
package agenttest

import (
	"context"
	"crypto"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/identity/identitytest"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

// Names of the fleet.
const (
	FleetName = "acme"
	Model     = fleet.ModelName("detector")
	team      = fleet.Team("vision")
	group     = fleet.DefaultGroup
	Rollout   = fleet.RolloutID("r1")
)

// Fleet is a fleet without its coordinator's mind.
type Fleet struct {
	t      testing.TB
	Bucket string         // folder of the registry
	Audit  *trusttest.Log // nil but for [NewAudited]

	store     *dir.Store
	repo      *repository.Repository
	publisher *signer.Signer
	directs   *signer.Signer // the coordinator's
	ca        *identitytest.CA
	genesis   repository.Genesis

	whenRevoked fleet.WhenRevoked
	barred      []fleet.RevokedMember

	mu       sync.Mutex
	sequence uint64
	pack     []byte
	moved    chan struct{} // closed when pack changes
}

// New makes a fleet.
func New(t testing.TB) *Fleet {
	t.Helper()
	return newFleet(t, "")
}

func newFleet(t testing.TB, auditKey string) *Fleet {
	t.Helper()
	f := &Fleet{t: t, Bucket: t.TempDir(), moved: make(chan struct{})}
	var err error
	if f.store, err = dir.Open(f.Bucket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.store.Close() })
	root, coordinator := f.key(), f.key()
	f.publisher = f.key()
	f.ca = identitytest.New(t, FleetName)
	f.genesis, err = repository.Init(repository.InitOptions{
		Fleet: FleetName, Now: time.Now(), Root: []signature.Signer{root},
		Teams:       []repository.Team{{Name: team, Keys: []crypto.PublicKey{f.publisher.Public()}}},
		Coordinator: coordinator.Public(), AuditKey: auditKey,
		DeviceCA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.ca.Certificate.Raw}),
	})
	if err != nil {
		t.Fatal(err)
	}
	f.write(f.genesis.Writes)
	f.repo, err = repository.Open(t.Context(), f.get, repository.Options{Root: f.genesis.Root, Coordinator: coordinator})
	if err != nil {
		t.Fatal(err)
	}
	f.directs = coordinator
	return f
}

func (f *Fleet) key() *signer.Signer {
	k, err := signer.Ephemeral()
	if err != nil {
		f.t.Fatal(err)
	}
	return k
}

func (f *Fleet) get(ctx context.Context, key string) ([]byte, error) {
	b, _, err := f.store.Get(ctx, key, "")
	return b, err
}

func (f *Fleet) write(ws []repository.Write) {
	f.t.Helper()
	ctx := f.t.Context()
	for _, w := range ws {
		if !w.Mutable {
			if _, err := f.store.Create(ctx, w.Key, registry.BodyOf(w.Body)); err != nil {
				f.t.Fatal(err)
			}
			continue
		}
		_, etag, err := f.store.Get(ctx, w.Key, "")
		if err != nil && !fault.Is(err, fault.NotFound) {
			f.t.Fatal(err)
		}
		if _, err := f.store.Swap(ctx, w.Key, w.Body, etag); err != nil {
			f.t.Fatal(err)
		}
	}
}

// Publish signs and uploads a version of the model with these files, signed whole.
func (f *Fleet) Publish(version fleet.Version, files map[string]string) fleet.Release {
	f.t.Helper()
	return f.publish(version, files, oms.Options{Name: string(Model)})
}

// PublishShards is Publish with files signed in shards, which neighbours share.
func (f *Fleet) PublishShards(version fleet.Version, files map[string]string, shard int64) fleet.Release {
	f.t.Helper()
	return f.publish(version, files, oms.Options{Name: string(Model), Method: oms.Shards, ShardSize: shard})
}

func (f *Fleet) publish(version fleet.Version, files map[string]string, o oms.Options) fleet.Release {
	f.t.Helper()
	ctx := f.t.Context()
	folder := f.t.TempDir()
	var size int64
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o644); err != nil {
			f.t.Fatal(err)
		}
		size += int64(len(content))
	}
	m, err := oms.Hash(ctx, folder, o)
	if err != nil {
		f.t.Fatal(err)
	}
	bundle, err := oms.Sign(m, f.publisher)
	if err != nil {
		f.t.Fatal(err)
	}
	list, err := artifact.FilesOf(m)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := artifact.Upload(ctx, f.store, folder, list, artifact.UploadOptions{TempDir: f.t.TempDir()}); err != nil {
		f.t.Fatal(err)
	}
	rel := fleet.Release{Team: team, Model: Model, Version: version, Variants: []fleet.Variant{{Name: fleet.DefaultVariant, Size: size}}}
	f.write([]repository.Write{{Key: rel.BundlePath(fleet.DefaultVariant), Body: bundle}})
	draft, err := f.repo.Draft(ctx, team)
	if err != nil {
		f.t.Fatal(err)
	}
	signed, err := draft.Next(repository.Change{Add: []repository.Addition{{
		Entry: trust.Entry{Release: rel}, Bundles: map[string][]byte{fleet.DefaultVariant: bundle},
	}}}, time.Now(), f.publisher)
	if err != nil {
		f.t.Fatal(err)
	}
	f.write([]repository.Write{signed.Write})
	adm, err := f.repo.Admit(ctx, team, time.Now())
	if err != nil {
		f.t.Fatal(err)
	}
	f.write(adm.Writes)
	for _, e := range adm.Added {
		if e.Release.Version == version {
			return e.Release
		}
	}
	f.t.Fatalf("%s was not admitted", rel.Ref())
	return fleet.Release{}
}

// Direct signs the next directive: what is stable, and what everybody is exposed
// to, soaking for soak; nil means none. With neither it names no model.
func (f *Fleet) Direct(stable, exposed *fleet.Release, soak time.Duration) {
	f.t.Helper()
	f.sequence++
	p := fleet.Placement{Model: Model, Stable: stable, WhenRevoked: f.whenRevoked}
	if exposed != nil {
		p.Rollout = &fleet.Exposure{
			ID: Rollout + fleet.RolloutID(exposed.Version), Release: *exposed, Rules: []fleet.Rule{{Bound: fleet.Everyone}},
			AsOf: time.Now().Add(time.Hour), Soak: fleet.Duration(soak), Health: fleet.Health{FailStreak: 5, Restarts: 2},
		}
	}
	now := time.Now()
	d := fleet.Directive{Group: group, Sequence: f.sequence, Issued: now, Revoked: f.barred}
	if stable != nil || exposed != nil {
		d.Models = []fleet.Placement{p}
	}
	f.prove(d)
	pub, err := f.repo.Sign(d, now)
	if err != nil {
		f.t.Fatal(err)
	}
	f.write(pub.Writes)
	f.Offer(pub.Packs[group])
}

// Offer has the coordinator give out a pack, whatever it is.
func (f *Fleet) Offer(pack []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pack = pack
	close(f.moved)
	f.moved = make(chan struct{})
}

// Pack is what the coordinator gives out now.
func (f *Fleet) Pack() []byte {
	pack, _ := f.current()
	return pack
}

func (f *Fleet) current() ([]byte, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pack, f.moved
}

// Tamper flips a bit in every object of the model's files in the bucket, and
// returns a function that puts them right again.
func (f *Fleet) Tamper() (undo func()) {
	f.t.Helper()
	was := map[string][]byte{}
	err := filepath.WalkDir(filepath.Join(f.Bucket, "files"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) == ".idx" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil || len(data) == 0 {
			return err
		}
		was[path] = append([]byte(nil), data...)
		data[len(data)/2] ^= 1
		return os.WriteFile(path, data, 0o644)
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return func() {
		for path, data := range maps.All(was) {
			if err := os.WriteFile(path, data, 0o644); err != nil {
				f.t.Fatal(err)
			}
		}
	}
}
