package ceremony_test

import (
	"bytes"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/coordinator/cli/ceremony"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

// Two of three custodians on machines of their own begin a fleet.
func TestTwoOfThreeBeginAFleet(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	c := p.travel(p.begin())
	says(t, words(c), "root 1", "root itself: 2 of ana (", "the policy: 2 of ana", "the coordinator's snapshots: 1 of ", "policy 1", "releases of team vision: 1 of ", "trust/device-ca.pem: 1 certificate:")
	_, err := c.Writes()
	refused(t, err, trust.RuleRoot, "root: 2 more of ana", "policy: 2 more of ana", "x.json")
	c = p.sign(c, p.cy)
	_, err = c.Writes()
	refused(t, err, trust.RuleRoot, "1 more of ana", "ben")
	if again := p.sign(c, p.cy); again.Complete() == nil {
		t.Error("one key that signs twice counts twice")
	}
	_, err = c.Sign(trusttest.Key(t))
	refused(t, err, trust.RuleRoot, "none of those that must sign", "ana", "cy")
	c = p.sign(c, p.ana)
	p.publish(c)
	repo := p.open(c.Next.Root)
	if repo.Fleet() != "orchard" || repo.DeviceCA() == nil {
		t.Errorf("fleet %q", repo.Fleet())
	}
}

// Copies that were signed at the same time are put together; a signature that was
// broken on its way is replaced by the good one.
func TestCopiesSignedApart(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	c := p.begin()
	a, b := p.sign(c, p.ana), p.sign(c, p.ben)
	if err := a.Merge("b.json", b); err != nil {
		t.Fatal(err)
	}
	if err := p.travel(a).Complete(); err != nil {
		t.Error(err)
	}
	raw, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(raw, []byte(`"sig":"`)) + 20
	raw[i] = map[bool]byte{true: '1', false: '0'}[raw[i] == '0']
	broken, err := ceremony.Parse("broken.json", raw)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, broken.Sound(), trust.RuleRoot, "broken.json", "the signature of ben", "does not fit the root")
	if err := b.Sound(); err != nil {
		t.Error(err)
	}
	d := p.sign(c, p.cy)
	if err := d.Merge("broken.json", broken); err != nil {
		t.Fatal(err)
	}
	if err := d.Complete(); err == nil {
		t.Error("a broken signature counts")
	}
	if err := broken.Merge("d.json", b); err != nil {
		t.Fatal(err)
	}
	if err := d.Merge("whole.json", broken); err != nil || d.Complete() != nil {
		t.Errorf("%v, %v", err, d.Complete())
	}
	refused(t, c.Merge("theirs.json", newPeople(t).begin()), trust.RuleRoot, "theirs.json")
}

// Whatever byte changes on the way, nothing that was not asked for gets signed and
// published: either the file is refused, or the signatures do not fit, or nothing
// that matters changed.
func TestAChangedByteOnTheWay(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	before := p.fleet()
	c := p.sign(p.change(before, ceremony.Change{Verb: ceremony.Rotate, Role: "coordinator", New: new1("", trusttest.Key(t))}), p.ana)
	good, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(r *rapid.T) {
		raw := bytes.Clone(good)
		i := rapid.IntRange(0, len(raw)-1).Draw(r, "at")
		raw[i] ^= byte(rapid.IntRange(1, 255).Draw(r, "by"))
		got, err := ceremony.Parse("x.json", raw)
		if err != nil {
			if fault.Hint(err) == "" || !fault.Is(err, fault.Untrusted) {
				r.Fatalf("%v", err)
			}
			return
		}
		// ben believes what he reads and signs: ana's signature is not under it,
		// unless it says the same.
		if _, err := got.Sign(p.ben); err != nil {
			return
		}
		if _, err := got.Writes(); err == nil && got.Words() != c.Words() {
			r.Fatalf("what ana never saw would be published: %s", words(got))
		}
	})
}

