package coordinator_test

import (
	"crypto"
	"crypto/rand"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// change signs the next version of the publisher's role and has it taken up.
func (w *world) change(c repository.Change) api.AdmitReply {
	w.t.Helper()
	w.sign(c)
	return must(w.admin.Admit(w.t.Context(), api.AdmitRequest{Team: team}))(w.t)
}

// sign puts the next version of the publisher's role into the bucket.
func (w *world) sign(c repository.Change) {
	w.t.Helper()
	repo := must(repository.Open(w.t.Context(), w.get, repository.Options{Root: w.root}))(w.t)
	draft := must(repo.Draft(w.t.Context(), team))(w.t)
	signed := must(draft.Next(c, time.Now(), w.publisher))(w.t)
	must(w.bucket.Create(w.t.Context(), signed.Write.Key, registry.BodyOf(signed.Write.Body)))(w.t)
}

// trusted is what the newest pack proves to a member.
func (d *device) trusted() trust.Trusted {
	d.w.t.Helper()
	r := must(d.client.Pack(d.w.t.Context(), d.facts.Group, "", 0))(d.w.t)
	t, st, err := trust.Verify(r.Pack, d.state, d.facts, time.Now())
	ok(d.w.t, err)
	d.state = st
	return t
}

// A stolen device is refused everywhere at the coordinator, and everyone hears of
// it with the next pack: by its name, and by the number of its cell's next key,
// which all of the cell but the thief are given.
func TestAStolenDeviceIsShutOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	ds := w.join(3)
	thief, other := ds[0], ds[1]
	before := must(other.client.Cell(t.Context()))(t)
	ok(t, w.admin.Revoke(t.Context(), thief.facts.ID, "stolen from the van"))
	var d fleet.Directive
	w.eventually("the pack names the thief", func() bool {
		d = other.trusted().Directive
		_, barred := d.Bars(thief.facts.ID)
		return barred
	})
	if _, barred := d.Bars(other.facts.ID); barred || d.CellKey(other.cell.ID) != 1 || other.trusted().Bars(thief.facts.ID, time.Time{}, time.Now()) == nil {
		t.Errorf("revoked members: %+v", d.Revoked)
	}
	after := must(other.client.Cell(t.Context()))(t)
	if after.Number != 1 || string(after.Key) == string(before.Key) || len(after.Old) != 1 || string(after.Old[0]) != string(before.Key) || after.UseIn <= 0 {
		t.Errorf("the others' cell: before %+v, after %+v", before, after)
	}
	reply := must(other.serve(nil))(t)
	if reply.CellKey != 1 {
		t.Errorf("rows are answered with cell key %d", reply.CellKey)
	}
	for name, call := range map[string]func() error{
		"cell key": func() error { _, err := thief.client.Cell(t.Context()); return err },
		"renewal": func() error {
			_, err := thief.client.Renew(t.Context(), api.RenewRequest{CSR: csr(t, thief.key), Generation: 1})
			return err
		},
		"rows": func() error { _, err := thief.serve(nil); return err },
		"objects": func() error {
			_, err := thief.client.Presign(t.Context(), []string{"packs/default.pack.zst"})
			return err
		},
		"comeback": func() error { return thief.comeBack() },
	} {
		if err := call(); !fault.Is(err, fault.Denied) {
			t.Errorf("%s: %v, want Denied", name, err)
		}
	}
	// A neighbour that carries its rows does not make them count.
	batch := must(other.codec.Encode(thief.messages(time.Now())))(t)
	carried := must(other.client.SendRows(t.Context(), other.cell.ID, batch, ""))(t)
	if carried.Accepted != 0 || len(carried.Refused) == 0 {
		t.Errorf("the thief's rows by a neighbour: %+v", carried)
	}
}

// comeBack asks for an identity by the key alone.
func (d *device) comeBack() error {
	c := must(api.NewClient(api.Options{URL: d.w.addr.URL, Pin: d.w.addr.Pin}))(d.w.t)
	defer c.Close()
	req := api.ComebackRequest{Member: d.facts.ID}
	r, err := c.Comeback(d.w.t.Context(), req)
	if err != nil {
		return err
	}
	req.Challenge, req.CSR, req.Generation, req.Certificate = r.Challenge, csr(d.w.t, d.key), 1, d.cert
	sum := req.Digest()
	req.Signature = must(d.key.Sign(rand.Reader, sum[:], crypto.SHA256))(d.w.t)
	_, err = c.Comeback(d.w.t.Context(), req)
	return err
}

