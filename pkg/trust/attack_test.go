package trust_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

// Whoever holds the bucket, the network or a peer can hand out anything that
// was once signed, in any mixture. None of it is believed.
func TestReplaysAndMixturesAreRefused(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	r1 := f.Release("detector", "1.0.0")
	old := f.Direct(r1)
	r2 := f.Release("detector", "2.0.0")
	f.Now = f.Now.Add(time.Hour)
	newer := f.Direct(r2)
	_, st := accept(t, f, f.State(), newer)

	wantRule(t, f, st, old, trust.RuleTimestamp) // an old pack again

	a, b := newForge(t, f, old).pack, newForge(t, f, newer).pack
	mix := func(change func(*trust.Pack)) []byte { p := b; change(&p); return encode(t, p) }
	fresh := f.State()
	wantRule(t, f, fresh, mix(func(p *trust.Pack) { p.Snapshot = a.Snapshot }), trust.RuleSnapshot)
	wantRule(t, f, fresh, mix(func(p *trust.Pack) { p.Fleet, p.Directive = a.Fleet, a.Directive }), trust.RuleFleet)
	wantRule(t, f, fresh, mix(func(p *trust.Pack) { p.Directive = a.Directive }), trust.RuleDirective)
	wantRule(t, f, fresh, mix(func(p *trust.Pack) { p.Publishers = a.Publishers }), trust.RulePublisher)
	wantRule(t, f, fresh, mix(func(p *trust.Pack) { p.Targets = nil }), trust.RuleFormat)
	wantRule(t, f, fresh, mix(func(p *trust.Pack) { p.Targets = map[string][]byte{trust.PathRevoked: []byte(`{"releases":[]}`)} }), trust.RulePolicy)

	// The very same pack again changes nothing, however often it comes.
	_, again := accept(t, f, st, newer)
	if !again.Equal(st) {
		t.Error("the same pack again changed the state")
	}
}

// A signature by another key is refused at the role it pretends to be.
func TestOtherKeysAreRefusedByRole(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	pack := f.Direct(f.Release("detector", "1.0.0"))
	stranger := trusttest.Key(t)
	for _, c := range []struct {
		rule trust.Rule
		take func(*forge)
	}{
		{trust.RuleTimestamp, func(g *forge) { g.timestampKey = stranger }},
		{trust.RuleTimestamp, func(g *forge) { g.timestampKey = f.Coordinator }}, // a right key in a wrong role
		{trust.RuleSnapshot, func(g *forge) { g.snapshotKey = stranger }},
		{trust.RulePolicy, func(g *forge) { g.policyKey = f.Coordinator }},
		{trust.RuleFleet, func(g *forge) { g.fleetKey = f.Publisher }},
		{trust.RulePublisher, func(g *forge) { g.teamKey = f.Coordinator }},
	} {
		g := newForge(t, f, pack)
		c.take(g)
		wantRule(t, f, f.State(), g.seal(), c.rule)
	}
	accept(t, f, f.State(), newForge(t, f, pack).seal()) // the forge itself is sound
}

// The coordinator's keys alone cannot make a member run what no publisher
// listed: the placement is refused and the rest of the directive stands.
func TestStolenCoordinatorKeyRunsNothingOfItsOwn(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	first := f.Release("detector", "1.0.0")
	pack := f.Direct(first, f.Release("scorer", "1.0.0"))
	d := fleet.DigestOf([]byte("x"))
	for name, c := range map[string]struct {
		rule trust.Rule
		edit func(*fleet.Release)
	}{
		"a bundle of its own":      {trust.RuleListed, func(r *fleet.Release) { r.Variants[0].Bundle = d }},
		"a version of its own":     {trust.RuleListed, func(r *fleet.Release) { r.Version = "6.6.6" }},
		"a team that is not there": {trust.RuleListed, func(r *fleet.Release) { r.Team = "evil" }},
		"another root digest":      {trust.RuleFacts, func(r *fleet.Release) { r.Variants[0].Root = d }},
		"another size":             {trust.RuleFacts, func(r *fleet.Release) { r.Variants[0].Size++ }},
		"another counter":          {trust.RuleFacts, func(r *fleet.Release) { r.Counter += 5 }},
		"other hardware":           {trust.RuleFacts, func(r *fleet.Release) { r.Variants[0].Classes = []string{"gpu"} }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newForge(t, f, pack)
			g.edit(func(d *fleet.Directive) { d.Sequence++; c.edit(d.Models[0].Stable) })
			got, _ := accept(t, f, f.State(), g.seal())
			if len(got.Refused) != 1 || trust.RuleOf(got.Refused[0].Err) != c.rule || !got.Refused[0].Held {
				t.Fatalf("refused %v, want the detector held by rule %s", got.Refused, c.rule)
			}
			if len(got.Directive.Models) != 1 || got.Directive.Models[0].Model != "scorer" {
				t.Errorf("placements left: %v, want only the scorer", got.Directive.Models)
			}
		})
	}
	// As a rollout, the member keeps its stable release.
	g := newForge(t, f, pack)
	g.edit(func(d *fleet.Directive) {
		evil := first
		evil.Version = "6.6.6"
		d.Sequence++
		d.Models[0].Rollout = &fleet.Exposure{ID: "r-1", Release: evil, Rules: []fleet.Rule{{Bound: fleet.Everyone}}, AsOf: f.Now}
	})
	got, _ := accept(t, f, f.State(), g.seal())
	if len(got.Refused) != 1 || got.Refused[0].Held {
		t.Fatalf("refused %v", got.Refused)
	}
	if a := got.Directive.Models[0].Assign(f.Member()); a.Release == nil || a.Release.Version != "1.0.0" {
		t.Errorf("assigned %v, want the stable release", a.Release)
	}
}

