package attack_test

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// A pack that was genuine once, on a stick. By the bucket it is
// TestBucketRewrittenPack, by a neighbour TestNeighbourAnnouncesWrongPacks.
func TestPackReplayedByFile(t *testing.T) {
	t.Parallel()
	f := newField(t, fieldOptions{})
	d := f.agent("cam-1")
	f.runs("detector@1.0.0", "one", d)
	old := f.pack()
	f.runs("detector@2.0.0", "two", d)
	d.offers(old)
	d.refuses("file", trust.RuleTimestamp)
	d.stillServes("detector@2.0.0", "two")
	f.untrusted(d, false)
	f.runs("detector@3.0.0", "three", d)
}

// untrusted waits until people see, or see no more, that a member was shown what
// it does not believe.
func (f *field) untrusted(d *device, is bool) {
	f.t.Helper()
	want := "fresh"
	if is {
		want = "untrusted"
	}
	f.sees(d.id, want, func(m api.MemberInfo) bool { return m.Freshness == want })
	d.until("it is "+want, func(l local.Listing) bool { return l.Freshness == want })
}

// Parts of packs that were genuine, in mixtures that never were. The thief has no
// key.
func TestPacksMixed(t *testing.T) {
	t.Parallel()
	f := newField(t, fieldOptions{})
	d := f.agent("cam-1")
	f.runs("detector@1.0.0", "one", d)
	a, err := trust.DecodePack(f.pack())
	sure(t, err)
	f.runs("detector@2.0.0", "two", d)
	b, err := trust.DecodePack(f.pack())
	sure(t, err)
	for _, c := range []struct {
		name string
		rule trust.Rule
		edit func(*trust.Pack)
	}{
		{"an old snapshot", trust.RuleSnapshot, func(p *trust.Pack) { p.Snapshot = a.Snapshot }},
		{"an old fleet role with its directive", trust.RuleFleet, func(p *trust.Pack) { p.Fleet, p.Directive = a.Fleet, a.Directive }},
		{"an old directive", trust.RuleDirective, func(p *trust.Pack) { p.Directive = a.Directive }},
		{"an old publisher role", trust.RulePublisher, func(p *trust.Pack) { p.Publishers = a.Publishers }},
		{"an old timestamp", trust.RuleTimestamp, func(p *trust.Pack) { p.Timestamp = a.Timestamp }},
		{"nothing of the policy's", trust.RuleFormat, func(p *trust.Pack) { p.Targets = nil }},
		{"no publisher", trust.RuleFormat, func(p *trust.Pack) { p.Publishers = nil }},
	} {
		d.offers(mix(t, encode(t, b), c.edit))
		d.refuses("file", c.rule)
		d.stillServes("detector@2.0.0", "two")
	}
	d.takes(f.pack())
	f.runs("detector@3.0.0", "three", d)
}

// Nothing new reaches the fleet any more: the coordinator, which renews the
// timestamp, is gone. Members notice, say so and hold what they have.
func TestFleetFrozen(t *testing.T) {
	t.Parallel()
	f := newField(t, fieldOptions{life: 6 * time.Second})
	d := f.agent("cam-1")
	f.runs("detector@1.0.0", "one", d)
	frozen := f.pack()
	ends(t, f.coord, syscall.SIGKILL)
	d.until("it is stale", func(l local.Listing) bool { return l.Freshness == "stale" })
	d.stillServes("detector@1.0.0", "one")
	ends(t, d.Program, syscall.SIGKILL) // nor does a start make what is frozen fresh
	f.restart(d.Program)
	d.until("it is stale after a start", func(l local.Listing) bool { return l.Freshness == "stale" })
	d.offers(frozen)
	d.stillServes("detector@1.0.0", "one")
	f.restart(f.coord)
	f.answers()
	f.sees("cam-1", "fresh", func(m api.MemberInfo) bool { return m.Freshness == "fresh" })
	f.runs("detector@2.0.0", "two", d)
}

