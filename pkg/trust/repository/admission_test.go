package repository_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

const (
	v1Path = "models/vision/detector/1.0.0/default.oms"
	v2Path = "models/vision/detector/2.0.0/default.oms"
)

// tamper signs with the right key whatever change makes of a good next role.
func tamper(t *testing.T, f *trusttest.Fleet, change func(*metadata.TargetsType)) {
	t.Helper()
	d, err := f.Repo.Draft(t.Context(), trusttest.Team)
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Next(add(f, "detector", "2.0.0"), f.Now, f.Publisher)
	if err != nil {
		t.Fatal(err)
	}
	f.Bucket.Overwrite(s.Write.Key, resign(t, s.Write.Body, f.Publisher, change))
}

func resign(t *testing.T, raw []byte, by signature.Signer, change func(*metadata.TargetsType)) []byte {
	t.Helper()
	m, err := metadata.Targets().FromBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	m.ClearSignatures()
	change(&m.Signed)
	if _, err := m.Sign(by); err != nil {
		t.Fatal(err)
	}
	if raw, err = m.ToBytes(false); err != nil {
		t.Fatal(err)
	}
	return raw
}

// Admission refuses what a member would refuse and more, each by its own rule
// although the publisher's own key signed it.
func TestAdmissionRefuses(t *testing.T) {
	t.Parallel()
	role := func(change func(*metadata.TargetsType)) func(*testing.T, *trusttest.Fleet) {
		return func(t *testing.T, f *trusttest.Fleet) { tamper(t, f, change) }
	}
	for name, c := range map[string]struct {
		do   func(*testing.T, *trusttest.Fleet)
		want trust.Rule
	}{
		"another team's path": {role(func(m *metadata.TargetsType) {
			m.Targets["models/audio/detector/2.0.0/default.oms"] = m.Targets[v2Path]
			delete(m.Targets, v2Path)
		}), trust.RulePath},
		"a changed release": {role(func(m *metadata.TargetsType) { m.Targets[v1Path] = m.Targets[v2Path] }), trust.RuleImmutable},
		"a counter used again": {role(func(m *metadata.TargetsType) {
			raw := json.RawMessage(strings.Replace(string(*m.Targets[v2Path].Custom), `"counter":"2"`, `"counter":"1"`, 1))
			m.Targets[v2Path].Custom = &raw
		}), trust.RuleImmutable},
		"no facts":               {role(func(m *metadata.TargetsType) { m.Targets[v2Path].Custom = nil }), trust.RuleFormat},
		"another version inside": {role(func(m *metadata.TargetsType) { m.Version = 7 }), trust.RuleVersion},
		"expired":                {role(func(m *metadata.TargetsType) { m.Expires = trusttest.Start().Add(-time.Hour) }), trust.RuleExpired},
		"a floor that falls": {func(t *testing.T, f *trusttest.Fleet) {
			f.Publish(repository.Change{Floors: map[fleet.ModelName]uint64{"detector": 1}})
			tamper(t, f, func(m *metadata.TargetsType) { m.UnrecognizedFields = nil })
		}, trust.RuleFloor},
		"a bundle that was changed": {func(t *testing.T, f *trusttest.Fleet) {
			next(t, f, add(f, "detector", "2.0.0"))
			other, err := f.Bucket.Get(t.Context(), v1Path)
			if err != nil {
				t.Fatal(err)
			}
			f.Bucket.Overwrite(v2Path, other)
		}, trust.RuleBundle},
		"a bundle by another key": {func(t *testing.T, f *trusttest.Fleet) {
			a := f.Addition("detector", "2.0.0")
			a.Bundles[fleet.DefaultVariant], _ = trusttest.Bundle(t, "detector@2.0.0", trusttest.Key(t))
			f.Bucket.Overwrite(v2Path, a.Bundles[fleet.DefaultVariant])
			next(t, f, repository.Change{Add: []repository.Addition{a}})
		}, trust.RuleBundle},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := trusttest.New(t, nil)
			f.Release("detector", "1.0.0")
			c.do(t, f)
			_, err := f.Repo.Admit(t.Context(), trusttest.Team, f.Now)
			rule(t, err, c.want)
		})
	}
}

