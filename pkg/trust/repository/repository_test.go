package repository_test

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

func rule(t *testing.T, err error, want trust.Rule) {
	t.Helper()
	if trust.RuleOf(err) != want || !fault.Is(err, fault.Untrusted) {
		t.Errorf("error %v (rule %q, kind %v), want untrusted by rule %q", err, trust.RuleOf(err), fault.KindOf(err), want)
	}
	if fault.Hint(err) == "" {
		t.Errorf("%v ends without a next move", err)
	}
}

func kind(t *testing.T, err error, want fault.Kind) {
	t.Helper()
	if !fault.Is(err, want) {
		t.Errorf("error %v of kind %v, want %v", err, fault.KindOf(err), want)
	}
}

// next signs a role's next version with the given key and puts it into the bucket.
func next(t *testing.T, f *trusttest.Fleet, c repository.Change) {
	t.Helper()
	d, err := f.Repo.Draft(t.Context(), trusttest.Team)
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Next(c, f.Now, f.Publisher)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Bucket.Put(s.Write); err != nil {
		t.Fatal(err)
	}
}

func add(f *trusttest.Fleet, model fleet.ModelName, version fleet.Version) repository.Change {
	return repository.Change{Add: []repository.Addition{f.Addition(model, version)}}
}

// A plain TUF client that knows nothing of ours follows the repository: root,
// timestamp, snapshot, targets, delegations, and the files they list.
func TestAnyTUFClientCanFollow(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	r := f.Release("detector", "1.0.0")
	f.Direct(r)
	f.Direct(r)
	ctx := t.Context()
	get := func(key string) []byte {
		t.Helper()
		b, err := f.Bucket.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	tm, err := trustedmetadata.New(get("tuf/1.root.json"))
	if err != nil {
		t.Fatal(err)
	}
	tm.RefTime = f.Now
	if _, err := tm.UpdateTimestamp(get("tuf/timestamp.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := tm.UpdateSnapshot(get(fmt.Sprintf("tuf/%d.snapshot.json", tm.Timestamp.Signed.Meta["snapshot.json"].Version)), false); err != nil {
		t.Fatal(err)
	}
	version := func(role string) string {
		return fmt.Sprintf("tuf/%d.%s.json", tm.Snapshot.Signed.Meta[role+".json"].Version, role)
	}
	if _, err := tm.UpdateTargets(get(version("targets"))); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"fleet/default.json", r.BundlePath(fleet.DefaultVariant)} {
		roles := tm.Targets["targets"].Signed.Delegations.GetRolesForTarget(path)
		if len(roles) != 1 {
			t.Fatalf("%s is delegated to %v", path, roles)
		}
		role, err := tm.UpdateDelegatedTargets(get(version(roles[0].Name)), roles[0].Name, "targets")
		if err != nil {
			t.Fatal(err)
		}
		target := role.Signed.Targets[path]
		i := strings.LastIndexByte(path, '/')
		body := get(fmt.Sprintf("tuf/targets/%s%x.%s", path[:i+1], []byte(target.Hashes["sha256"]), path[i+1:]))
		if err := target.VerifyLengthHashes(body); err != nil {
			t.Error(err)
		}
	}
}

// At any moment between two writes, what is in the bucket is a whole repository.
func TestEveryPrefixOfTheWritesIsWhole(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	r := f.Release("detector", "1.0.0")
	f.Direct(r)
	before := f.Bucket.Copy()
	pub, err := f.Repo.Sign(fleet.Directive{Group: fleet.DefaultGroup, Sequence: 2, Issued: f.Now}, f.Now)
	if err != nil {
		t.Fatal(err)
	}
	if last := pub.Writes[len(pub.Writes)-1]; last.Key != fleet.DefaultGroup.PackKey() || !last.Mutable {
		t.Errorf("the last write is %s, want the pack", last.Key)
	}
	for n := range len(pub.Writes) + 1 {
		b := before.Copy()
		if err := b.Put(pub.Writes[:n]...); err != nil {
			t.Fatal(err)
		}
		o := repository.Options{Root: f.Genesis.Root, Coordinator: f.Coordinator, Timestamp: f.Timestamp}
		repo, err := repository.Open(t.Context(), b.Get, o)
		if err != nil {
			t.Fatalf("after %d writes: %v", n, err)
		}
		d, ok, err := repo.Directive(fleet.DefaultGroup)
		if err != nil || !ok || d.Sequence < 1 || d.Sequence > 2 {
			t.Fatalf("after %d writes: directive %d, %v", n, d.Sequence, err)
		}
		if err := b.Put(pub.Writes...); err != nil { // the restart repeats them all
			t.Fatalf("after %d writes: repeated: %v", n, err)
		}
	}
}

func TestRestartGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	r := f.Release("detector", "1.0.0")
	pack := f.Direct(r)
	again := f.Open(f.Genesis.Root)
	for role, v := range f.Repo.Versions() {
		if again.Versions()[role] != v {
			t.Errorf("role %s: version %d after the restart, %d before", role, again.Versions()[role], v)
		}
	}
	p, err := again.Pack(fleet.DefaultGroup)
	if err != nil || string(p) != string(pack) {
		t.Errorf("the pack differs after the restart: %v", err)
	}
	if es, err := again.Releases(); err != nil || len(es) != 1 || es[0].Release.Ref() != "detector@1.0.0" {
		t.Errorf("releases %v, %v", es, err)
	}
	if again.Fleet() != "test" || len(again.Teams()) != 1 {
		t.Errorf("fleet %q, teams %v", again.Fleet(), again.Teams())
	}
	_, err = again.Sign(fleet.Directive{Group: fleet.DefaultGroup, Sequence: 1, Issued: f.Now.Add(1)}, f.Now)
	kind(t, err, fault.Conflict)
	// A bucket that was set back is found by who remembers.
	old := f.Bucket.Copy()
	f.Direct(r)
	_, err = repository.Open(t.Context(), old.Get, repository.Options{Root: f.Genesis.Root, Known: f.Repo.Versions()})
	rule(t, err, trust.RuleVersion)
}

