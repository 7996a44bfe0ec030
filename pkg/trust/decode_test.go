package trust_test

import (
	"bytes"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

// What go-tuf panics on is refused like any other junk, wherever it comes from.
func TestNullIsRefused(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		`{"signed":{"_type":"root","keys":{"a":null},"roles":{"root":{"keyids":["a"],"threshold":1}}},"signatures":[]}`,
		`{"signed":{"_type":"root","keys":{},"roles":{"root":null}},"signatures":[]}`,
	} {
		if _, err := trust.Decode[metadata.RootType]([]byte(in)); err == nil {
			t.Errorf("taken: %s", in)
		}
		if _, err := trust.NewState([]byte(in), fleet.DigestOf([]byte(in))); trust.RuleOf(err) != trust.RuleRoot {
			t.Errorf("%v for a pinned %s", err, in)
		}
	}
	for _, in := range []string{
		`{"signed":{"_type":"targets","targets":{"a":null}},"signatures":[]}`,
		`{"signed":{"_type":"targets","targets":{},"delegations":{"keys":{"a":null},"roles":[]}},"signatures":[]}`,
	} {
		if _, err := trust.Decode[metadata.TargetsType]([]byte(in)); err == nil {
			t.Errorf("taken: %s", in)
		}
	}
}

// Who holds the online keys alone can have any bytes stand for a role of others:
// nothing of that brings a member to panic.
func TestAStolenCoordinatorPanicsNobody(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	pack := f.Direct(f.Release("detector", "1.0.0"))
	junk := []byte(`{"signed":{"_type":"targets","targets":{"a":null}},"signatures":[]}`)
	for name, c := range map[string]struct {
		put  func(*trust.Pack)
		rule trust.Rule
	}{
		"targets.json":     {func(p *trust.Pack) { p.Policy = bytes.Clone(junk) }, trust.RulePolicy},
		"fleet.json":       {func(p *trust.Pack) { p.Fleet = bytes.Clone(junk) }, trust.RuleFleet},
		teamRole + ".json": {func(p *trust.Pack) { p.Publishers[teamRole] = bytes.Clone(junk) }, trust.RulePublisher},
	} {
		g := newForge(t, f, pack)
		c.put(&g.pack)
		g.snapshot.Signed.Meta[name].Hashes, g.snapshot.Signed.Meta[name].Length = nil, 0
		g.pack.Snapshot = resign(t, g.snapshot, f.Coordinator)
		g.timestamp.Signed.Meta["snapshot.json"] = &metadata.MetaFiles{Version: g.snapshot.Signed.Version}
		g.pack.Timestamp = resign(t, g.timestamp, f.Timestamp)
		wantRule(t, f, f.State(), encode(t, g.pack), c.rule)
	}
}
