package trust_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

func had(r fleet.Release) trust.Had {
	v := r.Variants[0]
	return trust.Had{Model: r.Model, Path: r.BundlePath(v.Name), Root: v.Root, Bundle: v.Bundle, Counter: r.Counter}
}

// forgotten is had by a member that lost its memory: it knows the bytes alone.
func forgotten(r fleet.Release) trust.Had {
	return trust.Had{Model: r.Model, Bundle: r.Variants[0].Bundle}
}

func see(t *testing.T, f *trusttest.Fleet, pack []byte, st trust.State, at time.Time) (trust.Trusted, trust.State) {
	t.Helper()
	got, next, err := trust.Verify(pack, st, f.Member(), at)
	if err != nil {
		t.Fatal(err)
	}
	return got, next
}

// A pack tells of releases that the directive does not name any more: who runs one
// hears when its publisher takes it back or raises the floor above it.
func TestARevocationIsHeardThoughNothingNamesTheRelease(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	old, other, next := f.Release("detector", "1"), f.Release("ocr", "1"), f.Release("detector", "2")
	got, st := see(t, f, f.Direct(next), f.State(), f.Now)
	for _, r := range []fleet.Release{old, other, next} {
		for _, h := range []trust.Had{had(r), forgotten(r)} {
			if err := got.Revokes(h); err != nil {
				t.Errorf("%s: %v", r.Ref(), err)
			}
		}
	}
	f.Publish(repository.Change{Delist: []string{"detector@1"}})
	got, st = see(t, f, f.Direct(next), st, f.Now)
	for _, h := range []trust.Had{had(old), forgotten(old)} {
		if err := got.Revokes(h); trust.RuleOf(err) != trust.RuleListed {
			t.Errorf("delisted: %v", err)
		}
	}
	f.Publish(repository.Change{Floors: map[fleet.ModelName]uint64{"detector": 3}})
	got, _ = see(t, f, f.Direct(next), st, f.Now)
	if err := got.Revokes(had(next)); trust.RuleOf(err) != trust.RuleFloor {
		t.Errorf("below the floor: %v", err)
	}
	if len(got.Refused) != 1 || !got.Refused[0].Revoked || !got.Refused[0].Held {
		t.Errorf("refused %+v", got.Refused)
	}
	if err := got.Revokes(had(other)); err != nil {
		t.Errorf("another model: %v", err)
	}
}

// Silence revokes nothing: a role that expired, one that the pack lacks, a team
// that nobody knows.
func TestSilenceRevokesNothing(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	r := f.Release("detector", "1")
	g := newForge(t, f, f.Direct(r))
	g.team.Signed.Expires = f.Now.Add(-time.Minute)
	got, _ := see(t, f, g.seal(), f.State(), f.Now)
	if err := got.Revokes(had(r)); err != nil || len(got.Refused) != 1 || got.Refused[0].Revoked {
		t.Errorf("of a role that expired: %v, refused %+v", err, got.Refused)
	}
	stranger := had(r)
	stranger.Path, stranger.Model = "models/nobody/x/1/default.oms", "x"
	if err := got.Revokes(stranger); err != nil {
		t.Errorf("of a team that the pack does not know: %v", err)
	}
}

