package crash

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/coordinator/ca"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/identity"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// Model is the one model of a [World].
const Model = fleet.ModelName("detector")

const (
	fleetName = "crash"
	team      = fleet.Team("vision")
)

// Options say how large a world is.
type Options struct {
	Dir   string // absolute; everything is made below it
	Shard int64  // of signed frames, in bytes
	Size  int64  // of the large file of a release, in bytes
	Seed  uint64 // of its contents
}

// World is a fleet's bucket with three releases of one model, and a trust pack
// that makes each of them what members should run. From release to release half of
// the large file changes, one file stays and one is new.
type World struct {
	Options
	Bucket   string
	Releases []Release

	store     *dir.Store
	repo      *repository.Repository
	publisher *signer.Signer
	genesis   repository.Genesis
	ca        *ca.CA
}

// Release is one release of a world.
type Release struct {
	fleet.Release
	Key      fleet.Digest // of its folder in a store
	Manifest oms.Manifest
	Size     int64
	Sums     map[string][32]byte // SHA-256 of each file, by path
	Pack     string              // file with the trust pack that makes it the stable one
}

// New makes a world. It is closed with [World.Close].
func New(ctx context.Context, o Options) (*World, error) {
	w := &World{Options: o, Bucket: filepath.Join(o.Dir, "bucket")}
	if err := os.MkdirAll(w.Bucket, 0o755); err != nil {
		return nil, err
	}
	var err error
	if w.store, err = dir.Open(w.Bucket); err != nil {
		return nil, err
	}
	if err := w.found(ctx); err != nil {
		return nil, err
	}
	for n := range 3 {
		if err := w.publish(ctx, n); err != nil {
			return nil, fmt.Errorf("publish release %d: %w", n, err)
		}
	}
	return w, nil
}

// Close lets go of the bucket.
func (w *World) Close() error { return w.store.Close() }

// found makes the fleet's keys and repository.
func (w *World) found(ctx context.Context) error {
	var keys [4]*signer.Signer
	for i := range keys {
		var err error
		if keys[i], err = signer.Ephemeral(); err != nil {
			return err
		}
	}
	root, coordinator, deviceCA := keys[0], keys[1], keys[2]
	w.publisher = keys[3]
	now := time.Now()
	cert, err := identity.SelfSign(fleetName, deviceCA, 24*time.Hour, now)
	if err != nil {
		return err
	}
	if w.ca, err = ca.New(fleetName, ca.Authorities{Certificates: []*x509.Certificate{cert}, Keys: []crypto.Signer{deviceCA}}); err != nil {
		return err
	}
	w.genesis, err = repository.Init(repository.InitOptions{
		Fleet: fleetName, Now: now, Root: []signature.Signer{root},
		Teams:       []repository.Team{{Name: team, Keys: []crypto.PublicKey{w.publisher.Public()}}},
		Coordinator: coordinator.Public(),
		DeviceCA:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}),
	})
	if err != nil {
		return err
	}
	if err := w.write(ctx, w.genesis.Writes); err != nil {
		return err
	}
	get := func(ctx context.Context, key string) ([]byte, error) {
		b, _, err := w.store.Get(ctx, key, "")
		return b, err
	}
	w.repo, err = repository.Open(ctx, get, repository.Options{Root: w.genesis.Root, Coordinator: coordinator})
	return err
}

func (w *World) write(ctx context.Context, writes []repository.Write) error {
	for _, one := range writes {
		if !one.Mutable {
			if _, err := w.store.Create(ctx, one.Key, registry.BodyOf(one.Body)); err != nil {
				return err
			}
			continue
		}
		_, etag, err := w.store.Get(ctx, one.Key, "")
		if err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
		if _, err := w.store.Swap(ctx, one.Key, one.Body, etag); err != nil {
			return err
		}
	}
	return nil
}

// content is the files of the n-th release.
func (w *World) content(n int) map[string][]byte {
	noise := func(seed uint64, size int64) []byte {
		var key [32]byte
		for i := range 8 {
			key[i], key[8+i] = byte(seed>>(8*i)), byte(w.Seed>>(8*i))
		}
		b := make([]byte, size)
		_, _ = rand.NewChaCha8(key).Read(b) // never fails
		return b
	}
	half := w.Size / 2 / w.Shard * w.Shard
	// The first half of one release is the first half of the next but one.
	weights := append(noise(uint64(10+(n+1)/2), half), noise(uint64(20+n/2), w.Size-half)...)
	return map[string][]byte{
		"weights.bin":    weights,
		"vocabulary.txt": noise(30, w.Shard/2),
		"notes/card.md":  fmt.Appendf(nil, "release %d\n", n),
	}
}