// Every change of keys that the commands know works out on a copy of the fleet,
// says what it changes, and asks for no more signatures than it needs.
func TestEveryChangeIsRehearsed(t *testing.T) {
	t.Parallel()
	key := func() *signer.Signer { return trusttest.Key(t) }
	for name, c := range map[string]struct {
		change ceremony.Change
		says   []string
	}{
		"a custodian replaced": {ceremony.Change{Verb: ceremony.Rotate, Role: "root", Old: "cy", New: new1("dee", key())}, []string{"root 2", "root itself: 2 of ana", "cy (", "goes; dee (", "policy 2"}},
		"a custodian more":     {ceremony.Change{Verb: ceremony.Add, Role: "root", New: new1("dee", key()), Threshold: 3}, []string{"3 of ana", "3 must sign, it was 2", "the policy: 3 of"}},
		"a custodian less":     {ceremony.Change{Verb: ceremony.Remove, Role: "root", Old: "ben"}, []string{"ben (", "goes"}},
		"a threshold":          {ceremony.Change{Verb: ceremony.Rotate, Role: "root", Threshold: 3}, []string{"3 must sign"}},
		"policy apart":         {ceremony.Change{Verb: ceremony.Add, Role: "policy", New: new1("dee", key())}, []string{"the policy: 2 of ana", "dee (", "comes"}},
		"the coordinator":      {ceremony.Change{Verb: ceremony.Rotate, Role: "coordinator", New: new1("", key())}, []string{"the coordinator's snapshots", "the coordinator's directives", "comes"}},
		"the timestamp":        {ceremony.Change{Verb: ceremony.Rotate, Role: "timestamp", New: new1("", key())}, []string{"the timestamp"}},
		"a heartbeat":          {ceremony.Change{Verb: ceremony.Add, Role: "timestamp", New: new1("heartbeat", key())}, []string{"heartbeat (", "comes"}},
		"a team's key":         {ceremony.Change{Verb: ceremony.Rotate, Role: "pub-vision", New: new1("vic", key())}, []string{"releases of team vision: 1 of vic"}},
		"an approver":          {ceremony.Change{Verb: ceremony.Add, Role: "pub-vision", New: new1("vic", key()), Threshold: 2}, []string{"2 must sign, it was 1"}},
		"a team":               {ceremony.Change{Verb: ceremony.Add, Role: "pub-audio", New: new1("al", key())}, []string{"releases of team audio: 1 of al", "new"}},
		"a team less":          {ceremony.Change{Verb: ceremony.Remove, Role: "pub-vision"}, []string{"releases of team vision: nobody any more", "gone"}},
		"renewed":              {ceremony.Change{Verb: ceremony.Renew}, []string{"root 2", "policy 2"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPeople(t)
			before := p.fleet()
			plan, err := before.Plan(c.change)
			if err != nil {
				t.Fatal(err)
			}
			_, targets := p.open(before.Root).Policy()
			seen, err := ceremony.Rehearse(t.Context(), before, targets, plan, trusttest.Start())
			if err != nil || len(seen) != 3 {
				t.Fatalf("%v, %v", seen, err)
			}
			made, err := before.Make(plan, trusttest.Start(), repository.Lifetimes{})
			if err != nil {
				t.Fatal(err)
			}
			says(t, words(made), c.says...)
		})
	}
}

// A fleet whose root and policy were changed before is rehearsed on like a new one.
func TestALaterChangeIsRehearsed(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	first := p.fleet()
	before := first
	for v := 2; v <= 3; v++ {
		c := p.sign(p.change(before, ceremony.Change{Verb: ceremony.Renew}), p.ana, p.ben)
		p.publish(c)
		before = c.Next
	}
	_, targets := p.open(first.Root).Policy()
	for _, ch := range []ceremony.Change{
		{Verb: ceremony.Renew}, {Verb: ceremony.Renew, Role: "policy"},
		{Verb: ceremony.Rotate, Role: "root", Old: "cy", New: new1("dee", trusttest.Key(t))},
		{Verb: ceremony.Add, Role: "pub-audio", New: new1("al", trusttest.Key(t))},
		{Verb: ceremony.Remove, Role: "pub-vision"},
	} {
		plan, err := before.Plan(ch)
		if err != nil {
			t.Fatal(err)
		}
		seen, err := ceremony.Rehearse(t.Context(), before, targets, plan, trusttest.Start())
		if err != nil || len(seen) != 3 || !strings.Contains(seen[0], "policy-4") {
			t.Errorf("%v: %v, %v", ch, seen, err)
		}
	}
	// Of one that could not begin nothing is said about the change.
	broken := ceremony.Metadata{Root: before.Root, Policy: []byte("{}")}
	_, err := ceremony.Rehearse(t.Context(), broken, targets, ceremony.Plan{}, trusttest.Start())
	if err == nil || strings.Contains(fault.Hint(err), "would have happened") {
		t.Errorf("a rehearsal on nothing: %v, hint %q", err, fault.Hint(err))
	}
}

