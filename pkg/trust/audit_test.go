package trust_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

// reproof puts another audit proof into a pack: anyone who carries it can.
func reproof(t *testing.T, pack []byte, edit func(*ledger.Proof)) []byte {
	t.Helper()
	p, err := trust.DecodePack(pack)
	if err != nil {
		t.Fatal(err)
	}
	proof, err := ledger.ParseProof(p.Audit)
	if err != nil {
		t.Fatal(err)
	}
	edit(&proof)
	if p.Audit, err = json.Marshal(proof); err != nil {
		t.Fatal(err)
	}
	return encode(t, p)
}

func audited(t testing.TB) *trusttest.Fleet {
	t.Helper()
	f := trusttest.NewAudited(t)
	f.Audit.Add(20, "t1")
	return f
}

func direct(f *trusttest.Fleet) []byte {
	f.Now = f.Now.Add(time.Minute)
	return f.Sign(fleet.Directive{Group: fleet.DefaultGroup, Issued: f.Now, Models: []fleet.Placement{}})
}

func TestADirectiveIsValidOnlyWithItsProof(t *testing.T) {
	t.Parallel()
	f := audited(t)
	pack := direct(f)
	got, st := accept(t, f, f.State(), pack)
	if got.Log.Checkpoint.Size != 21 || got.Log.Index != 20 || st.Audit.Head.Size != 21 || st.Audit.Key != f.Audit.Key+"\n" {
		t.Errorf("proved %+v, remembers %+v", got.Log, st.Audit)
	}
	other := f.Audit.Fork()
	other.Add(1, "t2")
	stranger := trusttest.NewLog(t, "test")
	stranger.Add(21, "t1")
	for name, edit := range map[string]func(*ledger.Proof){
		"another leaf": func(p *ledger.Proof) {
			p.Leaf = json.RawMessage(`{"at":"2026-01-01T00:00:00Z","actor":"a","action":"b"}`)
		},
		"another index":     func(p *ledger.Proof) { p.Index-- },
		"past the end":      func(p *ledger.Proof) { p.Index = 99 },
		"a broken path":     func(p *ledger.Proof) { p.Path[0][3] ^= 1 },
		"no path":           func(p *ledger.Proof) { p.Path = nil },
		"another size":      func(p *ledger.Proof) { p.Checkpoint = other.Checkpoint() },
		"a stranger's key":  func(p *ledger.Proof) { p.Checkpoint = stranger.Checkpoint() },
		"no checkpoint":     func(p *ledger.Proof) { p.Checkpoint = "" },
		"another directive": func(p *ledger.Proof) { *p = other.Prove(fleet.DefaultGroup, 1, fleet.Digest{1}, f.Now) },
		"another group":     func(p *ledger.Proof) { *p = other.Prove("lab", 1, got.Digest, f.Now) },
		"another sequence":  func(p *ledger.Proof) { *p = other.Prove(fleet.DefaultGroup, 2, got.Digest, f.Now) },
	} {
		t.Run(name, func(t *testing.T) { wantRule(t, f, f.State(), reproof(t, pack, edit), trust.RuleAudit) })
	}
	p, err := trust.DecodePack(pack)
	if err != nil {
		t.Fatal(err)
	}
	p.Audit = nil
	wantRule(t, f, f.State(), encode(t, p), trust.RuleAudit)
	p.Audit = json.RawMessage(`{"checkpoint":1}`)
	wantRule(t, f, f.State(), encode(t, p), trust.RuleFormat)
}

func TestWithoutAKeyNoProofIsAsked(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	got, st := accept(t, f, f.State(), direct(f))
	if got.Log.Note != "" || st.Audit.Key != "" {
		t.Errorf("proved %+v, remembers %+v", got.Log, st.Audit)
	}
}

