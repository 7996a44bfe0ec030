package trust_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

func refusedBy(t *testing.T, got trust.Trusted, want trust.Rule) {
	t.Helper()
	if len(got.Refused) != 1 || trust.RuleOf(got.Refused[0].Err) != want {
		t.Errorf("refused %v, want one by rule %s", got.Refused, want)
	}
}

// What the publisher says about a release binds the member, whatever the
// coordinator says.
func TestPublishersConditionsHold(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	add := f.Addition("detector", "1.0.0")
	add.Entry.MinAgent, add.Entry.NotBefore = "1.2.0", f.Now.Add(time.Hour)
	add.Entry.Metrics = map[string]float64{"accuracy": 0.9312, "f1": 1e-7}
	add.Entry.Card, add.Entry.Baseline = fleet.DigestOf([]byte("card")), fleet.DigestOf([]byte("baseline"))
	r := f.Publish(repository.Change{Add: []repository.Addition{add}}).Added[0].Release
	pack := f.Direct(r)

	got, _ := accept(t, f, f.State(), pack)
	refusedBy(t, got, trust.RuleNotBefore)
	f.Now = f.Now.Add(2 * time.Hour)
	got, _ = accept(t, f, f.State(), pack)
	refusedBy(t, got, trust.RuleAgent)
	me := f.Member()
	for _, version := range []string{"1.2.0", "2.0.0", "devel"} {
		me.Agent = version
		got, _, err := trust.Verify(pack, f.State(), me, f.Now)
		if err != nil || len(got.Refused) > 0 {
			t.Fatalf("agent %s: refused %v, %v", version, got.Refused, err)
		}
		b := got.Releases[r.BundlePath(fleet.DefaultVariant)]
		want := add.Entry
		want.Release = r
		if diff := cmp.Diff(want, b.Entry); diff != "" {
			t.Errorf("the publisher's word changed on the way:\n%s", diff)
		}
		m, err := b.VerifyBundle(add.Bundles[fleet.DefaultVariant])
		if err != nil || fleet.Digest(m.Root) != r.Variants[0].Root {
			t.Errorf("bundle: %v", err)
		}
		forged, _ := trusttest.Bundle(t, "detector@1.0.0", trusttest.Key(t))
		if _, err := b.VerifyBundle(forged); trust.RuleOf(err) != trust.RuleBundle {
			t.Errorf("a bundle by another key: %v", err)
		}
	}
}

// Delisting revokes; floors stop rollbacks below them, and rise only.
func TestDelistingAndFloors(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	r1, r2 := f.Release("detector", "1.0.0"), f.Release("detector", "2.0.0")
	_, st := accept(t, f, f.State(), f.Direct(r2))
	got, st := accept(t, f, st, f.Direct(r1)) // a rollback is a newer directive
	if len(got.Refused) > 0 {
		t.Fatal(got.Refused)
	}
	f.Publish(repository.Change{Floors: map[fleet.ModelName]uint64{"detector": r2.Counter}})
	got, st = accept(t, f, st, f.Direct(r1))
	refusedBy(t, got, trust.RuleFloor)
	if st.Teams[trusttest.Team].Floors["detector"] != r2.Counter {
		t.Errorf("floors remembered: %v", st.Teams)
	}
	f.Publish(repository.Change{Delist: []string{"detector@2.0.0"}})
	got, _ = accept(t, f, st, f.Direct(r2))
	refusedBy(t, got, trust.RuleListed)
	if got.Refused[0].Model != "detector" || got.Refused[0].Release != "detector@2.0.0" {
		t.Errorf("refusal names %s %s", got.Refused[0].Model, got.Refused[0].Release)
	}
}

// A publisher role that ran out stops its releases, not the fleet.
func TestExpiredPublisherStopsOnlyItself(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	r := f.Release("detector", "1.0.0")
	g := newForge(t, f, f.Direct(r))
	g.team.Signed.Expires = f.Now.Add(-time.Minute)
	got, _ := accept(t, f, f.State(), g.seal())
	refusedBy(t, got, trust.RuleExpired)
	if got.Freshness != trust.Fresh {
		t.Error("the whole fleet went stale")
	}
}

