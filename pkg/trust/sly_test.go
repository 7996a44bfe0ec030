package trust_test

import (
	"crypto"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

// moreRoots gives a pack the roots that follow the fleet's first one, each as edit
// makes it of the one before.
func moreRoots(t testing.TB, f *trusttest.Fleet, p *trust.Pack, edits ...func(*metadata.RootType)) {
	t.Helper()
	for _, edit := range edits {
		m := load[metadata.RootType](t, p.Roots[len(p.Roots)-1])
		m.Signed.Version++
		edit(&m.Signed)
		p.Roots = append(slices.Clone(p.Roots), resign(t, m, f.Root))
	}
}

// tufKey is a public key as metadata holds it, and its id.
func tufKey(t testing.TB, k crypto.PublicKey) (string, *metadata.Key) {
	t.Helper()
	key, err := metadata.KeyFromPublicKey(k)
	if err != nil {
		t.Fatal(err)
	}
	id, err := key.ID()
	if err != nil {
		t.Fatal(err)
	}
	return id, key
}

// A thief of the timestamp's keys ran ahead. However root takes them out, members
// forget what he made them remember, and none is stuck.
func TestAnyChangeOfTheOnlineKeysBeginsAnew(t *testing.T) {
	t.Parallel()
	second := trusttest.Key(t)
	f := trusttest.New(t, func(o *repository.InitOptions) { o.Timestamp = append(o.Timestamp, second.Public()) })
	honest := f.Direct(f.Release("detector", "1.0.0"))
	ahead := newForge(t, f, honest)
	ahead.timestamp.Signed.Version = 1 << 50
	_, robbed := accept(t, f, f.State(), ahead.seal())

	fresh := trusttest.Key(t)
	oldID, _ := tufKey(t, f.Timestamp.Public())
	both := *load[metadata.RootType](t, f.Genesis.Root).Signed.Roles[metadata.TIMESTAMP]
	newID, newKey := tufKey(t, fresh.Public())
	give := func(r *metadata.RootType, id string, key *metadata.Key) {
		r.Keys[id] = key
		r.Roles[metadata.TIMESTAMP].KeyIDs = []string{id}
	}
	for name, c := range map[string]struct {
		edits []func(*metadata.RootType)
		sign  []signature.Signer
	}{
		"another key": {[]func(*metadata.RootType){func(r *metadata.RootType) { give(r, newID, newKey) }}, []signature.Signer{fresh}},
		"two signatures": {[]func(*metadata.RootType){func(r *metadata.RootType) { r.Roles[metadata.TIMESTAMP].Threshold = 2 }},
			[]signature.Signer{f.Timestamp, second}},
		"another key by the same id": {[]func(*metadata.RootType){func(r *metadata.RootType) { r.Keys[oldID] = newKey }}, nil},
		"another key, and back": {[]func(*metadata.RootType){
			func(r *metadata.RootType) { give(r, newID, newKey) },
			func(r *metadata.RootType) { *r.Roles[metadata.TIMESTAMP] = both },
		}, []signature.Signer{f.Timestamp}},
	} {
		g := newForge(t, f, honest)
		g.seal()
		g.timestamp.ClearSignatures()
		for _, s := range c.sign {
			if _, err := g.timestamp.Sign(s); err != nil {
				t.Fatal(err)
			}
		}
		if c.sign == nil { // under the id that it had
			if _, err := g.timestamp.Sign(fresh); err != nil {
				t.Fatal(err)
			}
			g.timestamp.Signatures[0].KeyID = oldID
		}
		raw, err := g.timestamp.ToBytes(false)
		if err != nil {
			t.Fatal(err)
		}
		g.pack.Timestamp = raw
		moreRoots(t, f, &g.pack, c.edits...)
		got, _, err := trust.Verify(encode(t, g.pack), robbed, f.Member(), f.Now)
		if err != nil || got.Versions[metadata.TIMESTAMP] != 2 {
			t.Errorf("%s: timestamp %d, %v", name, got.Versions[metadata.TIMESTAMP], err)
		}
	}
}

// White space is in nobody's signature: whoever carries a pack may change it. A
// member that is shown such a pack first, with a role left out, believes the
// coordinator's own when it comes, and calls nobody.
func TestWhiteSpaceSplitsNoView(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	honest := f.Direct(f.Release("detector", "1.0.0"))
	sly := newForge(t, f, honest).pack
	spaced := json.RawMessage(strings.Replace(string(sly.Timestamp), ":", ": ", 3))
	for name, ts := range map[string]json.RawMessage{
		"white space":            spaced,
		"a signature of nobody":  json.RawMessage(strings.Replace(string(sly.Timestamp), `"signatures":[`, `"signatures":[{"keyid":"ab","sig":"ab"},`, 1)),
		"another way to say UTC": json.RawMessage(strings.Replace(string(sly.Timestamp), `Z","meta"`, `+00:00","meta"`, 1)),
	} {
		if string(ts) == string(sly.Timestamp) {
			t.Fatalf("%s: nothing was changed in %s", name, ts)
		}
		sly.Timestamp, sly.Publishers = ts, nil
		got, st := accept(t, f, f.State(), encode(t, sly))
		if len(got.Refused) != 1 {
			t.Errorf("%s: refused %v, want what the missing publisher published", name, got.Refused)
		}
		got, again := accept(t, f, st, honest)
		if len(got.Refused) != 0 {
			t.Errorf("%s: the whole pack after it: refused %v", name, got.Refused)
		}
		if string(again.Timestamp) != string(st.Timestamp) {
			t.Errorf("%s: it is written down anew each time somebody carries another form of it", name)
		}
	}
}

// Whoever is in two teams has one key for both, and what a role is called is not in
// what is signed. Who holds the coordinator's keys passes one team's role off as the
// other's, in which nothing of the other is listed: that would take all of it back.
func TestARoleIsItsTeamsOnly(t *testing.T) {
	t.Parallel()
	var person crypto.PublicKey
	f := trusttest.New(t, func(o *repository.InitOptions) {
		person = o.Teams[0].Keys[0]
		o.Teams = append(o.Teams, repository.Team{Name: "audio", Keys: []crypto.PublicKey{person}})
	})
	r := f.Release("detector", "1.0.0")
	pack := f.Direct(r)
	_, st := accept(t, f, f.State(), pack)
	g := newForge(t, f, pack)
	theirs := *g.team.Signed.Targets[r.BundlePath("default")]
	r.Team, r.Model = "audio", "words"
	theirs.Path = r.BundlePath("default")
	g.team.Signed.Targets = map[string]*metadata.TargetFiles{theirs.Path: &theirs}
	g.team.Signed.Version++
	got, _ := accept(t, f, st, g.seal())
	if len(got.Refused) != 1 || trust.RuleOf(got.Refused[0].Err) != trust.RulePath || got.Refused[0].Revoked {
		t.Errorf("refused %+v, want the detector by rule path, and not taken back", got.Refused)
	}
}

// What is read in two ways is not read at all, by whoever reads it: else one reader
// would sign what others refuse.
func TestDecodeReadsOneWayOnly(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	role := string(newForge(t, f, f.Direct(f.Release("detector", "1.0.0"))).pack.Publishers[teamRole])
	if _, err := trust.Decode[metadata.TargetsType]([]byte(role)); err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string]string{
		"a key twice":          strings.Replace(role, `{`, `{"x":1,"x":2,`, 1),
		"a key twice but case": strings.Replace(role, `{`, `{"x":1,"X":2,`, 1),
		"deep":                 strings.Replace(role, `{`, `{"x":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+`,`, 1),
		"space before":         " " + role,
		"a line end":           role + "\n",
		"two values":           role + role,
		"no text":              strings.Replace(role, `{`, "{\"x\":\"\xff\",", 1),
	} {
		if _, err := trust.Decode[metadata.TargetsType]([]byte(raw)); err == nil {
			t.Errorf("%s: it is read", name)
		}
	}
}