// A publisher's key cannot speak for another team, even when the coordinator is
// in on it.
func TestPublisherCannotSpeakForAnotherTeam(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	r := f.Release("detector", "1.0.0")
	g := newForge(t, f, f.Direct(r))
	mine := g.team.Signed.Targets[r.BundlePath("default")]
	r.Team = "audio"
	theirs := *mine
	theirs.Path = r.BundlePath("default")
	g.team.Signed.Targets[theirs.Path] = &theirs
	g.team.Signed.Version++
	g.pack.Publishers["pub-audio"] = g.pack.Publishers[teamRole]
	g.snapshot.Signed.Meta["pub-audio.json"] = metadata.MetaFile(1)
	g.edit(func(d *fleet.Directive) { d.Sequence++; d.Models[0].Stable.Team = "audio" })
	got, _ := accept(t, f, f.State(), g.seal())
	if len(got.Refused) != 1 || trust.RuleOf(got.Refused[0].Err) != trust.RulePublisher || len(got.Directive.Models) != 0 {
		t.Errorf("refused %v, placements %v", got.Refused, got.Directive.Models)
	}
	// The policy delegating a team's paths twice is a broken policy.
	g = newForge(t, f, f.Direct(f.Release("detector", "1.1.0")))
	dup := g.policy.Signed.Delegations.Roles[0]
	dup.Name = "pub-shadow"
	g.policy.Signed.Delegations.Roles = append(g.policy.Signed.Delegations.Roles, dup)
	g.policy.Signed.Version++
	got, _ = accept(t, f, f.State(), g.seal())
	if len(got.Refused) != 1 || trust.RuleOf(got.Refused[0].Err) != trust.RulePath {
		t.Errorf("refused %v, want rule path", got.Refused)
	}
}

// Sequence numbers only grow, and one number means one directive.
func TestDirectivesOnlyMoveForward(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	r := f.Release("detector", "1.0.0")
	f.Direct(r)
	pack := f.Direct(r)
	_, st := accept(t, f, f.State(), pack)
	g := newForge(t, f, pack)
	g.edit(func(d *fleet.Directive) { d.Sequence = 1 })
	wantRule(t, f, st, g.seal(), trust.RuleSequence)
	g = newForge(t, f, pack)
	g.edit(func(d *fleet.Directive) { d.Issued = d.Issued.Add(time.Second) })
	wantRule(t, f, st, g.seal(), trust.RuleSequence)

	// Split view: two timestamps with one number.
	g = newForge(t, f, pack)
	g.timestamp.Signed.Version--
	g.snapshot.Signed.Version--
	wantRule(t, f, st, g.seal(), trust.RuleTimestamp)
	// A snapshot in which a role went back.
	g = newForge(t, f, pack)
	g.fleet.Signed.Version--
	wantRule(t, f, st, g.seal(), trust.RuleSnapshot)
	// A snapshot that lost a role.
	g = newForge(t, f, pack)
	g.team = nil
	delete(g.snapshot.Signed.Meta, teamRole+".json")
	wantRule(t, f, st, g.seal(), trust.RuleSnapshot)
}

