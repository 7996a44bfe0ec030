package repository_test

import (
	"crypto"
	"strings"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

// rekey gives the team other keys, and has the coordinator take that up and sign.
func rekey(t *testing.T, f *trusttest.Fleet, threshold int, keys ...*signer.Signer) {
	t.Helper()
	var public []crypto.PublicKey
	for _, k := range keys {
		public = append(public, k.Public())
	}
	change := repository.PolicyChange{Teams: []repository.Team{{Name: trusttest.Team, Keys: public, Threshold: threshold}}}
	writes, err := repository.NextPolicy(f.Bucket.Newest(t, "targets"), change, f.Now, repository.Lifetimes{}, f.Root)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Bucket.Put(writes...); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Repo.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.Direct() // the snapshot does not list the team any more
}

// With a second signature asked for, what was published comes along into the next
// version, is said to whoever approves it, and counts once both have signed.
func TestWhatWasPublishedOutlivesAHigherThreshold(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	f.Release("detector", "1.5.0")
	f.Publish(repository.Change{Floors: map[fleet.ModelName]uint64{"detector": 1}})
	f.Direct()
	ben := trusttest.Key(t)
	rekey(t, f, 2, f.Publisher, ben)
	if es, err := f.Repo.Releases(); err != nil || len(es) != 0 {
		t.Fatalf("one signature still lists %v, %v", es, err)
	}
	s := propose(t, f, repository.Change{Reason: "two of us now"})
	if err := f.Bucket.Put(s.Write); err != nil {
		t.Fatal(err)
	}
	v, err := f.Repo.Review(t.Context(), trusttest.Team, s.Write.Key, s.Write.Body, f.Now)
	if err != nil || len(v.Carried) != 1 || v.Carried[0].Ref() != "detector@1.5.0" || len(v.Lost)+len(v.Delisted) != 0 {
		t.Fatalf("carried %v, lost %v, delisted %v, %v", v.Carried, v.Lost, v.Delisted, err)
	}
	done, err := v.Approve(ben)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Bucket.Put(done.Write); err != nil {
		t.Fatal(err)
	}
	a, err := f.Repo.Admit(t.Context(), trusttest.Team, f.Now)
	if err != nil || len(a.Added) != 1 || a.Added[0].Release.Counter != 1 || a.Floors["detector"] != 1 {
		t.Errorf("admitted %+v, %v", a, err)
	}
}

// Of a key that was taken out nothing comes along: neither its releases nor its
// floors, nor what it signs afterwards. It is said what falls off, and why.
func TestWhatAFormerKeySignedFallsOff(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	f.Release("detector", "1.5.0")
	f.Publish(repository.Change{Floors: map[fleet.ModelName]uint64{"detector": 1}})
	f.Direct()
	thief, heir := f.Publisher, trusttest.Key(t)
	before, err := f.Repo.Draft(t.Context(), trusttest.Team)
	if err != nil {
		t.Fatal(err)
	}
	rekey(t, f, 1, heir)
	late, err := before.Next(add(f, "detector", "6.6.6"), f.Now, thief)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Bucket.Put(late.Write); err != nil {
		t.Fatal(err)
	}
	f.Publisher = heir
	d, err := f.Repo.Draft(t.Context(), trusttest.Team)
	if err != nil || len(d.Role.Entries)+len(d.Role.Floors)+len(d.Carried) != 0 || d.NextCounter("detector") != 2 {
		t.Fatalf("%+v, %v", d.Role, err)
	}
	if len(d.Lost) != 1 || d.Lost[0].Release.Ref() != "detector@1.5.0" || trust.RuleOf(d.Lost[0].Why) != trust.RuleBundle || strings.Contains(d.Lost[0].Why.Error(), "6.6.6") {
		t.Errorf("lost %+v", d.Lost)
	}
	next(t, f, add(f, "detector", "1.5.1"))
	a, err := f.Repo.Admit(t.Context(), trusttest.Team, f.Now)
	if err != nil || len(a.Added) != 1 || a.Added[0].Release.Counter != 2 {
		t.Errorf("admitted %+v, %v", a, err)
	}
	if d, err = f.Repo.Draft(t.Context(), trusttest.Team); err != nil || len(d.Lost) != 0 {
		t.Errorf("still lost: %v, %v", d.Lost, err)
	}
}

// What was published a moment before the keys changed, and that no trust pack
// listed yet, does not come along; it is said what to do about it.
func TestWhatNoPackListedYetIsTold(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	f.Release("detector", "1.5.0")
	f.Direct()
	next(t, f, add(f, "detector", "1.6.0"))
	rekey(t, f, 2, f.Publisher, trusttest.Key(t))
	d, err := f.Repo.Draft(t.Context(), trusttest.Team)
	if err != nil || len(d.Carried) != 1 || len(d.Lost) != 1 {
		t.Fatalf("carried %v, lost %v, %v", d.Carried, d.Lost, err)
	}
	if l := d.Lost[0]; l.Release.Ref() != "detector@1.6.0" || !strings.Contains(l.Why.Error(), "publish it again") {
		t.Errorf("lost %v: %v", l.Release.Ref(), l.Why)
	}
}

// A second key keeps what it signed when the first is replaced.
func TestTheReleasesOfAKeyThatStaysComeAlong(t *testing.T) {
	t.Parallel()
	ben := trusttest.Key(t)
	f := trusttest.New(t, func(o *repository.InitOptions) { o.Teams[0].Keys = append(o.Teams[0].Keys, ben.Public()) })
	f.Release("detector", "1.5.0")
	ana := f.Publisher
	f.Publisher = ben
	f.Release("detector", "1.6.0")
	f.Publisher = ana
	f.Release("detector", "1.7.0") // the role's newest version is by the key that goes
	f.Direct()
	rekey(t, f, 1, ben)
	d, err := f.Repo.Draft(t.Context(), trusttest.Team)
	if err != nil || len(d.Carried) != 1 || d.Carried[0].Ref() != "detector@1.6.0" || len(d.Lost) != 2 {
		t.Errorf("carried %v, lost %v, %v", d.Carried, d.Lost, err)
	}
}