// publish signs and uploads the n-th release, admits it and directs members to it.
func (w *World) publish(ctx context.Context, n int) error {
	r := Release{Sums: map[string][32]byte{}, Pack: filepath.Join(w.Dir, fmt.Sprintf("%d.pack", n))}
	folder := filepath.Join(w.Dir, fmt.Sprintf("model-%d", n))
	for name, data := range w.content(n) {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
		r.Sums[name] = sha256.Sum256(data)
		r.Size += int64(len(data))
	}
	var err error
	if r.Manifest, err = oms.Hash(ctx, folder, oms.Options{Name: string(Model), Method: oms.Shards, ShardSize: w.Shard}); err != nil {
		return err
	}
	bundle, err := oms.Sign(r.Manifest, w.publisher)
	if err != nil {
		return err
	}
	r.Key = fleet.DigestOf(bundle)
	files, err := artifact.FilesOf(r.Manifest)
	if err != nil {
		return err
	}
	if _, err := artifact.Upload(ctx, w.store, folder, files, artifact.UploadOptions{TempDir: w.Dir}); err != nil {
		return err
	}
	version := fleet.Version(fmt.Sprintf("%d.0.0", n+1))
	rel := fleet.Release{Team: team, Model: Model, Version: version, Variants: []fleet.Variant{{Name: fleet.DefaultVariant, Size: r.Size}}}
	if r.Release, err = w.admit(ctx, rel, bundle); err != nil {
		return err
	}
	pack, err := w.direct(ctx, uint64(n+1), r.Release)
	if err != nil {
		return err
	}
	w.Releases = append(w.Releases, r)
	return os.WriteFile(r.Pack, pack, 0o644)
}

func (w *World) admit(ctx context.Context, rel fleet.Release, bundle []byte) (fleet.Release, error) {
	writes := []repository.Write{{Key: rel.BundlePath(fleet.DefaultVariant), Body: bundle}}
	if err := w.write(ctx, writes); err != nil {
		return rel, err
	}
	draft, err := w.repo.Draft(ctx, team)
	if err != nil {
		return rel, err
	}
	signed, err := draft.Next(repository.Change{Add: []repository.Addition{{
		Entry: trust.Entry{Release: rel}, Bundles: map[string][]byte{fleet.DefaultVariant: bundle},
	}}}, time.Now(), w.publisher)
	if err != nil {
		return rel, err
	}
	if err := w.write(ctx, []repository.Write{signed.Write}); err != nil {
		return rel, err
	}
	adm, err := w.repo.Admit(ctx, team, time.Now())
	if err != nil {
		return rel, err
	}
	for _, e := range adm.Added {
		if e.Release.Version == rel.Version {
			return e.Release, w.write(ctx, adm.Writes)
		}
	}
	return rel, fault.Newf(fault.Internal, "admit release", rel.Ref(), "it was not admitted")
}

// direct signs the directive that makes a release the stable one.
func (w *World) direct(ctx context.Context, sequence uint64, rel fleet.Release) ([]byte, error) {
	now := time.Now()
	d := fleet.Directive{Group: fleet.DefaultGroup, Sequence: sequence, Issued: now, Models: []fleet.Placement{{Model: Model, Stable: &rel}}}
	pub, err := w.repo.Sign(d, now)
	if err != nil {
		return nil, err
	}
	// Packs come to the member by file, one after the other: in the bucket it would
	// find the newest at once.
	writes := slices.DeleteFunc(pub.Writes, func(x repository.Write) bool { return x.Key == fleet.DefaultGroup.PackKey() })
	return pub.Packs[fleet.DefaultGroup], w.write(ctx, writes)
}

// enrol makes the identity of a device whose coordinator is out of reach.
func (w *World) enrol(folder string, id fleet.MemberID) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	key, err := signer.Generate(filepath.Join(folder, "key.pem"))
	if err != nil {
		return err
	}
	now := time.Now()
	issued, err := w.ca.Issue(ca.Identity{Kind: fleet.Device, ID: id, Generation: 1}, key.ECDSA(), now)
	if err != nil {
		return err
	}
	data, err := json.Marshal(identity.Identity{
		URL: "https://127.0.0.1:1", Fleet: fleetName, RootPin: w.genesis.Pin, Root: w.genesis.Root,
		Facts:       fleet.Facts{ID: id, Kind: fleet.Device, Group: fleet.DefaultGroup, Enrolled: now.UTC().Truncate(time.Second)},
		Certificate: issued.DER, Issuer: issued.Issuer, Generation: 1, Cell: api.Cell{ID: "lone/0", Key: make([]byte, 32)},
	})
	if err != nil {
		return err
	}
	return cas.WriteFile(filepath.Join(folder, "identity.json"), data, 0o600)
}