// Root by ceremony: 2 of 3, the second signature made elsewhere.
func TestRootOfTwoOfThree(t *testing.T) {
	t.Parallel()
	a, b, c, coordinator := trusttest.Key(t), trusttest.Key(t), trusttest.Key(t), trusttest.Key(t)
	o := repository.InitOptions{
		Fleet: "test", Now: trusttest.Start(), Root: []signature.Signer{a}, RootKeys: trusttest.Keys(b, c),
		Coordinator: coordinator.Public(),
	}
	g, err := repository.Init(o)
	if err != nil || g.Missing != 1 {
		t.Fatalf("missing %d, %v", g.Missing, err)
	}
	if _, err := trust.NewState(g.Root, g.Pin); trust.RuleOf(err) != trust.RuleRoot {
		t.Errorf("half a root is believed: %v", err)
	}
	root, err := repository.Countersign(g.Root, b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.NewState(root, fleet.DigestOf(root)); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*repository.InitOptions){
		"no root":        func(o *repository.InitOptions) { o.Root, o.RootKeys = nil, nil },
		"no coordinator": func(o *repository.InitOptions) { o.Coordinator = nil },
		"a bad name":     func(o *repository.InitOptions) { o.Fleet = "Not A Name" },
		"4 of 3":         func(o *repository.InitOptions) { o.RootThreshold = 4 },
		"2 of 1 keys": func(o *repository.InitOptions) {
			o.Teams = []repository.Team{{Name: "vision", Keys: trusttest.Keys(a), Threshold: 2}}
		},
		"not a P-256 key": func(o *repository.InitOptions) { o.Coordinator = crypto.PublicKey("x") },
	} {
		bad := o
		spoil(&bad)
		if _, err := repository.Init(bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What expires is renewed in time, what is admitted reaches members without a
// new directive, and nothing is signed when nothing is due.
func TestRefresh(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	if _, ok, err := f.Repo.Refresh(f.Now); ok || err != nil {
		t.Errorf("before anything was signed: %v, %v", ok, err)
	}
	r := f.Release("detector", "1.0.0")
	st := f.State()
	verify := func(pack []byte) trust.Trusted {
		t.Helper()
		got, after, err := trust.Verify(pack, st, f.Member(), f.Now)
		if err != nil {
			t.Fatal(err)
		}
		st = after
		return got
	}
	verify(f.Direct(r))
	signed := 0
	for range 14 * 24 { // two weeks, hour by hour
		f.Now = f.Now.Add(time.Hour)
		pub, ok, err := f.Repo.Refresh(f.Now)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			continue
		}
		signed++
		if err := f.Bucket.Put(pub.Writes...); err != nil {
			t.Fatal(err)
		}
		if got := verify(pub.Packs[fleet.DefaultGroup]); got.Freshness != trust.Fresh || got.Directive.Sequence != 1 {
			t.Fatalf("%s: %s, sequence %d", f.Now, got.Freshness, got.Directive.Sequence)
		}
	}
	if signed < 14 || signed > 48 {
		t.Errorf("signed %d times in two weeks", signed)
	}
	f.Release("detector", "2.0.0") // admitted, not yet in a snapshot
	pub, ok, err := f.Repo.Refresh(f.Now)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if got := verify(pub.Packs[fleet.DefaultGroup]); got.Versions["pub-vision"] != 2 {
		t.Errorf("versions %v", got.Versions)
	}
}

// The coordinator says at once when it holds the wrong key, and changes nothing.
func TestSigningWithTheWrongKeyChangesNothing(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	r := f.Release("detector", "1.0.0")
	f.Direct(r)
	before := f.Repo.Versions()
	wrong := func(o repository.Options) error {
		o.Root = f.Genesis.Root
		repo, err := repository.Open(t.Context(), f.Bucket.Get, o)
		if err != nil {
			t.Fatal(err)
		}
		_, err = repo.Sign(fleet.Directive{Group: fleet.DefaultGroup, Sequence: 9, Issued: f.Now}, f.Now)
		for role, v := range before {
			if repo.Versions()[role] != v {
				t.Errorf("role %s moved to version %d", role, repo.Versions()[role])
			}
		}
		return err
	}
	rule(t, wrong(repository.Options{Coordinator: trusttest.Key(t), Timestamp: f.Timestamp}), trust.RulePolicy)
	rule(t, wrong(repository.Options{Coordinator: f.Coordinator}), trust.RuleTimestamp)
	kind(t, wrong(repository.Options{}), fault.Invalid)
	bad := fleet.Directive{Group: fleet.DefaultGroup, Sequence: 9, Issued: f.Now, Models: []fleet.Placement{{Model: "detector"}}}
	_, err := f.Repo.Sign(bad, f.Now)
	kind(t, err, fault.Invalid)
	// A directive that names what nobody lists is signed, and says so.
	r.Version = "9.9.9"
	pub, err := f.Repo.Sign(fleet.Directive{Group: fleet.DefaultGroup, Sequence: 9, Issued: f.Now, Models: []fleet.Placement{{Model: "detector", Stable: &r}}}, f.Now)
	if err != nil || len(pub.Refused) != 1 {
		t.Errorf("refused %v, %v", pub.Refused, err)
	}
}

// Policies are taken up while running, also between an admission and its
// publication; a team whose keys were replaced publishes anew.
func TestReloadTakesUpPolicies(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	r := f.Release("detector", "1.0.0")
	f.Direct(r)
	f.Release("detector", "2.0.0") // admitted, not published
	if changed, err := f.Repo.Reload(t.Context()); changed || err != nil {
		t.Errorf("nothing new: %v, %v", changed, err)
	}
	if es, err := f.Repo.Releases(); err != nil || len(es) != 2 {
		t.Errorf("the admission was lost: %v, %v", es, err)
	}
	policy, err := f.Bucket.Get(t.Context(), "tuf/1.targets.json")
	if err != nil {
		t.Fatal(err)
	}
	heir := trusttest.Key(t)
	writes, err := repository.NextPolicy(policy, repository.PolicyChange{Teams: []repository.Team{{Name: trusttest.Team, Keys: trusttest.Keys(heir)}}}, f.Now, repository.Lifetimes{}, f.Root)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Bucket.Put(writes...); err != nil {
		t.Fatal(err)
	}
	if changed, err := f.Repo.Reload(t.Context()); !changed || err != nil {
		t.Fatal(changed, err)
	}
	if keys, err := f.Repo.Keys(trusttest.Team); err != nil || len(keys) != 1 || !keys[0].Equal(heir.ECDSA()) {
		t.Errorf("keys %v, %v", keys, err)
	}
	if es, err := f.Repo.Releases(); err != nil || len(es) != 0 {
		t.Errorf("releases of the replaced key: %v, %v", es, err)
	}
	f.Publisher = heir
	if r = f.Release("detector", "1.0.0"); r.Counter != 2 {
		t.Errorf("counter %d, want one above what the replaced key listed", r.Counter)
	}
	got, _, err := trust.Verify(f.Direct(r), f.State(), f.Member(), f.Now)
	if err != nil || len(got.Refused) > 0 || got.Versions["pub-vision"] != 3 {
		t.Errorf("%v, refused %v, %v", got.Versions, got.Refused, err)
	}
	// A policy that root's keys did not sign is passed over.
	forged, err := repository.NextPolicy(writes[len(writes)-1].Body, repository.PolicyChange{Remove: []fleet.Team{trusttest.Team}}, f.Now, repository.Lifetimes{}, heir)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Bucket.Put(forged...); err != nil {
		t.Fatal(err)
	}
	if changed, err := f.Repo.Reload(t.Context()); changed || err != nil {
		t.Errorf("a forged policy: %v, %v", changed, err)
	}
}

// Trouble with the bucket keeps its kind and names the object.
func TestBucketTroubleKeepsItsKind(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	f.Direct(f.Release("detector", "1.0.0"))
	for _, key := range []string{"tuf/timestamp.json", "tuf/1.snapshot.json", "tuf/1.fleet.json", "tuf/1.pub-vision.json", "tuf/1.targets.json", "tuf/2.root.json"} {
		get := func(ctx context.Context, k string) ([]byte, error) {
			if k == key {
				return nil, fault.New(fault.Transient, "get", k, errors.New("connection reset"))
			}
			return f.Bucket.Get(ctx, k)
		}
		_, err := repository.Open(t.Context(), get, repository.Options{Root: f.Genesis.Root})
		kind(t, err, fault.Transient)
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%v does not name %s", err, key)
		}
	}
	for _, key := range []string{"tuf/timestamp.json", "tuf/1.snapshot.json", "tuf/1.fleet.json", "tuf/1.pub-vision.json", "tuf/1.targets.json"} {
		b := f.Bucket.Copy()
		b.Overwrite(key, []byte(`{"signed":{"_type":"root"}}`))
		_, err := repository.Open(t.Context(), b.Get, repository.Options{Root: f.Genesis.Root})
		kind(t, err, fault.Untrusted)
	}
	empty := f.Bucket.Copy()
	empty.Overwrite("tuf/1.targets.json", nil)
	empty.Overwrite("tuf/timestamp.json", nil)
	_, err := repository.Open(t.Context(), empty.Get, repository.Options{Root: f.Genesis.Root})
	kind(t, err, fault.NotFound)
	if !strings.Contains(fault.Hint(err), "modelfleet init") {
		t.Errorf("%v: next move %q", err, fault.Hint(err))
	}
}