// alarms collects the alarms of a coordinator.
func (w *world) alarms() func() string {
	var mu sync.Mutex
	var all strings.Builder
	w.listen(func(e api.Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Kind == "alarm" {
			all.WriteString(e.Subject + ": " + e.Text + "\n")
		}
	})
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return all.String()
	}
}

// The rollout of a release that its publisher takes back ends by itself, and says
// why; of a stable release a person is called; and it is shown who still runs it.
func TestADelistedReleaseEndsItsRollout(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	ds := w.join(4)
	alarms := w.alarms()
	spec := []byte(`{"stages":[{"name":"all","percent":100,"soak":"100ms"}],"memberSoak":"10ms","onInconclusive":"continue","stageDeadline":"300ms",
		"gates":[{"gate":"fatal","off":true},{"gate":"errors","off":true},{"gate":"breaker","off":true}]}`)
	slow := []byte(`{"stages":[{"name":"all","percent":100,"soak":"1h"}]}`)
	run := func(version string, spec []byte) fleet.RolloutID {
		t.Helper()
		w.admit(version)
		return must(w.admin.StartRollout(t.Context(), api.RolloutRequest{Model: model, Version: fleet.Version(version), Spec: spec}))(t).ID
	}
	state := func(id fleet.RolloutID) api.RolloutInfo { return must(w.admin.Rollout(t.Context(), id))(t) }
	first := run("1.0.0", spec)
	w.eventually("1.0.0 is stable", func() bool { beat(t, ds, nil); return state(first).State == "Succeeded" })
	second := run("2.0.0", slow)
	w.eventually("2.0.0 runs", func() bool { beat(t, ds, nil); return state(second).StillOn == len(ds) })
	must(w.admin.Command(t.Context(), second, api.Pause, api.CommandRequest{Hold: true}))(t)
	w.eventually("it is held", func() bool { return state(second).State == "Paused" })
	w.change(repository.Change{Delist: []string{"detector@2.0.0"}})
	w.eventually("its rollout ends", func() bool {
		beat(t, ds, nil)
		return state(second).State == "RolledBack"
	})
	if r := state(second); !strings.Contains(r.Reason, "delisted") {
		t.Errorf("reason %q", r.Reason)
	}
	// The stable one, by a floor.
	w.change(repository.Change{Floors: map[fleet.ModelName]uint64{model: 3}})
	w.eventually("a person is called", func() bool {
		return strings.Contains(alarms(), "detector@1.0.0 is delisted: its publisher raised the floor")
	})
	m := must(w.admin.Member(t.Context(), ds[0].facts.ID))(t)
	if len(m.Models) != 1 || !strings.Contains(m.Models[0].Revoked, "floor") {
		t.Errorf("the member: %+v", m.Models)
	}
	x := must(w.admin.Explain(t.Context(), ds[0].facts.ID))(t)
	if !strings.Contains(strings.Join(x.Lines, "\n"), "what it runs may not be run any more (its publisher raised the floor") {
		t.Errorf("explained: %q", x.Lines)
	}
	for _, r := range must(w.admin.Releases(t.Context()))(t) {
		if !r.Revoked || r.RevokedFor == "" {
			t.Errorf("%s is not shown as revoked", r.Release.Ref())
		}
	}
	for version, rule := range map[fleet.Version]trust.Rule{"1.0.0": trust.RuleFloor, "2.0.0": trust.RuleListed} {
		_, err := w.admin.StartRollout(t.Context(), api.RolloutRequest{Model: model, Version: version, Spec: spec})
		if !fault.Is(err, fault.Untrusted) || !strings.Contains(err.Error(), string(rule)) || fault.Hint(err) == "" {
			t.Errorf("a rollout of %s: %v, want it refused by rule %s", version, err, rule)
		}
	}
	// Out of it by a rollout of another release.
	third := run("3.0.0", spec)
	w.eventually("3.0.0 is stable", func() bool { beat(t, ds, nil); return state(third).State == "Succeeded" })
}