// The log grows with each pack: who takes every pack has each proven, who missed
// some keeps what is not proven in mind.
func TestHeadsFollowEachOther(t *testing.T) {
	t.Parallel()
	f := audited(t)
	_, st := accept(t, f, f.State(), direct(f))
	first := st
	for i := range 6 {
		f.Audit.Add(i, "t2")
		got, next := accept(t, f, st, direct(f))
		if got.Log.Unproven != 0 || len(next.Audit.Open) != 0 || len(next.Audit.Past) != min(i+1, 4) {
			t.Fatalf("pack %d: unproven %d, %+v", i, got.Log.Unproven, next.Audit)
		}
		st = next
	}
	newest := direct(f)
	got, late := accept(t, f, first, newest)
	if got.Log.Unproven != 1 || len(late.Audit.Open) != 1 || late.Audit.Open[0] != first.Audit.Head {
		t.Fatalf("after packs were missed: %+v", late.Audit)
	}
	open := late.Audit.Open[0]
	if proven, err := late.Audit.Prove(open, open.Root, f.Audit.Consistency(open.Size)); err != nil || len(proven.Open) != 0 || proven.Split != nil || proven.Past[0] != open {
		t.Errorf("a good proof: %+v, %v", proven, err)
	}
	wantRule(t, f, first, reproof(t, newest, func(p *ledger.Proof) {
		p.Since = append(p.Since, ledger.Since{Size: first.Audit.Head.Size, Path: p.Path})
	}), trust.RuleAudit)
	if b, err := late.Encode(); err != nil {
		t.Error(err)
	} else if back, err := trust.DecodeState(b); err != nil || !back.Equal(late) {
		t.Errorf("the state does not outlive the disk: %v", err)
	}
}

// The keys of log and coordinator are stolen, and a member is shown another
// history: of the same size, of a smaller one, and then for good.
func TestSplitViewsAreSeenAndHeld(t *testing.T) {
	t.Parallel()
	f := audited(t)
	_, st := accept(t, f, f.State(), direct(f))
	honest := f.Audit
	f.Audit = honest.Fork()
	f.Audit.Add(2, "t3")
	honest.Add(2, "t4")
	fork := f.Audit.Fork()

	forged := direct(f)
	f.Audit = honest
	_, theirs := accept(t, f, st, forged)
	_, _, err := trust.Verify(direct(f), theirs, f.Member(), f.Now)
	view, ok := errors.AsType[*trust.SplitView](err)
	if !ok || trust.RuleOf(err) != trust.RuleAudit || view.Mine == view.Theirs {
		t.Fatalf("another log of one size: %v", err)
	}
	held := theirs
	held.Audit = theirs.Audit.Refused(err)
	if held.Equal(theirs) || held.Audit.Split == nil {
		t.Fatal("the split view is not remembered")
	}
	wantRule(t, f, held, direct(f), trust.RuleAudit)

	f.Audit = fork // fewer entries than were seen
	smaller := trusttest.NewLog(t, "test")
	*smaller = *fork.Fork()
	wantRule(t, f, st, reproof(t, direct(f), func(p *ledger.Proof) { p.Checkpoint = smaller.Checkpoint() }), trust.RuleAudit)

	// The keepers of the policy list another key: members begin anew.
	f.Audit = trusttest.NewLog(t, "test")
	writes, err := repository.NextPolicy(f.Bucket.Newest(t, "targets"), repository.PolicyChange{AuditKey: f.Audit.Key}, f.Now, repository.Lifetimes{}, f.Root)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Bucket.Put(writes...); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Repo.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, after := accept(t, f, held, direct(f)); after.Audit.Split != nil || after.Audit.Head.Size != 1 {
		t.Errorf("after the rotation: %+v", after.Audit)
	}
}