// Everything that may be wrong with a payload, signed by the very keys that should
// sign it: each dies at the check meant for it.
func TestMalformedPayloadsSignedByTheRightKeys(t *testing.T) {
	t.Parallel()
	f := newField(t, fieldOptions{teams: []string{"vision", "audio"}})
	d := f.agent("cam-1")
	f.runs("detector@1.0.0", "one", d)
	base := f.pack()
	directive := func(edit func(*fleet.Directive)) func(*forge) { return func(g *forge) { g.edit(edit) } }
	text := func(old, new string) func(*forge) {
		return func(g *forge) {
			g.edit(func(*fleet.Directive) {})
			if !strings.Contains(string(g.directive), old) {
				t.Fatalf("%s is not in %s", old, g.directive)
			}
			g.directive = []byte(strings.Replace(string(g.directive), old, new, 1))
		}
	}
	policy := func(edit func(*metadata.TargetsType)) func(*forge) {
		return func(g *forge) {
			g.keys["targets"] = f.key("root")
			g.policy.Signed.Version++
			edit(&g.policy.Signed)
		}
	}
	team := func(edit func(*metadata.TargetsType)) func(*forge) {
		return func(g *forge) {
			g.keys[teamRole] = f.key("publisher-vision")
			g.teams[teamRole].Signed.Version++
			edit(&g.teams[teamRole].Signed)
		}
	}
	for _, c := range []struct {
		name string
		rule trust.Rule
		edit func(*forge)
	}{
		{"a directive of a newer schema", trust.RuleFormat, directive(func(d *fleet.Directive) { d.Schema = 99 })},
		{"a directive for another group", trust.RuleGroup, directive(func(d *fleet.Directive) { d.Group = "lab" })},
		{"a directive with an old number", trust.RuleSequence, directive(func(d *fleet.Directive) { d.Sequence = 1 })},
		{"another directive of the same number", trust.RuleSequence, directive(func(d *fleet.Directive) { d.Sequence-- })},
		{"a model twice", trust.RuleFormat, directive(func(d *fleet.Directive) { d.Models = append(d.Models, d.Models[0]) })},
		{"a path for a team", trust.RuleFormat, directive(func(d *fleet.Directive) { d.Models[0].Stable.Team = "../vision" })},
		{"a path for a variant", trust.RuleFormat, directive(func(d *fleet.Directive) { d.Models[0].Stable.Variants[0].Name = "a/b" })},
		{"another model's release", trust.RuleFormat, directive(func(d *fleet.Directive) { d.Models[0].Stable.Model = "other" })},
		{"a release without variants", trust.RuleFormat, directive(func(d *fleet.Directive) { d.Models[0].Stable.Variants = nil })},
		{"a key twice", trust.RuleFormat, text(`"group":`, `"group":"default","group":`)},
		{"a key in capitals", trust.RuleFormat, text(`"group":`, `"GROUP":`)},
		{"a key nobody knows", trust.RuleFormat, text(`"group":`, `"run":"rm","group":`)},
		{"a snapshot that goes back", trust.RuleSnapshot, func(g *forge) { g.fleet.Signed.Version-- }},
		{"a snapshot that lost a role", trust.RuleSnapshot, func(g *forge) {
			delete(g.teams, teamRole)
			delete(g.snapshot.Signed.Meta, teamRole+".json")
		}},
		{"a timestamp of the same number", trust.RuleTimestamp, func(g *forge) {
			g.timestamp.Signed.Version--
			g.snapshot.Signed.Version--
		}},
		{"an issue time that is none", trust.RuleFormat, func(g *forge) { g.timestamp.Signed.UnrecognizedFields[trust.FieldIssued] = "soon" }},
		{"a policy that delegates nothing", trust.RulePolicy, policy(func(m *metadata.TargetsType) { m.Delegations = nil })},
		{"a policy that delegates a role twice", trust.RulePolicy, policy(func(m *metadata.TargetsType) {
			m.Delegations.Roles = append(m.Delegations.Roles, m.Delegations.Roles[0])
		})},
		{"a policy that gives directives to two", trust.RulePath, policy(func(m *metadata.TargetsType) {
			for _, r := range m.Delegations.Roles {
				if r.Name == "fleet" {
					r.Name = "fleet2"
					m.Delegations.Roles = append(m.Delegations.Roles, r)
					return
				}
			}
		})},
		{"a list of the revoked that is none", trust.RuleFormat, func(g *forge) {
			policy(func(m *metadata.TargetsType) { g.list(m, trust.PathRevoked, []byte(`{"relaeses":[]}`)) })(g)
		}},
		{"a device CA that is none", trust.RuleFormat, func(g *forge) {
			policy(func(m *metadata.TargetsType) { g.list(m, trust.PathDeviceCA, []byte("certificate")) })(g)
		}},
		{"a publisher's floor that is no number", trust.RuleFormat, team(func(m *metadata.TargetsType) {
			m.UnrecognizedFields = map[string]any{trust.FieldFloor: map[string]any{"detector": "high"}}
		})},
		{"a publisher's facts that are none", trust.RuleFormat, team(func(m *metadata.TargetsType) {
			for _, target := range m.Targets {
				target.Custom = new(json.RawMessage(`{"root":"x"}`))
			}
		})},
	} {
		g := f.forge(base)
		c.edit(g)
		d.offers(g.seal())
		t.Log(c.name)
		d.refuses("file", c.rule)
		d.stillServes("detector@1.0.0", "one")
	}
	d.takes(f.forge(base).seal()) // the forge itself is sound
	f.untrusted(d, false)
	d.stillServes("detector@1.0.0", "one")
}

// list has the policy list a target.
func (g *forge) list(m *metadata.TargetsType, path string, body []byte) {
	sum := fleet.DigestOf(body)
	m.Targets[path] = &metadata.TargetFiles{Length: int64(len(body)), Hashes: metadata.Hashes{"sha256": sum[:]}, Path: path}
	g.pack.Targets[path] = body
}