// The policy carries the device CA and what is revoked.
func TestPolicyCarriesDeviceCAAndRevocations(t *testing.T) {
	t.Parallel()
	k := trusttest.Key(t)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "devices"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	f := trusttest.New(t, func(o *repository.InitOptions) { o.DeviceCA = ca })
	r := f.Release("detector", "1.0.0")
	got, st := accept(t, f, f.State(), f.Direct(r))
	if got.Fleet != "test" || len(got.DeviceCA) != 1 || got.DeviceCA[0].Subject.CommonName != "devices" {
		t.Errorf("fleet %q, %d device CAs", got.Fleet, len(got.DeviceCA))
	}
	p, err := trust.DecodePack(f.Direct(r))
	if err != nil {
		t.Fatal(err)
	}
	writes, err := repository.NextPolicy(p.Policy, repository.PolicyChange{Revoked: &trust.Revoked{
		Releases: []fleet.Digest{r.Variants[0].Root}, Members: []fleet.MemberID{"cam-9"},
	}}, f.Now, repository.Lifetimes{}, f.Root)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Bucket.Put(writes...); err != nil {
		t.Fatal(err)
	}
	if changed, err := f.Repo.Reload(t.Context()); err != nil || !changed {
		t.Fatal(changed, err)
	}
	got, _ = accept(t, f, st, f.Direct(r))
	refusedBy(t, got, trust.RuleRevoked)
	if len(got.Revoked.Members) != 1 || len(got.DeviceCA) != 1 {
		t.Errorf("revoked %v, %d device CAs", got.Revoked, len(got.DeviceCA))
	}
}

func TestStateSurvivesTheDisk(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	f.Publish(repository.Change{Add: []repository.Addition{f.Addition("detector", "1.0.0")}, Floors: map[fleet.ModelName]uint64{"detector": 1}})
	es, err := f.Repo.Releases()
	if err != nil {
		t.Fatal(err)
	}
	_, st := accept(t, f, f.State(), f.Direct(es[0].Release))
	raw, err := st.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := trust.DecodeState(raw)
	if err != nil || !back.Equal(st) {
		t.Errorf("read back: %v", err)
	}
	if back.Equal(f.State()) {
		t.Error("Equal does not see a difference")
	}
	for _, bad := range []string{"", "{}", `{"root":"AAAA"}`, strings.Replace(string(raw), `"root":"ey`, `"root":"ex`, 1)} {
		if _, err := trust.DecodeState([]byte(bad)); trust.RuleOf(err) != trust.RuleState {
			t.Errorf("a damaged state %.20q: %v", bad, err)
		}
	}
}

func token() trust.JoinToken {
	return trust.JoinToken{
		URL: "https://fleet.example:8443", ID: "k3f9", Secret: [16]byte{1, 2, 3}, Root: fleet.DigestOf([]byte("root")),
		TLS: fleet.DigestOf([]byte("key")), Group: fleet.DefaultGroup, Expires: trusttest.Start(),
	}
}

