package trust_test

import (
	"encoding/json"
	"testing"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

// forge is a pack taken apart, changed by an attacker who holds some keys, and
// put together so that everything else fits: whatever is wrong with it dies at
// the check meant for it.
type forge struct {
	t         testing.TB
	f         *trusttest.Fleet
	pack      trust.Pack
	timestamp *metadata.Metadata[metadata.TimestampType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	policy    *metadata.Metadata[metadata.TargetsType]
	fleet     *metadata.Metadata[metadata.TargetsType]
	team      *metadata.Metadata[metadata.TargetsType]
	directive []byte
	// The keys that sign; the right ones unless a test takes others.
	timestampKey, snapshotKey, policyKey, fleetKey, teamKey signature.Signer
}

const teamRole = "pub-" + string(trusttest.Team)

func newForge(t testing.TB, f *trusttest.Fleet, pack []byte) *forge {
	t.Helper()
	p, err := trust.DecodePack(pack)
	if err != nil {
		t.Fatal(err)
	}
	g := &forge{
		t: t, f: f, pack: p, directive: p.Directive,
		timestamp: load[metadata.TimestampType](t, p.Timestamp), snapshot: load[metadata.SnapshotType](t, p.Snapshot),
		policy: load[metadata.TargetsType](t, p.Policy), fleet: load[metadata.TargetsType](t, p.Fleet),
		timestampKey: f.Timestamp, snapshotKey: f.Coordinator, policyKey: f.Root, fleetKey: f.Coordinator, teamKey: f.Publisher,
	}
	if raw, ok := p.Publishers[teamRole]; ok {
		g.team = load[metadata.TargetsType](t, raw)
	}
	g.timestamp.Signed.Version++
	g.snapshot.Signed.Version++
	return g
}

func load[T metadata.Roles](t testing.TB, raw []byte) *metadata.Metadata[T] {
	t.Helper()
	m, err := new(metadata.Metadata[T]).FromBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func resign[T metadata.Roles](t testing.TB, m *metadata.Metadata[T], s signature.Signer) json.RawMessage {
	t.Helper()
	m.Signatures = nil
	if _, err := m.Sign(s); err != nil {
		t.Fatal(err)
	}
	raw, err := m.ToBytes(false)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// edit changes the directive.
func (g *forge) edit(change func(*fleet.Directive)) {
	var d fleet.Directive
	if err := json.Unmarshal(g.directive, &d); err != nil {
		g.t.Fatal(err)
	}
	change(&d)
	raw, err := json.Marshal(d)
	if err != nil {
		g.t.Fatal(err)
	}
	g.directive = raw
}

// seal signs everything from the bottom up and packs it.
func (g *forge) seal() []byte {
	g.t.Helper()
	meta := func(name string, version int64, raw []byte) {
		sum := fleet.DigestOf(raw)
		g.snapshot.Signed.Meta[name] = &metadata.MetaFiles{Version: version, Length: int64(len(raw)), Hashes: metadata.Hashes{"sha256": sum[:]}}
	}
	sum := fleet.DigestOf(g.directive)
	g.pack.Directive = g.directive
	path := fleet.DefaultGroup.TargetPath()
	g.fleet.Signed.Targets[path] = &metadata.TargetFiles{Length: int64(len(g.directive)), Hashes: metadata.Hashes{"sha256": sum[:]}, Path: path}
	if g.team != nil {
		raw := resign(g.t, g.team, g.teamKey)
		g.pack.Publishers[teamRole] = raw
		meta(teamRole+".json", g.team.Signed.Version, raw)
	}
	g.pack.Policy = resign(g.t, g.policy, g.policyKey)
	meta("targets.json", g.policy.Signed.Version, g.pack.Policy)
	g.pack.Fleet = resign(g.t, g.fleet, g.fleetKey)
	meta("fleet.json", g.fleet.Signed.Version, g.pack.Fleet)
	g.pack.Snapshot = resign(g.t, g.snapshot, g.snapshotKey)
	snap := fleet.DigestOf(g.pack.Snapshot)
	g.timestamp.Signed.Meta["snapshot.json"] = &metadata.MetaFiles{Version: g.snapshot.Signed.Version, Length: int64(len(g.pack.Snapshot)), Hashes: metadata.Hashes{"sha256": snap[:]}}
	g.pack.Timestamp = resign(g.t, g.timestamp, g.timestampKey)
	return encode(g.t, g.pack)
}

func encode(t testing.TB, p trust.Pack) []byte {
	t.Helper()
	raw, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// wantRule checks that a pack is refused by one rule and that nothing of it
// stays in the state.
func wantRule(t *testing.T, f *trusttest.Fleet, st trust.State, pack []byte, want trust.Rule) {
	t.Helper()
	_, after, err := trust.Verify(pack, st, f.Member(), f.Now)
	if trust.RuleOf(err) != want || !fault.Is(err, fault.Untrusted) {
		t.Errorf("error %v (rule %q, kind %v), want untrusted by rule %q", err, trust.RuleOf(err), fault.KindOf(err), want)
	}
	if !after.Equal(st) {
		t.Error("a refused pack changed the state")
	}
	if fault.Hint(err) == "" {
		t.Errorf("%v ends without a next move", err)
	}
}

func accept(t *testing.T, f *trusttest.Fleet, st trust.State, pack []byte) (trust.Trusted, trust.State) {
	t.Helper()
	got, next, err := trust.Verify(pack, st, f.Member(), f.Now)
	if err != nil {
		t.Fatal(err)
	}
	return got, next
}
