package repository_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

// pair is a fleet whose team has a second approver.
func pair(t *testing.T) (*trusttest.Fleet, *signer.Signer) {
	t.Helper()
	approver := trusttest.Key(t)
	return trusttest.New(t, func(o *repository.InitOptions) {
		o.Teams[0].Keys, o.Teams[0].Threshold = append(o.Teams[0].Keys, approver.Public()), 2
	}), approver
}

// propose signs a change with the publisher's key alone.
func propose(t *testing.T, f *trusttest.Fleet, c repository.Change) repository.Signed {
	t.Helper()
	d, err := f.Repo.Draft(t.Context(), trusttest.Team)
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Next(c, f.Now, f.Publisher)
	if err != nil || s.Missing != 1 {
		t.Fatalf("missing %d, %v", s.Missing, err)
	}
	if !strings.HasPrefix(s.Write.Key, repository.ProposalPrefix(trusttest.Team)) {
		t.Fatalf("an incomplete role would be put at %s", s.Write.Key)
	}
	return s
}

func TestASecondPersonApproves(t *testing.T) {
	t.Parallel()
	f, approver := pair(t)
	s := propose(t, f, repository.Change{Add: []repository.Addition{f.Addition("detector", "1.0.0")}, Reason: "better at night"})
	if err := f.Bucket.Put(s.Write); err != nil {
		t.Fatal(err)
	}
	if a, err := f.Repo.Admit(t.Context(), trusttest.Team, f.Now); err != nil || a.Version != 0 {
		t.Fatalf("a proposal was admitted: %+v, %v", a, err)
	}
	v, err := f.Repo.Review(t.Context(), trusttest.Team, s.Write.Key, s.Write.Body, f.Now)
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Added) != 1 || v.Added[0].Release.Ref() != "detector@1.0.0" || v.Reason != "better at night" || v.Missing != 1 || len(v.Signers) != 1 {
		t.Errorf("review: %+v", v)
	}
	if _, err := v.Approve(f.Publisher); !fault.Is(err, fault.Denied) || fault.Hint(err) == "" {
		t.Errorf("whoever proposed it approved it: %v", err)
	}
	_, err = v.Approve(trusttest.Key(t))
	rule(t, err, trust.RulePublisher)
	done, err := v.Approve(approver)
	if err != nil || done.Missing != 0 || done.Write.Key != trust.MetadataKey("pub-vision", 1) {
		t.Fatalf("%+v, %v", done, err)
	}
	if err := f.Bucket.Put(done.Write); err != nil {
		t.Fatal(err)
	}
	a, err := f.Repo.Admit(t.Context(), trusttest.Team, f.Now)
	if err != nil || len(a.Added) != 1 || a.Reason != "better at night" {
		t.Errorf("%+v, %v", a, err)
	}
	_, err = f.Repo.Review(t.Context(), trusttest.Team, s.Write.Key, s.Write.Body, f.Now)
	if !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "quicker") {
		t.Errorf("a proposal for a version that is taken: %v", err)
	}
}

// What somebody who can write to the bucket makes of a proposal is refused,
// whichever way.
func TestATamperedProposalIsRefused(t *testing.T) {
	t.Parallel()
	f, approver := pair(t)
	s := propose(t, f, repository.Change{Add: []repository.Addition{f.Addition("detector", "1.0.0")}})
	raw := s.Write.Body
	edit := func(change func(signed, whole map[string]any)) []byte {
		var m map[string]any
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		change(m["signed"].(map[string]any), m)
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	stranger, err := repository.Countersign(raw, trusttest.Key(t))
	if err != nil {
		t.Fatal(err)
	}
	twice := edit(func(_, m map[string]any) {
		sigs := m["signatures"].([]any)
		m["signatures"] = append(sigs, sigs[0])
	})
	named := func(body []byte) string { return repository.ProposalKey(trusttest.Team, 1, body) }
	floors := edit(func(signed, _ map[string]any) { signed["x-floor"] = map[string]string{"detector": "9"} })
	for name, c := range map[string]struct {
		key  string
		body []byte
	}{
		"other bytes under its name":        {s.Write.Key, bytes.Replace(raw, []byte("detector"), []byte("detectoR"), 1)},
		"a floor that nobody signed":        {named(floors), floors},
		"another version under its name":    {repository.ProposalKey(trusttest.Team, 2, raw), raw},
		"nobody's signature":                {named(edit(func(_, m map[string]any) { m["signatures"] = []any{} })), edit(func(_, m map[string]any) { m["signatures"] = []any{} })},
		"a stranger's signature beside it":  {named(stranger), stranger},
		"the same signature counted twice":  {named(twice), twice},
		"another team's name":               {repository.ProposalKey("audio", 1, raw), raw},
		"something else than metadata":      {named([]byte("{}")), []byte("{}")},
		"nothing":                           {named(nil), nil},
		"its own bundle replaced, re-named": {named(edit(swapBundle)), edit(swapBundle)},
	} {
		v, err := f.Repo.Review(t.Context(), trusttest.Team, c.key, c.body, f.Now)
		if !fault.Is(err, fault.Untrusted) || fault.Hint(err) == "" {
			t.Errorf("%s: %v, %+v", name, err, v)
		}
	}
	// The bundle in the bucket is another than was proposed.
	rel := fleet.Release{Team: trusttest.Team, Model: "detector", Version: "1.0.0"}
	other, _ := trusttest.Bundle(t, "something else", f.Publisher)
	f.Bucket.Overwrite(rel.BundlePath(fleet.DefaultVariant), other)
	if _, err := f.Repo.Review(t.Context(), trusttest.Team, s.Write.Key, raw, f.Now); !fault.Is(err, fault.Untrusted) {
		t.Errorf("a bundle that was replaced: %v", err)
	}
	// Countersigning does not make a second signer of the first.
	again, err := repository.Countersign(raw, f.Publisher)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Bucket.Put(repository.Write{Key: trust.MetadataKey("pub-vision", 1), Body: again}); err != nil {
		t.Fatal(err)
	}
	_, err = f.Repo.Admit(t.Context(), trusttest.Team, f.Now)
	rule(t, err, trust.RulePublisher)
	_ = approver
}

func swapBundle(signed, _ map[string]any) {
	for _, v := range signed["targets"].(map[string]any) {
		v.(map[string]any)["hashes"] = map[string]string{"sha256": fleet.DigestOf([]byte("other")).String()}
	}
}

func TestTheSameChangeIsKnownAgain(t *testing.T) {
	t.Parallel()
	f, approver := pair(t)
	c := repository.Change{Add: []repository.Addition{f.Addition("detector", "1.0.0")}}
	a := propose(t, f, c)
	d, err := f.Repo.Draft(t.Context(), trusttest.Team)
	if err != nil {
		t.Fatal(err)
	}
	b, err := d.Next(c, f.Now.Add(5), approver)
	if err != nil || !repository.SameChange(a.Write.Body, b.Write.Body) {
		t.Errorf("the same change by another key is not known again: %v", err)
	}
	c.Floors = map[fleet.ModelName]uint64{"detector": 1}
	other, err := d.Next(c, f.Now, f.Publisher)
	if err != nil || repository.SameChange(a.Write.Body, other.Write.Body) {
		t.Errorf("another change passes for the same: %v", err)
	}
	if repository.SameChange([]byte("x"), []byte("x")) {
		t.Error("garbage is the same change as garbage")
	}
}
