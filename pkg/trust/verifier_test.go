package trust_test

import (
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

// TestAWarmVerifierDecidesAsAColdOne shows members packs of a fleet's life in any
// order, mixtures of them and damaged ones, at any time: what one verifier says of
// all of them in turn, a new one says of each. And what is believed, go-tuf's own
// client would believe.
func TestAWarmVerifierDecidesAsAColdOne(t *testing.T) {
	t.Parallel()
	f, life := life(t)
	begin := f.State()
	believed, refused := 0, map[trust.Rule]int{}
	rapid.Check(t, func(t *rapid.T) {
		var warm trust.Verifier
		st := begin
		for range rapid.IntRange(2, 5).Draw(t, "packs") {
			pack := drawPack(t, life)
			facts := f.Member()
			facts.Agent = rapid.SampledFrom([]string{"1.0.0", "0.1.0"}).Draw(t, "agent")
			now := trusttest.Start().Add(rapid.SampledFrom([]time.Duration{0, time.Hour, 20 * time.Hour, 26 * time.Hour, 400 * 24 * time.Hour}).Draw(t, "later"))
			want, wantState, wantErr := trust.Verify(pack, st, facts, now)
			got, gotState, err := warm.Verify(pack, st, facts, now)
			if fmt.Sprint(err) != fmt.Sprint(wantErr) || trust.RuleOf(err) != trust.RuleOf(wantErr) {
				t.Fatalf("warm: %v\ncold: %v", err, wantErr)
			}
			if diff := cmp.Diff(plain(want), plain(got), cmpopts.EquateErrors(), cmpopts.EquateComparable(trust.Rule(""))); diff != "" {
				t.Fatalf("a warm verifier believes (-cold +warm):\n%s", diff)
			}
			if diff := cmp.Diff(wantState, gotState); diff != "" {
				t.Fatalf("a warm verifier remembers (-cold +warm):\n%s", diff)
			}
			if err != nil {
				refused[trust.RuleOf(err)]++
				continue
			}
			believed++
			if err := client(pack, st, got); err != nil {
				t.Fatalf("go-tuf's client refuses what was believed: %v", err)
			}
			st = gotState
		}
	})
	if believed == 0 || len(refused) < 5 {
		t.Errorf("the packs are too much alike: %d believed, refused %v", believed, refused)
	}
	t.Logf("believed %d packs, refused %v", believed, refused)
}

// plain is what was believed in a form that compares: errors by their words.
func plain(t trust.Trusted) any {
	var why []string
	for i, r := range t.Refused {
		why = append(why, fmt.Sprint(r.Err, trust.RuleOf(r.Err)))
		t.Refused[i].Err = nil
	}
	keys := fingerprints(t.FleetKeys)
	entries := map[string]trust.Entry{}
	for _, path := range slices.Sorted(maps.Keys(t.Releases)) {
		keys = append(keys, fingerprints(t.Releases[path].Keys)...)
		entries[path] = t.Releases[path].Entry
	}
	t.FleetKeys, t.Releases = nil, nil
	return []any{t, why, keys, entries}
}

func fingerprints(keys []*ecdsa.PublicKey) (out []string) {
	for _, k := range keys {
		raw, err := k.Bytes()
		out = append(out, fmt.Sprint(fleet.DigestOf(raw), err))
	}
	return out
}

// life is packs as they follow each other in a fleet's life: timestamps alone, new
// directives, new releases, another publisher's key, other online keys; and what
// thieves of keys would make of them.
func life(t *testing.T) (*trusttest.Fleet, []trust.Pack) {
	t.Helper()
	f := trusttest.NewAudited(t)
	first := f.Release("detector", "1.0.0")
	packs := [][]byte{f.Direct(first)}
	f.Now = f.Now.Add(time.Hour)
	packs = append(packs, stampedAnew(t, f, packs[0]), f.Direct(first), f.Direct(f.Release("detector", "1.1.0")))
	for _, steal := range []func(*forge){
		func(g *forge) { g.fleetKey = f.Publisher }, func(g *forge) { g.teamKey = f.Coordinator }, func(g *forge) { g.timestampKey = f.Publisher },
		func(g *forge) { g.edit(func(d *fleet.Directive) { d.Models[0].Stable.Version = "6.6.6" }) },
		func(g *forge) { g.team.Signed.Expires = f.Now.Add(2 * time.Hour) },
		func(g *forge) { g.policy.Signed.Delegations.Roles[0].Threshold = 2 },
	} {
		g := newForge(t, f, packs[len(packs)-1])
		steal(g)
		packs = append(packs, g.seal())
	}
	packs = append(packs, rekeyed(t, f, packs[3]))

	newKey, newTime := trusttest.Key(t), trusttest.Key(t)
	root, _, err := repository.NextRoot(f.Genesis.Root, repository.RootChange{Snapshot: trusttest.Keys(newKey), Timestamp: trusttest.Keys(newTime)}, f.Now, repository.Lifetimes{}, f.Root)
	if err != nil {
		t.Fatal(err)
	}
	policy, err := repository.NextPolicy(newForge(t, f, packs[0]).pack.Policy, repository.PolicyChange{Coordinator: newKey.Public()}, f.Now, repository.Lifetimes{}, f.Root)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Bucket.Put(append(policy, repository.Write{Key: "tuf/2.root.json", Body: root})...); err != nil {
		t.Fatal(err)
	}
	f.Coordinator, f.Timestamp = newKey, newTime
	f.Repo = f.Open(f.Genesis.Root)
	packs = append(packs, f.Direct(first))
	var out []trust.Pack
	for _, raw := range packs {
		p, err := trust.DecodePack(raw)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return f, out
}

// stampedAnew is the pack with a new timestamp and nothing else changed.
func stampedAnew(t testing.TB, f *trusttest.Fleet, pack []byte) []byte {
	g := newForge(t, f, pack)
	g.pack.Timestamp = resign(t, g.timestamp, f.Timestamp)
	return encode(t, g.pack)
}

// rekeyed is the pack under a policy that gives the publisher another key; its role
// is still the one that the old key signed.
func rekeyed(t testing.TB, f *trusttest.Fleet, pack []byte) []byte {
	t.Helper()
	g := newForge(t, f, pack)
	key, err := metadata.KeyFromPublicKey(trusttest.Key(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	id, err := key.ID()
	if err != nil {
		t.Fatal(err)
	}
	d := g.policy.Signed.Delegations
	d.Keys[id] = key
	d.Roles = slices.Clone(d.Roles)
	for i := range d.Roles {
		if d.Roles[i].Name == teamRole {
			d.Roles[i].KeyIDs = []string{id}
		}
	}
	g.policy.Signed.Version++
	g.team = nil // as it is
	return g.seal()
}

// drawPack is a pack of the life, one of whose parts may come from another, or be
// damaged.
func drawPack(t *rapid.T, life []trust.Pack) []byte {
	pick := rapid.IntRange(0, len(life)-1)
	p := life[pick.Draw(t, "pack")]
	other := life[pick.Draw(t, "other")]
	switch part := rapid.IntRange(0, 30).Draw(t, "part"); part {
	case 0:
		p.Roots = other.Roots
	case 1:
		p.Timestamp = other.Timestamp
	case 2:
		p.Snapshot = other.Snapshot
	case 3:
		p.Policy = other.Policy
	case 4:
		p.Fleet = other.Fleet
	case 5:
		p.Publishers = other.Publishers
	case 6:
		p.Directive = other.Directive
	case 7:
		p.Audit = other.Audit
	case 8:
		p.Publishers = nil
	case 9, 10, 11, 12, 13:
		raw := []*json.RawMessage{&p.Timestamp, &p.Snapshot, &p.Policy, &p.Fleet, &p.Directive}[part-9]
		*raw = json.RawMessage(strings.Replace(string(*raw), "1", "2", rapid.IntRange(1, 3).Draw(t, "digits")))
	}
	body, err := p.Encode()
	if err != nil {
		t.Skip("not JSON any more")
	}
	return body
}

// client has go-tuf's own client judge what was believed.
func client(pack []byte, st trust.State, believed trust.Trusted) error {
	p, err := trust.DecodePack(pack)
	if err != nil {
		return err
	}
	tm, err := trustedmetadata.New(st.Root)
	if err != nil {
		return err
	}
	tm.RefTime = believed.At
	if believed.Freshness == trust.Stale {
		tm.RefTime = believed.Expires.Add(-time.Second)
	}
	begun := tm.Root.Signed
	for _, raw := range p.Roots[min(len(p.Roots), int(begun.Version)):] {
		if _, err := tm.UpdateRoot(raw); err != nil {
			return err
		}
	}
	same := cmp.Equal(begun.Roles[metadata.TIMESTAMP].KeyIDs, tm.Root.Signed.Roles[metadata.TIMESTAMP].KeyIDs)
	if same && len(st.Timestamp) > 0 {
		if _, err := tm.UpdateTimestamp(st.Timestamp); err != nil && !errors.Is(err, &metadata.ErrExpiredMetadata{}) {
			return err
		}
	}
	if _, err := tm.UpdateTimestamp(p.Timestamp); err != nil && !errors.Is(err, &metadata.ErrEqualVersionNumber{}) {
		return err
	}
	if same && len(st.Snapshot) > 0 {
		if _, err := tm.UpdateSnapshot(st.Snapshot, true); err != nil && tm.Snapshot == nil {
			return err
		}
	}
	if _, err := tm.UpdateSnapshot(p.Snapshot, false); err != nil {
		return err
	}
	if _, err := tm.UpdateTargets(p.Policy); err != nil {
		return err
	}
	if _, err := tm.UpdateDelegatedTargets(p.Fleet, trust.RoleFleet, metadata.TARGETS); err != nil {
		return err
	}
	for team := range believed.Teams {
		if _, err := tm.UpdateDelegatedTargets(p.Publishers[trust.RoleOf(team)], trust.RoleOf(team), metadata.TARGETS); err != nil {
			return err
		}
	}
	return nil
}

// What was found to be signed by one key is not taken for signed by another, nor
// for signed by two.
func TestAMemoryIsOfTheKeysToo(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	pack := f.Direct(f.Release("detector", "1.0.0"))
	g := newForge(t, f, pack)
	g.policy.Signed.Delegations.Roles[0].Threshold = 2
	g.policy.Signed.Version++
	g.team = nil
	if g.policy.Signed.Delegations.Roles[0].Name != teamRole {
		t.Fatalf("the first role is %s", g.policy.Signed.Delegations.Roles[0].Name)
	}
	root, _, err := repository.NextRoot(f.Genesis.Root, repository.RootChange{Timestamp: trusttest.Keys(trusttest.Key(t))}, f.Now, repository.Lifetimes{}, f.Root)
	if err != nil {
		t.Fatal(err)
	}
	stamp := newForge(t, f, pack).pack
	stamp.Roots = append(stamp.Roots, root)
	for name, c := range map[string]struct {
		pack []byte
		rule trust.Rule
	}{
		"another publisher's key": {rekeyed(t, f, pack), trust.RulePublisher},
		"two signatures":          {g.seal(), trust.RulePublisher},
		"another timestamp key":   {encode(t, stamp), trust.RuleTimestamp},
	} {
		var v trust.Verifier
		_, st, err := v.Verify(pack, f.State(), f.Member(), f.Now)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := v.Verify(c.pack, st, f.Member(), f.Now); trust.RuleOf(err) != c.rule {
			t.Errorf("%s: %v, want a refusal by rule %s", name, err, c.rule)
		}
		if _, _, err := v.Verify(pack, st, f.Member(), f.Now); err != nil {
			t.Errorf("after it: %v", err)
		}
	}
}

// One verifier serves several goroutines, which know different packs.
func TestAVerifierMayBeShared(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	pack := f.Direct(f.Release("detector", "1.0.0"))
	packs, st := [][]byte{pack, stampedAnew(t, f, pack), pack[:len(pack)/2]}, f.State()
	var v trust.Verifier
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			for range 5 {
				got, _, err := v.Verify(packs[i%3], st, f.Member(), f.Now)
				if i%3 == 2 && trust.RuleOf(err) != trust.RuleFormat || i%3 < 2 && (err != nil || len(got.Teams[trusttest.Team].Entries) != 1) {
					t.Errorf("pack %d: %v, %v", i%3, got.Teams, err)
				}
			}
		})
	}
	all.Wait()
}

// Of a pack that differs by its timestamp, little more than the timestamp is read;
// a pack that is refused makes a verifier forget nothing.
func TestAWarmVerifierReadsWhatChanged(t *testing.T) {
	f := trusttest.New(t, nil)
	var adds []repository.Addition
	for i := range 20 {
		adds = append(adds, f.Addition(fleet.ModelName(fmt.Sprintf("model%02d", i)), "1.0.0"))
	}
	pack := f.Direct(f.Publish(repository.Change{Add: adds}).Added[0].Release)
	stamped, junk, st := stampedAnew(t, f, pack), pack[:len(pack)/2], f.State()
	cost := func(v func() *trust.Verifier) float64 {
		return testing.AllocsPerRun(5, func() {
			x := v()
			if _, _, err := x.Verify(junk, st, f.Member(), f.Now); err == nil {
				t.Fatal("half a pack was believed")
			}
			if _, _, err := x.Verify(stamped, st, f.Member(), f.Now); err != nil {
				t.Fatal(err)
			}
		})
	}
	var known trust.Verifier
	if _, _, err := known.Verify(pack, st, f.Member(), f.Now); err != nil {
		t.Fatal(err)
	}
	cold := cost(func() *trust.Verifier { return new(trust.Verifier) })
	if warm := cost(func() *trust.Verifier { return &known }); warm > cold/4 {
		t.Errorf("warm %.0f allocations, cold %.0f", warm, cold)
	}
}