func TestJoinTokenIsOneWord(t *testing.T) {
	t.Parallel()
	want := token()
	text, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(text, trust.TokenPrefix) || strings.ContainsAny(text, " \n/+=") {
		t.Errorf("text %q", text)
	}
	got, err := trust.ParseJoinToken(" " + text + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(got.String(), got.SecretText()) || len(got.SecretText()) != 32 {
		t.Error("String gives the secret away, or the secret's text is wrong")
	}
	for i := range len(text) { // every lost or changed character is found
		for _, bad := range []string{text[:i], text[:i] + text[i+1:], text[:i] + "!" + text[i+1:]} {
			if _, err := trust.ParseJoinToken(bad); !fault.Is(err, fault.Invalid) || fault.Hint(err) == "" {
				t.Fatalf("%q: %v", bad, err)
			}
		}
	}
	for name, spoil := range map[string]func(*trust.JoinToken){
		"no URL":    func(t *trust.JoinToken) { t.URL = "fleet.example" },
		"no id":     func(t *trust.JoinToken) { t.ID = "" },
		"no root":   func(t *trust.JoinToken) { t.Root = fleet.Digest{} },
		"no secret": func(t *trust.JoinToken) { t.Secret = [16]byte{} },
		"no expiry": func(t *trust.JoinToken) { t.Expires = time.Time{} },
		"no group":  func(t *trust.JoinToken) { t.Group = "" },
	} {
		bad := token()
		spoil(&bad)
		if _, err := bad.Encode(); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzJoinToken(f *testing.F) {
	text, err := token().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add("mft1.")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := trust.ParseJoinToken(s)
		if err != nil {
			return
		}
		again, err := got.Encode()
		if err != nil || again != strings.TrimSpace(s) {
			t.Fatalf("%q is read but written as %q, %v", s, again, err)
		}
	})
}

func FuzzVerify(f *testing.F) {
	fl := trusttest.New(f, nil)
	pack := fl.Direct(fl.Release("detector", "1.0.0"))
	st := fl.State()
	f.Add(pack)
	f.Add(pack[:len(pack)/2])
	f.Fuzz(func(t *testing.T, data []byte) {
		got, next, err := trust.Verify(data, st, fl.Member(), fl.Now)
		if err != nil {
			if !fault.Is(err, fault.Untrusted) || trust.RuleOf(err) == "" || !next.Equal(st) {
				t.Fatalf("%v, rule %q", err, trust.RuleOf(err))
			}
			return
		}
		// Nothing can be believed but what was signed.
		if got.Directive.Sequence != 1 || got.Versions["timestamp"] != 1 {
			t.Fatalf("believed %+v", got)
		}
	})
}

// FuzzPack puts the fuzzer behind the compression, where JSON is read.
func FuzzPack(f *testing.F) {
	fl := trusttest.New(f, nil)
	p, err := trust.DecodePack(fl.Direct(fl.Release("detector", "1.0.0")))
	if err != nil {
		f.Fatal(err)
	}
	st := fl.State()
	f.Add([]byte(p.Timestamp), []byte(p.Snapshot), []byte(p.Policy), []byte(p.Fleet), []byte(p.Directive))
	f.Fuzz(func(t *testing.T, ts, sn, policy, role, directive []byte) {
		q := p
		q.Timestamp, q.Snapshot, q.Policy, q.Fleet, q.Directive = ts, sn, policy, role, directive
		raw, err := q.Encode()
		if err != nil {
			return
		}
		back, err := trust.DecodePack(raw)
		if err == nil && string(back.Directive) != string(directive) {
			t.Fatal("a part of the pack changed on the way")
		}
		if got, _, err := trust.Verify(raw, st, fl.Member(), fl.Now); err == nil && got.Directive.Sequence != 1 {
			t.Fatalf("believed %+v", got)
		}
	})
}

func FuzzDirective(f *testing.F) {
	fl := trusttest.New(f, nil)
	p, err := trust.DecodePack(fl.Direct(fl.Release("detector", "1.0.0"), fl.Release("scorer", "1.0.0")))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(p.Directive))
	f.Add([]byte(`{"schema":1,"group":"default","sequence":1,"issued":"2026-06-01T12:00:00Z","models":[]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := trust.ParseDirective(raw)
		if err != nil {
			if trust.RuleOf(err) == "" {
				t.Fatal(err)
			}
			return
		}
		for _, m := range d.Models { // nothing that is read gets out of its folder
			for _, r := range []*fleet.Release{m.Stable} {
				if r == nil {
					continue
				}
				for _, v := range r.Variants {
					if _, _, err := trust.ParseBundlePath(r.BundlePath(v.Name)); err != nil {
						t.Fatal(err)
					}
				}
			}
			m.Assign(fl.Member())
		}
	})
}

// A publisher's role is read once, of however many of its models a release is named.
func TestVerificationReadsEachRoleOnce(t *testing.T) {
	f := trusttest.New(t, nil)
	var adds []repository.Addition
	for i := range 20 {
		adds = append(adds, f.Addition(fleet.ModelName(fmt.Sprintf("model%02d", i)), "1.0.0"))
	}
	added := f.Publish(repository.Change{Add: adds}).Added
	cost := func(models int) float64 {
		d := fleet.Directive{Group: fleet.DefaultGroup, Issued: f.Now}
		for i := range models {
			d.Models = append(d.Models, fleet.Placement{Model: added[i].Release.Model, Stable: &added[i].Release})
		}
		pack := f.Sign(d)
		return testing.AllocsPerRun(5, func() {
			if _, _, err := trust.Verify(pack, f.State(), f.Member(), f.Now); err != nil {
				t.Fatal(err)
			}
		})
	}
	one, all := cost(1), cost(20)
	each := (all - one) / 19
	if each > one/20 {
		t.Errorf("the pack of one model costs %.0f allocations, each further model %.0f", one, each)
	}
}

func BenchmarkVerify(b *testing.B) { benchmarkVerify(b, trusttest.New(b, nil)) }

// With the proof out of an audit log of 20,000 entries.
func BenchmarkVerifyAudited(b *testing.B) {
	f := trusttest.NewAudited(b)
	f.Audit.Add(20_000, "t1")
	benchmarkVerify(b, f)
}

func benchmarkVerify(b *testing.B, f *trusttest.Fleet) {
	var adds []repository.Addition
	for _, v := range []fleet.Version{"1.0.0", "1.1.0", "2.0.0"} {
		adds = append(adds, f.Addition("detector", v))
	}
	added := f.Publish(repository.Change{Add: adds[:1]}).Added
	f.Publish(repository.Change{Add: adds[1:2]})
	added = append(added, f.Publish(repository.Change{Add: adds[2:]}).Added...)
	d := fleet.Directive{Group: fleet.DefaultGroup, Issued: f.Now, Models: []fleet.Placement{{
		Model: "detector", Stable: &added[0].Release,
		Rollout: &fleet.Exposure{ID: "r-1", Release: added[1].Release, Rules: []fleet.Rule{{Bound: 1 << 60}}, AsOf: f.Now, Soak: fleet.Duration(time.Hour)},
	}}}
	pack := f.Sign(d)
	_, st, err := trust.Verify(pack, f.State(), f.Member(), f.Now)
	if err != nil {
		b.Fatal(err)
	}
	pack = f.Sign(d) // the next one, so that the stored metadata is the base
	b.ReportMetric(float64(len(pack)), "pack-bytes")
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := trust.Verify(pack, st, f.Member(), f.Now); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(pack)), "pack-bytes")
}