// failed adds so many failed releases to the first model, each edited.
func failed(n int, edit func(*fleet.FailedRelease)) func(*fleet.Directive) {
	return func(d *fleet.Directive) {
		for i := range n {
			f := fleet.FailedRelease{
				Release: fmt.Sprintf("%s@9.%d.0", d.Models[0].Model, i), Rollout: "r1", Roots: []fleet.Digest{fleet.DigestOf([]byte{byte(i)})}, Reason: "errors",
			}
			if edit != nil {
				edit(&f)
			}
			d.Models[0].Failed = append(d.Models[0].Failed, f)
		}
	}
}

// A directive names what failed, at most so much, even of a model that has
// nothing left to run.
func TestADirectiveNamesWhatFailed(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	d := fleet.Directive{Group: fleet.DefaultGroup, Issued: f.Now, Models: []fleet.Placement{{Model: "detector"}}}
	failed(fleet.MaxFailed, nil)(&d)
	got, _, err := trust.Verify(f.Sign(d), f.State(), f.Member(), f.Now)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(d.Models, got.Directive.Models); diff != "" {
		t.Errorf("the member reads (-want +got):\n%s", diff)
	}
}

// Malformed directives, signed by the right keys.
func TestMalformedDirectivesAreRefused(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	r := f.Release("detector", "1.0.0")
	pack := f.Direct(r, f.Release("scorer", "1.0.0"))
	for name, c := range map[string]struct {
		rule trust.Rule
		edit func(*fleet.Directive)
	}{
		"another group":        {trust.RuleGroup, func(d *fleet.Directive) { d.Group = "lab" }},
		"a newer schema":       {trust.RuleFormat, func(d *fleet.Directive) { d.Schema = 2 }},
		"models out of order":  {trust.RuleFormat, func(d *fleet.Directive) { d.Models[0], d.Models[1] = d.Models[1], d.Models[0] }},
		"a model twice":        {trust.RuleFormat, func(d *fleet.Directive) { d.Models[1] = d.Models[0] }},
		"a path as name":       {trust.RuleFormat, func(d *fleet.Directive) { d.Models[0].Stable.Team = "../vision" }},
		"a path as variant":    {trust.RuleFormat, func(d *fleet.Directive) { d.Models[0].Stable.Variants[0].Name = "a/b" }},
		"no variants":          {trust.RuleFormat, func(d *fleet.Directive) { d.Models[0].Stable.Variants = nil }},
		"an empty placement":   {trust.RuleFormat, func(d *fleet.Directive) { d.Models[0].Stable = nil }},
		"another model's":      {trust.RuleFormat, func(d *fleet.Directive) { d.Models[0].Stable.Model = "other" }},
		"a rollout without id": {trust.RuleFormat, func(d *fleet.Directive) { d.Models[0].Rollout = &fleet.Exposure{Release: r} }},
		"too many failed":      {trust.RuleFormat, failed(fleet.MaxFailed+1, nil)},
		"failed for too long":  {trust.RuleFormat, failed(1, func(f *fleet.FailedRelease) { f.Reason = strings.Repeat("x", fleet.MaxFailedReason+1) })},
		"failed, no roots":     {trust.RuleFormat, failed(1, func(f *fleet.FailedRelease) { f.Roots = nil })},
		"failed, many roots": {trust.RuleFormat, failed(1, func(f *fleet.FailedRelease) {
			f.Roots = slices.Repeat(f.Roots, fleet.MaxFailedRoots+1)
		})},
		"failed, an empty root": {trust.RuleFormat, failed(1, func(f *fleet.FailedRelease) { f.Roots[0] = fleet.Digest{} })},
		"failed, no rollout":    {trust.RuleFormat, failed(1, func(f *fleet.FailedRelease) { f.Rollout = "" })},
		"another model failed":  {trust.RuleFormat, failed(1, func(f *fleet.FailedRelease) { f.Release = "other@1.0.0" })},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newForge(t, f, pack)
			g.edit(c.edit)
			wantRule(t, f, f.State(), g.seal(), c.rule)
		})
	}
	for name, replace := range map[string][2]string{
		"a key twice":             {`{"schema":1`, `{"schema":1,"schema":1`},
		"a key in another case":   {`{"schema":1`, `{"schema":1,"Schema":1`},
		"an unknown key":          {`{"schema":1`, `{"schema":1,"x":1`},
		"a negative sequence":     {`"sequence":1`, `"sequence":-1`},
		"not a digest":            {`"bundle":"`, `"bundle":"zz`},
		"something that follows ": {`]}`, `]} {}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newForge(t, f, pack)
			i := strings.LastIndex(string(g.directive), replace[0])
			if i < 0 {
				t.Fatalf("no %q in %s", replace[0], g.directive)
			}
			g.directive = []byte(string(g.directive[:i]) + replace[1] + string(g.directive[i+len(replace[0]):]))
			if !json.Valid(g.directive) { // cannot even be packed
				_, err := trust.ParseDirective(g.directive)
				if trust.RuleOf(err) != trust.RuleFormat {
					t.Error(err)
				}
				return
			}
			wantRule(t, f, f.State(), g.seal(), trust.RuleFormat)
		})
	}
}

// Damaged, truncated and oversized packs are found before anything is believed.
func TestDamagedPacksAreRefused(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	pack := f.Direct(f.Release("detector", "1.0.0"))
	st := f.State()
	wantRule(t, f, st, nil, trust.RuleFormat)
	for n := 1; n < len(pack); n += 97 {
		wantRule(t, f, st, pack[:n], trust.RuleFormat)
	}
	wantRule(t, f, st, make([]byte, trust.MaxPack+1), trust.RuleSize)
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	wantRule(t, f, st, enc.EncodeAll(make([]byte, trust.MaxPackPlain+1), nil), trust.RuleSize)
	var bomb bytes.Buffer // without a size in its header
	w, err := zstd.NewWriter(&bomb)
	if err != nil {
		t.Fatal(err)
	}
	for range 64 {
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	wantRule(t, f, st, bomb.Bytes(), trust.RuleSize)
	wantRule(t, f, st, enc.EncodeAll([]byte(`{"schema":1}`), nil), trust.RuleFormat)
	wantRule(t, f, st, enc.EncodeAll([]byte(`{"schema":2,"roots":[{}]}`), nil), trust.RuleFormat)
	wantRule(t, f, st, enc.EncodeAll([]byte(`{"schema":1,"schema":1}`), nil), trust.RuleFormat)
}

// Roots are followed one by one, each signed by the one before.
func TestRootsAreFollowedInOrder(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	pack := f.Direct(f.Release("detector", "1.0.0"))
	st := f.State()
	thief, heir := trusttest.Key(t), trusttest.Key(t)
	rotate := func(by ...signature.Signer) []byte {
		root, _, err := repository.NextRoot(f.Genesis.Root, repository.RootChange{Root: trusttest.Keys(heir)}, f.Now, repository.Lifetimes{}, by...)
		if err != nil {
			t.Fatal(err)
		}
		return root
	}
	with := func(roots ...[]byte) []byte {
		p := newForge(t, f, pack).pack
		for _, r := range roots {
			p.Roots = append(p.Roots, r)
		}
		return encode(t, p)
	}
	wantRule(t, f, st, with(rotate(heir)), trust.RuleRoot)   // not by the old keys
	wantRule(t, f, st, with(rotate(f.Root)), trust.RuleRoot) // not by its own
	wantRule(t, f, st, with(rotate(thief, heir)), trust.RuleRoot)
	good := rotate(f.Root, heir)
	third, ok, err := repository.NextRoot(good, repository.RootChange{}, f.Now, repository.Lifetimes{}, heir)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	wantRule(t, f, st, with(third), trust.RuleRoot) // the second is missing
	got, next := accept(t, f, st, with(good, third))
	if got.Versions["root"] != 3 || !bytes.Equal(next.Root, third) {
		t.Errorf("at root %d, want 3", got.Versions["root"])
	}
	// A member pinned to another fleet's root believes nothing of this one.
	other := trusttest.New(t, nil)
	wantRule(t, f, other.State(), pack, trust.RuleTimestamp)
	if _, err := trust.NewState(f.Genesis.Root, other.Genesis.Pin); trust.RuleOf(err) != trust.RulePin {
		t.Errorf("a root that is not the pinned one: %v", err)
	}
	if _, err := trust.StateFromPack(pack, other.Genesis.Pin); trust.RuleOf(err) != trust.RulePin {
		t.Errorf("a pack without the pinned root: %v", err)
	}
	if s, err := trust.StateFromPack(pack, f.Genesis.Pin); err != nil || !s.Equal(f.State()) {
		t.Errorf("a pack with the pinned root: %v", err)
	}
}