// What cannot be is refused with the role, its keys and the next move.
func TestPlanRefuses(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	before := p.fleet()
	some := new1("x", trusttest.Key(t))
	for name, c := range map[string]struct {
		change ceremony.Change
		kind   fault.Kind
		says   string
	}{
		"no such role":         {ceremony.Change{Verb: ceremony.Rotate, Role: "rot", New: some}, fault.Invalid, "no such role"},
		"no such holder":       {ceremony.Change{Verb: ceremony.Rotate, Role: "root", Old: "eve", New: some}, fault.NotFound, "ana ("},
		"which of three":       {ceremony.Change{Verb: ceremony.Rotate, Role: "root", New: some}, fault.NotFound, "ana ("},
		"a key twice":          {ceremony.Change{Verb: ceremony.Add, Role: "root", New: new1("ana again", p.ana)}, fault.Conflict, "already"},
		"no such team":         {ceremony.Change{Verb: ceremony.Rotate, Role: "pub-audio", New: some}, fault.NotFound, "no such team"},
		"a second coordinator": {ceremony.Change{Verb: ceremony.Add, Role: "coordinator", New: some}, fault.Invalid, "one key"},
		"nothing to add":       {ceremony.Change{Verb: ceremony.Add, Role: "root"}, fault.Invalid, "no new key"},
		"a role to renew":      {ceremony.Change{Verb: ceremony.Renew, Role: "pub-vision"}, fault.Invalid, "only root and policy"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := before.Plan(c.change)
			if !fault.Is(err, c.kind) || fault.Hint(err) == "" || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v (hint %q) of kind %v", err, fault.Hint(err), fault.KindOf(err))
			}
		})
	}
	for name, change := range map[string]ceremony.Change{
		"too few left":       {Verb: ceremony.Rotate, Role: "root", Threshold: 4},
		"a threshold of two": {Verb: ceremony.Rotate, Role: "pub-vision", Threshold: 2},
	} {
		plan, err := before.Plan(change)
		if err == nil {
			_, err = before.Make(plan, trusttest.Start(), repository.Lifetimes{})
		}
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "threshold of") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A root signed by the new keys alone is nobody's: the old ones must agree.
func TestARootSignedOnlyByNewKeys(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	before := p.fleet()
	heirs := []*signer.Signer{trusttest.Key(t), trusttest.Key(t)}
	plan := ceremony.Plan{Root: &repository.RootChange{Root: keys(heirs), Policy: keys(heirs)}, Policy: &repository.PolicyChange{}}
	c, err := before.Make(plan, trusttest.Start(), repository.Lifetimes{})
	if err != nil {
		t.Fatal(err)
	}
	c = p.sign(c, heirs...)
	_, err = c.Writes()
	refused(t, err, trust.RuleRoot, "root: 2 more of ana")
	if strings.Contains(err.Error(), "policy:") {
		t.Errorf("the policy is whole: %v", err)
	}
	p.publish(p.sign(c, p.ben, p.cy))
	if v := p.open(before.Root).Versions(); v["root"] != 2 || v["targets"] != 2 {
		t.Errorf("versions %v", v)
	}
}

// Whoever reads the bucket between two of the writes sees a whole repository.
func TestEveryPrefixOfTheWritesIsWhole(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	before := p.fleet()
	c := p.sign(p.change(before, ceremony.Change{Verb: ceremony.Rotate, Role: "root", Old: "cy", New: new1("dee", p.second)}), p.ana, p.ben)
	if c.Complete() != nil { // ana and ben are old and new keys
		c = p.sign(c, p.second)
	}
	writes, err := c.Writes()
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range writes {
		p.open(before.Root)
		p.bucket[w.Key] = w.Body
	}
	if v := p.open(before.Root).Versions(); v["root"] != 2 || v["targets"] != 2 {
		t.Errorf("versions %v", v)
	}
}

// Any set of signers completes a ceremony exactly when each threshold is reached.
func TestCompleteWhenTheThresholdsAre(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	before := p.fleet()
	made := p.change(before, ceremony.Change{Verb: ceremony.Rotate, Role: "root", Old: "cy", New: new1("dee", p.second)})
	all := []*signer.Signer{p.ana, p.ben, p.cy, p.second}
	rapid.Check(t, func(r *rapid.T) {
		who := rapid.SliceOfDistinct(rapid.IntRange(0, 3), func(i int) int { return i }).Draw(r, "who")
		c := *made
		old, fresh := 0, 0
		for _, i := range who {
			if _, err := c.Sign(all[i]); err != nil {
				r.Fatal(err)
			}
			old += map[bool]int{true: 1}[i != 3]
			fresh += map[bool]int{true: 1}[i != 2]
		}
		if done := c.Complete() == nil; done != (old >= 2 && fresh >= 2) {
			r.Fatalf("complete: %v with %d old keys and %d new ones", done, old, fresh)
		}
	})
}

func FuzzParse(f *testing.F) {
	p := newPeople(f)
	raw, err := p.begin().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"schema":1,"next":{}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := ceremony.Parse("x", raw)
		if err != nil {
			return
		}
		c.Describe()
		c.Parties()
		_ = c.Complete()
		again, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if d, err := ceremony.Parse("x", again); err != nil || d.Words() != c.Words() {
			t.Fatalf("read back: %v", err)
		}
	})
}

// A key that goes by another key's id would be taken for it by whoever reads the
// words: the file is refused.
func TestAKeyUnderAnothersName(t *testing.T) {
	t.Parallel()
	p := newPeople(t)
	before := p.fleet()
	c := p.change(before, ceremony.Change{Verb: ceremony.Renew})
	raw, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	pub := func(s *signer.Signer) string {
		text, err := signer.EncodePublic(s.ECDSA())
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(text), "\n", `\n`)
	}
	i := bytes.Index(raw, []byte(`"next"`))
	swapped := strings.Replace(string(raw[i:]), pub(p.ana), pub(trusttest.Key(t)), 1)
	if swapped == string(raw[i:]) {
		t.Fatal("ana's key was not found")
	}
	_, err = ceremony.Parse("x.json", append(bytes.Clone(raw[:i]), swapped...))
	refused(t, err, trust.RuleFormat, "is another key")
}
