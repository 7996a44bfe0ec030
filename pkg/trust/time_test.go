package trust_test

import (
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

// Withholding: members notice when the timestamp runs out, keep what they have,
// and still know what it said.
func TestExpiredIsStaleAndHolds(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	pack := f.Direct(f.Release("detector", "1.0.0"))
	got, st := accept(t, f, f.State(), pack)
	if got.Freshness != trust.Fresh || !got.Expires.Equal(f.Now.Add(24*time.Hour)) {
		t.Errorf("%s until %s", got.Freshness, got.Expires)
	}
	for _, later := range []time.Duration{24 * time.Hour, 30 * 24 * time.Hour, 3 * 365 * 24 * time.Hour} {
		got, after, err := trust.Verify(pack, st, f.Member(), f.Now.Add(later))
		if err != nil || got.Freshness != trust.Stale || got.Expired != "timestamp" {
			t.Errorf("after %s: %s by %q, %v; want stale by timestamp", later, got.Freshness, got.Expired, err)
		}
		if !after.Equal(st) {
			t.Error("a stale pack changed the state")
		}
		if len(got.Directive.Models) != 1 {
			t.Error("a stale pack does not tell what it said")
		}
	}
	// Stale is not a way around signatures.
	g := newForge(t, f, pack)
	g.fleetKey = f.Publisher
	_, _, err := trust.Verify(g.seal(), st, f.Member(), f.Now.Add(48*time.Hour))
	if trust.RuleOf(err) != trust.RuleFleet {
		t.Errorf("stale and forged: %v", err)
	}
}

// A clock that went back does not make an expired pack fresh, nor a fresh one
// unreadable.
func TestClockBehindIsHeldUpByWhatWasProven(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	r := f.Release("detector", "1.0.0")
	old := f.Direct(r)
	f.Now = f.Now.Add(40 * 24 * time.Hour)
	_, st := accept(t, f, f.State(), f.Direct(r))
	got, _, err := trust.Verify(f.Direct(r), st, f.Member(), time.Unix(0, 0))
	if err != nil || got.Freshness != trust.Fresh || got.Behind < 40*24*time.Hour {
		t.Errorf("clock at 1970: %s, behind %s, %v", got.Freshness, got.Behind, err)
	}
	// A member that just enrolled has no floor but the pack's own word.
	got, _, err = trust.Verify(old, f.State(), f.Member(), time.Unix(0, 0))
	if err != nil || got.Freshness != trust.Fresh || got.Behind == 0 {
		t.Errorf("fresh member at 1970: %s, behind %s, %v", got.Freshness, got.Behind, err)
	}
	// One that knows better finds the old pack both old and stale.
	st.Timestamp, st.Snapshot, st.Sequence = nil, nil, 0
	got, _, err = trust.Verify(old, st, f.Member(), time.Unix(0, 0))
	if err != nil || got.Freshness != trust.Stale {
		t.Errorf("old pack under the floor: %s, %v", got.Freshness, err)
	}
}

// A stolen online key may push versions and the time as far ahead as it likes:
// once root and policy replace it, members follow again.
func TestFastForwardIsRecoveredByRotation(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	r := f.Release("detector", "1.0.0")
	pack := f.Direct(r)
	g := newForge(t, f, pack)
	g.timestamp.Signed.Version, g.snapshot.Signed.Version = 1<<40, 1<<40
	g.timestamp.Signed.UnrecognizedFields[trust.FieldIssued] = f.Now.Add(time.Hour).Format(time.RFC3339)
	g.fleet.Signed.Version = 1 << 40
	g.edit(func(d *fleet.Directive) { d.Sequence = 1 << 40 })
	_, st := accept(t, f, f.State(), g.seal())
	wantRule(t, f, st, f.Direct(r), trust.RuleTimestamp)

	// The keepers of root replace both online keys.
	newKey, newTime := trusttest.Key(t), trusttest.Key(t)
	root, complete, err := repository.NextRoot(f.Genesis.Root, repository.RootChange{Snapshot: trusttest.Keys(newKey), Timestamp: trusttest.Keys(newTime)}, f.Now, repository.Lifetimes{}, f.Root)
	if err != nil || !complete {
		t.Fatal(complete, err)
	}
	policy, err := repository.NextPolicy(newForge(t, f, pack).pack.Policy, repository.PolicyChange{Coordinator: newKey.Public()}, f.Now, repository.Lifetimes{}, f.Root)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Bucket.Put(append(policy, repository.Write{Key: "tuf/2.root.json", Body: root})...); err != nil {
		t.Fatal(err)
	}
	f.Coordinator, f.Timestamp = newKey, newTime
	f.Repo = f.Open(f.Genesis.Root)
	got, next := accept(t, f, st, f.Direct(r))
	if got.Versions["root"] != 2 || got.Freshness != trust.Fresh || len(got.Directive.Models) != 1 {
		t.Errorf("after rotation: %v, %s, %v", got.Versions, got.Freshness, got.Directive.Models)
	}
	if next.Sequence >= 1<<40 {
		t.Error("the sequence of the stolen key is still in force")
	}
	// And the stolen keys are worth nothing to a member that followed.
	wantRule(t, f, next, g.seal(), trust.RuleTimestamp)
}