// A stable release that was delisted by mistake is listed again: its members are
// told to run it by the facts of now, without another rollout, also when the
// coordinator was told of both at once. Its files cannot change on the way.
func TestAReleaseThatIsListedAgainIsTakenWithoutARollout(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	ds := w.join(1)
	old := w.admit("1.0.0")
	if info := w.roll(ds, "1.0.0", nil); info.State != "Succeeded" {
		t.Fatalf("rollout: %+v", info)
	}
	w.admit("2.0.0") // so that the counter must move
	bundle := must(w.get(t.Context(), old.BundlePath(fleet.DefaultVariant)))(t)
	add := func(bundle []byte) repository.Change {
		rel := fleet.Release{Team: team, Model: model, Version: "1.0.0", Variants: []fleet.Variant{{Name: fleet.DefaultVariant, Size: old.Variants[0].Size}}}
		return repository.Change{Add: []repository.Addition{{Entry: trust.Entry{Release: rel}, Bundles: map[string][]byte{fleet.DefaultVariant: bundle}}}}
	}
	backed := func(counter uint64) func() bool {
		return func() bool {
			tr := ds[0].trusted()
			p, ok := tr.Directive.Placement(model)
			return ok && len(tr.Refused) == 0 && p.Stable != nil && p.Stable.Counter == counter
		}
	}
	delist := repository.Change{Delist: []string{"detector@1.0.0"}}
	w.eventually("it is stable", backed(1))
	w.change(delist)
	w.eventually("members refuse it", func() bool { return len(ds[0].trusted().Refused) == 1 })
	if reply := w.change(add(bundle)); len(reply.Admitted) != 1 || len(reply.Again) != 1 {
		t.Errorf("the desk says %+v", reply)
	}
	w.eventually("they are told to take it", backed(3))
	rs := must(w.admin.Releases(t.Context()))(t)
	if i := slices.IndexFunc(rs, func(r api.ReleaseInfo) bool { return r.Release.Version == "1.0.0" }); rs[i].Revoked || rs[i].Release.Counter != 3 {
		t.Errorf("it is shown as %+v", rs[i])
	}
	if d, err := w.admin.Audit(t.Context(), 0, -20); err != nil || !slices.ContainsFunc(d, func(e api.AuditEntry) bool {
		return strings.Contains(e.Reason, "detector@1.0.0 is listed again, with counter 3")
	}) {
		t.Errorf("the audit log does not say why: %v", err)
	}
	// Both between two looks.
	w.admit("3.0.0")
	w.sign(delist)
	w.change(add(bundle))
	w.eventually("they are told again", backed(5))
	// Other files under the same version.
	w.change(delist)
	other := w.bundleOf(strings.Repeat("x", int(old.Variants[0].Size)))
	w.put(repository.Write{Key: old.BundlePath(fleet.DefaultVariant), Body: other, Mutable: true})
	w.sign(add(other))
	_, err := w.admin.Admit(t.Context(), api.AdmitRequest{Team: team})
	if !fault.Is(err, fault.Untrusted) || !strings.Contains(err.Error(), "detector@1.0.0") || !strings.Contains(err.Error(), string(trust.RuleImmutable)) || !strings.Contains(fault.Hint(err), "new version") {
		t.Errorf("other files under the same version: %v", err)
	}
	// The way out that the hint names.
	w.change(delist)
	w.put(repository.Write{Key: old.BundlePath(fleet.DefaultVariant), Body: bundle, Mutable: true})
	w.change(add(bundle))
	w.eventually("they are told a third time", backed(5))
}

// What a team signed with keys that the policy no longer names nobody lists, until
// the team signs it anew.
func TestNoRolloutOfWhatOnlyFormerKeysListed(t *testing.T) {
	t.Parallel()
	var keeper []signature.Signer
	w := newWorld(t, func(o *repository.InitOptions) { keeper = o.Root })
	w.opts.Reload = 20 * time.Millisecond
	w.start()
	w.join(1)
	w.admit("1.0.0")
	if rs := must(w.admin.Releases(t.Context()))(t); len(rs) != 1 || rs[0].Unlisted {
		t.Errorf("before its keys changed the list shows %+v", rs)
	}
	policy := must(w.get(t.Context(), trust.MetadataKey("targets", 1)))(t)
	next := repository.PolicyChange{Teams: []repository.Team{{Name: team, Keys: []crypto.PublicKey{must(signer.Ephemeral())(t).Public()}}}}
	w.put(must(repository.NextPolicy(policy, next, time.Now(), repository.Lifetimes{}, keeper...))(t)...)
	spec := []byte(`{"stages":[{"name":"all","percent":100,"soak":"1h"}],"population":{"selector":"kind=nothing"}}`) // never begins
	w.eventually("a rollout is refused by rule listed", func() bool {
		_, err := w.admin.StartRollout(t.Context(), api.RolloutRequest{Model: model, Version: "1.0.0", Spec: spec})
		return fault.Is(err, fault.Untrusted) && strings.Contains(err.Error(), string(trust.RuleListed)) && fault.Hint(err) != ""
	})
	if rs := must(w.admin.Releases(t.Context()))(t); len(rs) != 1 || !rs[0].Unlisted || rs[0].Revoked {
		t.Errorf("the list shows %+v", rs)
	}
}