// With a stable release that was taken back a rollout of another goes on, and
// overrides that are for others hold nobody.
func TestARefusedStableHoldsOnlyWhomItIsFor(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	v1, v2 := f.Release("detector", "1"), f.Release("detector", "2")
	f.Publish(repository.Change{Delist: []string{"detector@1"}})
	exposure := &fleet.Exposure{ID: "r1", Release: v2, Rules: []fleet.Rule{{Bound: fleet.Everyone}}, AsOf: f.Now.Add(time.Hour)}
	sign := func(p fleet.Placement) trust.Trusted {
		t.Helper()
		p.Model = "detector"
		got, _ := see(t, f, f.Sign(fleet.Directive{Group: fleet.DefaultGroup, Issued: f.Now, Models: []fleet.Placement{p}}), f.State(), f.Now)
		return got
	}
	got := sign(fleet.Placement{Stable: &v1, Rollout: exposure})
	if p, ok := got.Directive.Placement("detector"); !ok || p.Stable != nil || p.Rollout == nil || !got.Refused[0].Held {
		t.Errorf("with a rollout of another: %+v, refused %+v", p, got.Refused)
	}
	elsewhere, err := fleet.ParseSelector("region=nowhere")
	if err != nil {
		t.Fatal(err)
	}
	got = sign(fleet.Placement{Stable: &v2, Overrides: []fleet.Override{{Selector: elsewhere, Release: v1}}})
	if p, ok := got.Directive.Placement("detector"); !ok || p.Stable == nil || len(got.Refused) != 1 || got.Refused[0].Held {
		t.Errorf("with an override for others: %+v, refused %+v", p, got.Refused)
	}
	got = sign(fleet.Placement{Stable: &v1, WhenRevoked: fleet.KeepRevoked})
	if fmt.Sprint(got.Kept) != "[detector]" || len(got.Directive.Models) != 0 {
		t.Errorf("kept %v, models %v", got.Kept, got.Directive.Models)
	}
}

// A revoked member is barred by name, and later by the time alone.
func TestRevokedMembersAreBarred(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	expires := f.Now.Add(24 * time.Hour)
	d := fleet.Directive{Group: fleet.DefaultGroup, Issued: f.Now, Models: []fleet.Placement{}, Revoked: []fleet.RevokedMember{
		{ID: "thief", Until: expires.Add(fleet.Grace), Cell: "hall/0", Key: 2},
	}}
	got, _ := see(t, f, f.Sign(d), f.State(), f.Now)
	if got.Bars("thief", expires, f.Now) == nil || got.Bars("other", expires, f.Now) != nil || got.Directive.CellKey("hall/0") != 2 || got.Directive.CellKey("yard/0") != 0 {
		t.Errorf("%+v", got.Directive.Revoked)
	}
	d.Revoked = nil // nobody needs to be told any more
	got, _ = see(t, f, f.Sign(d), f.State(), f.Now)
	if got.Bars("thief", expires, expires.Add(fleet.Grace+time.Second)) == nil || got.Bars("thief", expires, expires.Add(fleet.Grace-time.Second)) != nil {
		t.Error("the time alone does not tell")
	}
	for _, bad := range [][]fleet.RevokedMember{{{ID: "b"}, {ID: "a"}}, {{ID: "a"}, {ID: "a"}}, {{ID: "No Name"}}, make([]fleet.RevokedMember, fleet.MaxRevoked+1)} {
		d.Revoked = bad
		d.Schema = fleet.DirectiveSchema
		raw, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := trust.ParseDirective(raw); err == nil {
			t.Errorf("%d revoked members are read", len(bad))
		}
	}
}

// Keys that are new never listed what older keys did: that is silence too.
func TestOtherKeysSilenceRevokesNothing(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	v1 := f.Release("detector", "1")
	_, st := see(t, f, f.Direct(v1), f.State(), f.Now)
	other := st
	other.Teams = map[fleet.Team]trust.TeamState{trusttest.Team: {Keys: fleet.DigestOf([]byte("older keys")), Seen: st.Teams[trusttest.Team].Seen}}
	f.Publish(repository.Change{Delist: []string{"detector@1"}})
	v2 := f.Release("detector", "2")
	pack := f.Direct(v2)
	if got, _ := see(t, f, pack, other, f.Now); got.Revokes(had(v1)) != nil {
		t.Errorf("of keys that were changed: %v", got.Revokes(had(v1)))
	}
	if got, _ := see(t, f, pack, st, f.Now); got.Revokes(had(v1)) == nil {
		t.Error("of the same keys: nothing")
	}
}
