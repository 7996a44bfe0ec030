package publisher_test

import (
	"bytes"
	"crypto"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/coordinator/cli/folder"
	"github.com/modelfleet/modelfleet/coordinator/cli/publisher"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// newPair is a bench whose team needs two of three signatures; the keys are the
// bench's own and these two.
func newPair(t *testing.T) (b *bench, ben, cy *signer.Signer) {
	t.Helper()
	b, ben, cy = &bench{t: t, root: t.TempDir(), key: key(t)}, key(t), key(t)
	var err error
	b.gen, err = repository.Init(repository.InitOptions{
		Fleet: "orchard", Now: now, Root: []signature.Signer{key(t)}, Coordinator: key(t).Public(),
		Teams: []repository.Team{{Name: "vision", Keys: []crypto.PublicKey{b.key.Public(), ben.Public(), cy.Public()}, Threshold: 2}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if b.store, err = dir.Open(b.root); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.store.Close() })
	if _, err := folder.Put(t.Context(), b.store, b.gen.Writes); err != nil {
		t.Fatal(err)
	}
	return b, ben, cy
}

func (b *bench) as(k *signer.Signer) publisher.Options {
	return publisher.Options{Store: b.store, Repository: b.repository(b.store), Key: k, Now: now}
}

// roles are the versions of the team's role that lie under its own name.
func (b *bench) roles() int {
	found, err := filepath.Glob(filepath.Join(b.root, "tuf", "*.pub-vision.json"))
	if err != nil {
		b.t.Fatal(err)
	}
	return len(found)
}

func (b *bench) proposals() []publisher.Proposal {
	b.t.Helper()
	ps, err := publisher.Proposals(b.t.Context(), b.as(nil), "vision")
	if err != nil {
		b.t.Fatal(err)
	}
	return ps
}

func TestPublishingWithOneOfTwoKeysProposes(t *testing.T) {
	t.Parallel()
	b, ben, _ := newPair(t)
	r := b.model("1", map[string]string{"a": strings.Repeat("a", 1<<20)})
	out, err := publisher.Publish(t.Context(), b.as(b.key), r)
	if err != nil || out.Published || out.Proposal == nil || out.Proposal.Missing != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	if b.roles() != 0 {
		t.Fatal("an incomplete role lies under the role's own name")
	}
	for who, k := range map[string]*signer.Signer{"itself": b.key, "the other": ben} { // asking again makes no second one
		again, err := publisher.Publish(t.Context(), b.as(k), r)
		if err != nil || again.Proposal == nil || !again.Proposal.Before || again.Proposal.Key != out.Proposal.Key {
			t.Errorf("proposed again by %s: %+v, %v", who, again.Proposal, err)
		}
	}
	ps := b.proposals()
	if len(ps) != 1 || ps[0].Err != nil || ps[0].Added[0].Release.Ref() != "m@1" {
		t.Fatalf("proposals: %+v", ps)
	}
	if _, err := publisher.Approve(t.Context(), b.as(b.key), ps[0]); !fault.Is(err, fault.Denied) {
		t.Errorf("approved by who proposed it: %v", err)
	}
	if _, err := publisher.Approve(t.Context(), b.as(key(t)), ps[0]); !fault.Is(err, fault.Untrusted) {
		t.Errorf("approved by a stranger: %v", err)
	}
	if b.roles() != 0 {
		t.Fatal("a refused approval left a role")
	}
	checked, err := ps[0].Check(t.Context(), b.as(ben), func(int64) {})
	if err != nil || len(checked) != 1 || checked[0].Bytes != 1<<20 {
		t.Errorf("checked: %+v, %v", checked, err)
	}
	placed, err := publisher.Approve(t.Context(), b.as(ben), ps[0])
	if err != nil || !placed.Done() || b.roles() != 1 {
		t.Fatalf("%+v, %v", placed, err)
	}
	a, err := b.repository(b.store).Admit(t.Context(), "vision", now)
	if err != nil || len(a.Added) != 1 {
		t.Errorf("the coordinator admits %+v, %v", a, err)
	}
	if out, err := publisher.Publish(t.Context(), b.as(b.key), r); err != nil || out.Published || out.Proposal != nil {
		t.Errorf("published again: %+v, %v", out, err)
	}
}

func TestASlowerProposalIsToldSo(t *testing.T) {
	t.Parallel()
	b, ben, cy := newPair(t)
	for i, k := range []*signer.Signer{b.key, ben} {
		if _, err := publisher.Publish(t.Context(), b.as(k), b.model(fleet.Version(rune('1'+i)), map[string]string{"a": string(rune('a' + i))})); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := publisher.Choose(t.Context(), b.as(cy), "vision", ""); !fault.Is(err, fault.Invalid) {
		t.Errorf("one of two chosen: %v", err)
	}
	ps := b.proposals()
	first, err := publisher.Choose(t.Context(), b.as(cy), "vision", ps[0].ID())
	if err != nil {
		t.Fatal(err)
	}
	late := ps[1]
	if _, err := publisher.Approve(t.Context(), b.as(cy), first); err != nil {
		t.Fatal(err)
	}
	// In the very moment, and later.
	if _, err := publisher.Approve(t.Context(), b.as(cy), late); !fault.Is(err, fault.Conflict) || fault.Hint(err) == "" {
		t.Errorf("a version was taken twice: %v", err)
	}
	if _, err := publisher.Choose(t.Context(), b.as(cy), "vision", late.ID()); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "quicker") {
		t.Errorf("a stale proposal: %v", err)
	}
	if _, err := publisher.Choose(t.Context(), b.as(cy), "vision", ""); !fault.Is(err, fault.NotFound) {
		t.Errorf("nothing is left to approve: %v", err)
	}
}

// Somebody with write access to the bucket changes what waits there.
func TestATamperedProposalIsNotApproved(t *testing.T) {
	t.Parallel()
	b, ben, _ := newPair(t)
	out, err := publisher.Publish(t.Context(), b.as(b.key), b.model("1", map[string]string{"a": strings.Repeat("a", 5<<20)}))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(b.root, filepath.FromSlash(out.Proposal.Key))
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(path string, body []byte) {
		t.Helper()
		_ = os.Chmod(path, 0o644)
		if err := os.WriteFile(path, body, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(path, bytes.Replace(good, []byte(`"counter":"1"`), []byte(`"counter":"7"`), 1))
	if _, err := publisher.Choose(t.Context(), b.as(ben), "vision", out.Proposal.ID()); !fault.Is(err, fault.Untrusted) || fault.Hint(err) == "" {
		t.Errorf("other bytes: %v", err)
	}
	write(path, good)
	// The files it lists are not what was signed: only --check reads them.
	p, err := publisher.Choose(t.Context(), b.as(ben), "vision", "")
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(filepath.Join(b.root, "files"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "raw" {
			body, _ := os.ReadFile(path)
			body[len(body)/2] ^= 1
			write(path, body)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Check(t.Context(), b.as(ben), func(int64) {}); !fault.Is(err, fault.Untrusted) {
		t.Errorf("changed files: %v", err)
	}
	if b.roles() != 0 {
		t.Error("something was put in place")
	}
}

func TestTakingBackAndFloors(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, v := range []fleet.Version{"1", "2", "3"} {
		if _, err := b.publish(t.Context(), b.store, b.model(v, map[string]string{"a": string(v)})); err != nil {
			t.Fatal(err)
		}
	}
	o := b.as(b.key)
	rel := func(v fleet.Version) fleet.Release { return fleet.Release{Team: "vision", Model: "m", Version: v} }
	for n, want := range []bool{true, false} { // again: it is so already
		p, err := publisher.Change(t.Context(), o, "vision", publisher.Delist(t.Context(), o, rel("2"), "wrong labels"))
		if err != nil || p.Done() != want {
			t.Errorf("delist, time %d: %+v, %v", n+1, p, err)
		}
	}
	if _, err := publisher.Change(t.Context(), o, "vision", publisher.Delist(t.Context(), o, rel("9"), "")); !fault.Is(err, fault.NotFound) || fault.Hint(err) == "" {
		t.Errorf("a release that never was: %v", err)
	}
	for n, want := range []bool{true, false} {
		p, err := publisher.Change(t.Context(), o, "vision", publisher.Floor("m", 3, "leaks"))
		if err != nil || p.Done() != want {
			t.Errorf("floor, time %d: %+v, %v", n+1, p, err)
		}
	}
	if _, err := publisher.Change(t.Context(), o, "vision", publisher.Floor("m", 4, "")); !fault.Is(err, fault.Invalid) {
		t.Errorf("a floor above everything: %v", err)
	}
	if _, err := publisher.Change(t.Context(), o, "vision", publisher.Floor("x", 1, "")); !fault.Is(err, fault.NotFound) {
		t.Errorf("a floor of no model: %v", err)
	}
	a, err := b.repository(b.store).Admit(t.Context(), "vision", now)
	if err != nil || len(a.Added) != 2 || a.Floors["m"] != 3 {
		t.Errorf("admitted: %+v, %v", a, err)
	}
	before := b.roles()
	if p, err := publisher.Change(t.Context(), o, "vision", publisher.Renew("")); err != nil || !p.Done() || b.roles() != before+1 {
		t.Errorf("renewed: %+v, %v", p, err)
	}
	var _ registry.Store = b.store
}