// What neighbours were shown is compared with what this member was.
func TestNeighboursCheckpointsAreCompared(t *testing.T) {
	t.Parallel()
	f := audited(t)
	_, st := accept(t, f, f.State(), direct(f))
	fork := f.Audit.Fork()
	older := f.Audit.Checkpoint()
	_, st = accept(t, f, st, direct(f))
	fork.Add(1, "t5")
	longer := f.Audit.Fork()
	longer.Add(3, "t6")
	for name, c := range map[string]struct {
		note        string
		split       bool
		open        int
		wantRefused bool
	}{
		"the same":          {st.Audit.Head.Note, false, 0, false},
		"an older one":      {older, false, 0, false},
		"another history":   {fork.Checkpoint(), true, 0, false},
		"a longer one":      {longer.Checkpoint(), false, 1, false},
		"a stranger's":      {trusttest.NewLog(t, "test").Checkpoint(), false, 0, true},
		"nothing of a note": {"x", false, 0, true},
	} {
		got, err := st.Audit.Witness(c.note)
		if (got.Split != nil) != c.split || len(got.Open) != c.open || fault.Is(err, fault.Untrusted) != c.wantRefused {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	got, err := st.Audit.Witness(longer.Checkpoint())
	if err != nil {
		t.Fatal(err)
	}
	if proven, err := got.Prove(got.Open[0], st.Audit.Head.Root, longer.Consistency(st.Audit.Head.Size)); err != nil || proven.Split != nil || len(proven.Open) != 0 || proven.Head != st.Audit.Head {
		t.Errorf("a neighbour that is ahead: %+v", proven)
	}
}

// Whoever answers as the coordinator may give a wrong path. That is no evidence:
// only a path that proves another history for a signed checkpoint is.
func TestAWrongPathIsNoSplitView(t *testing.T) {
	t.Parallel()
	for _, entries := range []int{20, 31} { // with the directive 21, and 32: a whole subtree, whose root no path holds
		f := trusttest.NewAudited(t)
		f.Audit.Add(entries, "t1")
		_, st := accept(t, f, f.State(), direct(f))
		honest := f.Audit.Fork()
		fork := f.Audit.Fork()
		honest.Add(4, "t2")
		fork.Add(9, "t3")

		// The neighbour was shown a log that goes on from ours.
		got, err := st.Audit.Witness(honest.Checkpoint())
		if err != nil || len(got.Open) != 1 {
			t.Fatalf("%+v, %v", got, err)
		}
		size, root := st.Audit.Head.Size, st.Audit.Head.Root
		good := honest.Consistency(size)
		broken := append([]tlog.Hash{{1}}, good[1:]...)
		for name, c := range map[string]struct {
			root tlog.Hash
			path []tlog.Hash
		}{
			"none":               {root, nil},
			"a broken one":       {root, broken},
			"of another size":    {root, honest.Consistency(size - 1)},
			"of another log":     {root, fork.Consistency(size)},
			"with another root":  {tlog.Hash{2}, broken},
			"good, with no root": {tlog.Hash{}, broken},
		} {
			if after, err := got.Prove(got.Open[0], c.root, c.path); trust.RuleOf(err) != trust.RuleAudit || !after.Equal(got) {
				t.Errorf("after %d entries, path %s: %+v, %v", entries, name, after, err)
			}
		}

		// The neighbour was shown another history.
		theirs := trusttest.NewLog(t, "test")
		*theirs = *f.Audit.Fork()
		theirs.Rewrite(0, "t4")
		of := theirs.Root()
		theirs.Add(5, "t5")
		if got, err = st.Audit.Witness(theirs.Checkpoint()); err != nil || len(got.Open) != 1 {
			t.Fatalf("%+v, %v", got, err)
		}
		after, err := got.Prove(got.Open[0], of, theirs.Consistency(size))
		if err != nil || after.Split == nil {
			t.Fatalf("after %d entries, two histories: %+v, %v", entries, after, err)
		}
		c := ledger.Checkpoint{Size: got.Open[0].Size, Root: got.Open[0].Root}
		if s := after.Split; s.Older == root || ledger.Consistent(ledger.Checkpoint{Size: size, Root: s.Older}, c, s.Path) != nil {
			t.Errorf("the evidence proves nothing: %+v", s)
		}
	}
}
