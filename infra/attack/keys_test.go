package attack_test

import (
	"crypto"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// reasons waits until the device tells why it does not run what it was told to.
func (d *device) reasons(m fleet.ModelName, rule trust.Rule) {
	d.f.t.Helper()
	text := "rule " + string(rule) + ":"
	d.until("the reason tells "+text, func(l local.Listing) bool { return strings.Contains(of(l, m).Reason, text) })
}

// The coordinator's keys, all of them, in a thief's hands: what they sign is
// believed as far as it goes, and runs nothing that the publishers do not list.
func TestCoordinatorKeyStolen(t *testing.T) {
	t.Parallel()
	f := newField(t, fieldOptions{teams: []string{"vision", "audio"}})
	d := f.agent("cam-1")
	f.publish("audio", "scorer@1.0.0", "ding")
	f.runs("detector@1.0.0", "one", d)
	f.runs("detector@2.0.0", "two", d)
	g := f.forge(f.pack()).edit(func(*fleet.Directive) {})
	d.offers(g.seal()) // without the audit log's key not even a directive is taken
	d.refuses("file", trust.RuleAudit)
	base, log := f.pack(), f.ledger(f.pack())
	digest := fleet.DigestOf([]byte("x"))
	for _, c := range []struct {
		name string
		rule trust.Rule
		edit func(*fleet.Release)
	}{
		{"a version nobody published", trust.RuleListed, func(r *fleet.Release) { r.Version = "6.6.6" }},
		{"a bundle of the thief's", trust.RuleListed, func(r *fleet.Release) { r.Variants[0].Bundle = digest }},
		{"a team that is not there", trust.RuleListed, func(r *fleet.Release) { r.Team = "evil" }},
		{"another team's", trust.RuleListed, func(r *fleet.Release) { r.Team = "audio" }},
		{"other files", trust.RuleFacts, func(r *fleet.Release) { r.Variants[0].Root = digest }},
		{"another size", trust.RuleFacts, func(r *fleet.Release) { r.Variants[0].Size++ }},
		{"a higher counter", trust.RuleFacts, func(r *fleet.Release) { r.Counter += 5 }},
		{"other hardware", trust.RuleFacts, func(r *fleet.Release) { r.Variants[0].Classes = []string{"gpu"} }},
	} {
		// As the rollout, so that its refusal leaves the rest of the directive.
		f.forges++
		g := f.forge(base).edit(func(dir *fleet.Directive) {
			evil := *dir.Models[0].Stable
			evil.Variants = append([]fleet.Variant{}, evil.Variants...)
			c.edit(&evil)
			dir.Sequence += uint64(f.forges)
			dir.Models[0].Rollout = &fleet.Exposure{ID: "r9-evil", Release: evil, Rules: []fleet.Rule{{Bound: fleet.Everyone}}, AsOf: time.Now().Add(time.Hour)}
		})
		for _, v := range []*int64{&g.timestamp.Signed.Version, &g.snapshot.Signed.Version, &g.fleet.Signed.Version} {
			*v += int64(f.forges)
		}
		g.ledger = log
		d.takes(g.seal())
		t.Log(c.name)
		d.reasons(model, c.rule)
		d.stillServes("detector@2.0.0", "two")
	}
	// The thief wrote a log of its own: the next thing that the coordinator signs
	// shows that there are two.
	f.publish("vision", "detector@3.0.0", "three")
	f.start("detector@3.0.0")
	d.refuses("coordinator", trust.RuleTimestamp)
	f.untrusted(d, true)
	d.stillServes("detector@2.0.0", "two")
}

// rotates replaces the coordinator's and the timestamp's keys, by the keepers of
// root and policy alone, straight into the bucket.
func (f *field) rotates() {
	f.t.Helper()
	next, clock := f.keeps("coordinator"), f.keeps("timestamp")
	old := f.newest(metadata.ROOT)
	keeper := f.key("root")
	keys := func(s *signer.Signer) []crypto.PublicKey { return []crypto.PublicKey{s.Public()} }
	root, whole, err := repository.NextRoot(old, repository.RootChange{Snapshot: keys(next), Timestamp: keys(clock)}, time.Now(), repository.Lifetimes{}, keeper)
	sure(f.t, err)
	if !whole {
		f.t.Fatal("the root needs more signatures")
	}
	writes, err := repository.NextPolicy(f.newest(metadata.TARGETS), repository.PolicyChange{Coordinator: next.Public()}, time.Now(), repository.Lifetimes{}, keeper)
	sure(f.t, err)
	m := load[metadata.RootType](f.t, root)
	f.puts(append(writes, repository.Write{Key: trust.MetadataKey(metadata.ROOT, m.Signed.Version), Body: root})...)
}

// newest is the newest version of a role in the bucket.
func (f *field) newest(role string) []byte {
	f.t.Helper()
	var newest []byte
	for v := int64(1); ; v++ {
		body, _, err := f.bucket.store.Get(f.t.Context(), trust.MetadataKey(role, v), "")
		if fault.Is(err, fault.NotFound) {
			return newest
		}
		sure(f.t, err)
		newest = body
	}
}

// A thief ran ahead with versions and the time, so that nothing of the real
// coordinator's is believed any more. The keepers of root replace the keys without
// the coordinator's help; members follow by any way a pack can take, and what the
// thief signs is worth nothing from then on.
func TestCoordinatorKeyStolenIsRotatedOut(t *testing.T) {
	t.Parallel()
	f := newField(t, fieldOptions{})
	d := f.agent("cam-1")
	f.runs("detector@1.0.0", "one", d)
	ends(t, f.coord, syscall.SIGKILL)
	g := f.forge(f.pack()).edit(func(dir *fleet.Directive) { dir.Sequence = 1 << 40 })
	g.ledger = f.ledger(f.pack())
	for _, v := range []*int64{&g.timestamp.Signed.Version, &g.snapshot.Signed.Version, &g.fleet.Signed.Version} {
		*v = 1 << 40
	}
	g.timestamp.Signed.UnrecognizedFields[trust.FieldIssued] = time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	d.takes(g.seal())

	// The keepers of root and policy need no coordinator for it.
	for _, role := range []string{"coordinator", "timestamp", "audit"} {
		f.run("key", "rotate", role, "--dir", "fleet", "--yes")
	}
	f.restart(f.coord)
	f.answers()
	d.until("the new keys are believed", func(l local.Listing) bool { return l.Directive < 1<<40 && l.Freshness == "fresh" })
	d.stillServes("detector@1.0.0", "one")
	d.offers(g.seal())
	d.refuses("file", trust.RuleTimestamp)
	f.runs("detector@2.0.0", "two", d)
}

// A thief of all the coordinator's keys shows one member a history of its own. Its
// neighbours compare, and prove that there are two.
func TestSplitView(t *testing.T) {
	t.Parallel()
	f, all := hall(t, "cam-1", "cam-2")
	f.runs("detector@1.0.0", "one", all...)
	base := f.pack()
	g := f.forge(base).edit(func(*fleet.Directive) {})
	g.ledger = f.ledger(base)
	all[0].takes(g.seal())
	f.publish("vision", "detector@2.0.0", "two")
	f.start("detector@2.0.0")
	f.logs("split view of the audit log")
	until(t, "people see the split", func() (bool, string) {
		out, _ := f.try("audit", "splits", "-o", "json")
		return strings.Contains(out, "cam-"), out
	})
	all[0].stillServes("detector@1.0.0", "one")
	ends(t, f.coord, syscall.SIGTERM)
	for _, role := range []string{"coordinator", "timestamp", "audit"} {
		f.run("key", "rotate", role, "--dir", "fleet", "--yes")
	}
	f.restart(f.coord)
	f.answers()
	f.runs("detector@3.0.0", "three", all...)
}

// The timestamp's key alone says that something is fresh, and no more: not even
// what.
func TestTimestampKeyStolen(t *testing.T) {
	t.Parallel()
	f := newField(t, fieldOptions{})
	d := f.agent("cam-1")
	f.runs("detector@1.0.0", "one", d)
	g := f.forge(f.pack()).edit(func(*fleet.Directive) {})
	g.keys["fleet"], g.keys["snapshot"] = ephemeral(t), ephemeral(t)
	d.offers(g.seal())
	d.refuses("file", trust.RuleSnapshot)
	d.stillServes("detector@1.0.0", "one")
	// What it can do: run ahead. Then the fleet is stopped until root takes it out.
	g = f.forge(f.pack())
	g.keys = map[string]signature.Signer{"timestamp": f.key("timestamp")}
	p := g.pack
	g.timestamp.Signed.Version = 1 << 40
	p.Timestamp = sign(g, "timestamp", g.timestamp)
	d.offers(encode(t, p))
	d.until("it believes the timestamp", func(local.Listing) bool { return d.believed() })
	f.publish("vision", "detector@2.0.0", "two")
	id := f.start("detector@2.0.0")
	d.refuses("coordinator", trust.RuleTimestamp)
	d.stillServes("detector@1.0.0", "one")
	f.rotates()
	ends(t, f.coord, syscall.SIGTERM)
	f.restart(f.coord)
	f.answers()
	f.settled(id)
	d.settles("detector@2.0.0")
	f.untrusted(d, false)
}