func TestAdmissionMissesWhatIsNotThere(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	next(t, f, add(f, "detector", "2.0.0"))
	f.Bucket.Overwrite(v2Path, nil)
	_, err := f.Repo.Admit(t.Context(), trusttest.Team, f.Now)
	kind(t, err, fault.NotFound)
	_, err = f.Repo.Admit(t.Context(), "audio", f.Now)
	kind(t, err, fault.NotFound)
	_, err = f.Repo.Draft(t.Context(), "audio")
	kind(t, err, fault.NotFound)
}

// A role signed by a key nobody delegated is refused with a reason that names
// role, key and rule, and the version it squats stops nobody.
func TestAKeyNobodyDelegated(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	f.Release("detector", "1.0.0")
	// The thief runs a fleet of its own in which its key is the team's.
	rogue := trusttest.New(t, nil)
	next(t, rogue, add(rogue, "detector", "9.9.9"))
	raw, err := rogue.Bucket.Get(t.Context(), "tuf/1.pub-vision.json")
	if err != nil {
		t.Fatal(err)
	}
	f.Bucket.Overwrite("tuf/2.pub-vision.json", resign(t, raw, rogue.Publisher, func(m *metadata.TargetsType) { m.Version = 2 }))
	_, err = f.Repo.Admit(t.Context(), trusttest.Team, f.Now)
	rule(t, err, trust.RulePublisher)
	id, _ := repository.KeyID(rogue.Publisher.Public())
	for _, part := range []string{"pub-vision version 2", id[:12], "rule publisher"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not name %q", err, part)
		}
	}
	next(t, f, add(f, "detector", "1.1.0"))
	a, err := f.Repo.Admit(t.Context(), trusttest.Team, f.Now)
	if err != nil || a.Version != 3 || len(a.Added) != 1 || len(a.Ignored) != 1 {
		t.Errorf("admission %+v, %v", a, err)
	}
}

func TestAModelHasOneOwner(t *testing.T) {
	t.Parallel()
	audio := trusttest.Key(t)
	f := trusttest.New(t, func(o *repository.InitOptions) {
		o.Teams = append(o.Teams, repository.Team{Name: "audio", Keys: trusttest.Keys(audio)})
	})
	f.Release("detector", "1.0.0")
	bundle, size := trusttest.Bundle(t, "mine", audio)
	r := fleet.Release{Team: "audio", Model: "detector", Version: "1.0.0", Variants: []fleet.Variant{{Name: "default", Size: size}}}
	d, err := f.Repo.Draft(t.Context(), "audio")
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Next(repository.Change{Add: []repository.Addition{{Entry: trust.Entry{Release: r}, Bundles: map[string][]byte{"default": bundle}}}}, f.Now, audio)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Bucket.Put(repository.Write{Key: r.BundlePath("default"), Body: bundle}, s.Write); err != nil {
		t.Fatal(err)
	}
	_, err = f.Repo.Admit(t.Context(), "audio", f.Now)
	rule(t, err, trust.RuleOwner)

	// The owner's key is replaced: it lists nothing until it publishes anew.
	f.Direct()
	f.Publisher = trusttest.Key(t)
	writes, err := repository.NextPolicy(f.Bucket.Newest(t, "targets"), repository.PolicyChange{
		Teams: []repository.Team{{Name: trusttest.Team, Keys: trusttest.Keys(f.Publisher)}}}, f.Now, repository.Lifetimes{}, f.Root)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Bucket.Put(writes...); err != nil {
		t.Fatal(err)
	}
	again := f.Open(f.Genesis.Root)
	if _, err := f.Repo.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, repo := range map[string]*repository.Repository{"running": f.Repo, "started again": again} {
		_, err = repo.Admit(t.Context(), "audio", f.Now)
		t.Log(name)
		rule(t, err, trust.RuleOwner)
	}
	f.Release("detector", "2.0.0")
	if _, err := f.Repo.Admit(t.Context(), "audio", f.Now); trust.RuleOf(err) != trust.RuleOwner {
		t.Errorf("after the owner published anew: %v", err)
	}

	// The owner is taken out: its models are free.
	writes, err = repository.NextPolicy(f.Bucket.Newest(t, "targets"), repository.PolicyChange{Remove: []fleet.Team{trusttest.Team}}, f.Now, repository.Lifetimes{}, f.Root)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Bucket.Put(writes...); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Repo.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Repo.Admit(t.Context(), "audio", f.Now); err != nil {
		t.Errorf("after the owner was taken out: %v", err)
	}
}
