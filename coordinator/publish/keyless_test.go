//go:build keyless

package publish_test

import (
	"context"
	"crypto"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/coordinator/publish"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/keyless"
	"github.com/modelfleet/modelfleet/pkg/keyless/sigstoretest"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

const (
	ci    = "https://token.actions.example"
	train = "https://ci.example/orchard/train.yml@refs/heads/main"
)

// vouching is a fleet whose policy asks team vision for the pipeline's signature.
type vouching struct {
	t         *testing.T
	sigstore  *sigstoretest.Sigstore
	store     *dir.Store
	root      []byte
	team      *signer.Signer
	publisher *publish.Publisher
}

func newVouching(t *testing.T) *vouching {
	v := &vouching{t: t, sigstore: sigstoretest.Start(t), store: must(dir.Open(t.TempDir()))(t)}
	t.Cleanup(func() { v.store.Close() })
	key := func() *signer.Signer { return must(signer.Ephemeral())(t) }
	root, coord, stamp := key(), key(), key()
	v.team = key()
	g := must(repository.Init(repository.InitOptions{
		Fleet: "plant", Now: time.Now(), Root: []signature.Signer{root}, Coordinator: coord.Public(), Timestamp: []crypto.PublicKey{stamp.Public()},
		Teams: []repository.Team{{Name: "vision", Keys: []crypto.PublicKey{v.team.Public()}}},
	}))(t)
	v.put(g.Writes...)
	policy := must2(v.store.Get(t.Context(), trust.MetadataKey("targets", 1), ""))(t)
	rules := must(keyless.Policy{Teams: map[fleet.Team][]keyless.Identity{"vision": {{Issuer: ci, Subject: train}}}}.Encode())(t)
	v.put(must(repository.NextPolicy(policy, repository.PolicyChange{Keyless: rules, SigstoreRoot: v.sigstore.Root}, time.Now(), repository.Lifetimes{}, root))(t)...)
	v.root = g.Root
	v.publisher = must(publish.Open(t.Context(), publish.Options{
		Bucket: v.store, Store: &memory{failing: &failing{left: -1}}, Root: g.Root, Coordinator: coord, Timestamp: stamp, Logger: slog.New(slog.DiscardHandler),
	}))(t)
	return v
}

func (v *vouching) put(writes ...repository.Write) {
	v.t.Helper()
	for _, w := range writes {
		must(v.store.Create(v.t.Context(), w.Key, registry.BodyOf(w.Body)))(v.t)
	}
}

// publish lists a release, whose keyless bundle is what sign makes of its manifest.
func (v *vouching) publish(version fleet.Version, sign func(oms.Manifest) []byte) (repository.Admission, error) {
	v.t.Helper()
	folder := v.t.TempDir()
	must(0, os.WriteFile(filepath.Join(folder, "weights"), []byte(version), 0o644))(v.t)
	m := must(oms.Hash(v.t.Context(), folder, oms.Options{Name: "detector", Method: oms.Shards}))(v.t)
	r := fleet.Release{Team: "vision", Model: "detector", Version: version, Variants: []fleet.Variant{{Name: fleet.DefaultVariant, Size: m.Size()}}}
	path, bundle := r.BundlePath(fleet.DefaultVariant), must(oms.Sign(m, v.team))(v.t)
	v.put(repository.Write{Key: path, Body: bundle})
	if raw := sign(m); raw != nil {
		v.put(repository.Write{Key: keyless.BundleKey(path), Body: raw})
	}
	repo := must(repository.Open(v.t.Context(), v.get, repository.Options{Root: v.root}))(v.t)
	d := must(repo.Draft(v.t.Context(), "vision"))(v.t)
	add := repository.Addition{Entry: trust.Entry{Release: r}, Bundles: map[string][]byte{fleet.DefaultVariant: bundle}}
	s := must(d.Next(repository.Change{Add: []repository.Addition{add}}, time.Now(), v.team))(v.t)
	v.put(s.Write)
	recorded := 0
	a, err := v.publisher.Admit(v.t.Context(), "vision", time.Now(), func(repository.Admission) error { recorded++; return nil })
	if (err == nil) != (recorded == 1) {
		v.t.Errorf("recorded %d times, and %v", recorded, err)
	}
	return a, err
}

func (v *vouching) get(ctx context.Context, key string) ([]byte, error) {
	body, _, err := v.store.Get(ctx, key, "")
	return body, err
}

func (v *vouching) by(subject string) func(oms.Manifest) []byte {
	return func(m oms.Manifest) []byte {
		s := keyless.Signing{Token: sigstoretest.Token(ci, subject), TrustedRoot: v.sigstore.Root, Fulcio: v.sigstore.URL, Rekor: v.sigstore.URL}
		return must(keyless.Sign(v.t.Context(), m, s))(v.t)
	}
}

func TestAReleaseNeedsThePipelineThatThePolicyNames(t *testing.T) {
	v := newVouching(t)
	a, err := v.publish("1.0.0", v.by(train))
	if err != nil || a.Vouched["detector@1.0.0"] != train+" of "+ci {
		t.Fatalf("vouched by %q: %v", a.Vouched, err)
	}
	if pack := must(v.publisher.Publish(t.Context(), directive(1), time.Now()))(t); len(pack) > 0 {
		t.Errorf("refused: %v", pack)
	}
	if p, _ := v.publisher.Pack(fleet.DefaultGroup); len(p.Body) > 4<<10 {
		t.Errorf("the pack has %d bytes: it carries what is the coordinator's alone", len(p.Body))
	}
}

// The thief of a team's key gets nothing admitted by it alone.
func TestAStolenTeamKeyIsNotThePipeline(t *testing.T) {
	other := must(oms.Hash(t.Context(), must(os.Getwd())(t), oms.Options{}))(t)
	for name, sign := range map[string]func(*vouching) func(oms.Manifest) []byte{
		"no keyless signature": func(*vouching) func(oms.Manifest) []byte { return func(oms.Manifest) []byte { return nil } },
		"another pipeline's":   func(v *vouching) func(oms.Manifest) []byte { return v.by(train + "x") },
		"over other content": func(v *vouching) func(oms.Manifest) []byte {
			return func(oms.Manifest) []byte { return v.by(train)(other) }
		},
		"no bundle": func(*vouching) func(oms.Manifest) []byte { return func(oms.Manifest) []byte { return []byte("{}") } },
		"by a key of its own": func(v *vouching) func(oms.Manifest) []byte {
			return func(m oms.Manifest) []byte { return must(oms.Sign(m, v.team))(v.t) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVouching(t)
			_, err := v.publish("1.0.0", sign(v))
			if trust.RuleOf(err) != trust.RuleKeyless {
				t.Errorf("got %v, want the rule keyless", err)
			}
			if listed := must(v.publisher.Listed())(t); len(listed) > 0 {
				t.Errorf("%d releases are listed", len(listed))
			}
			if _, err := v.publish("1.0.1", v.by(train)); trust.RuleOf(err) != trust.RuleKeyless {
				t.Errorf("a role that still lists the other was admitted: %v", err)
			}
		})
	}
}
