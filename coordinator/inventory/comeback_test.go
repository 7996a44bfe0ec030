package inventory_test

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/ca"
	"github.com/modelfleet/modelfleet/coordinator/inventory"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/identity"
	"github.com/modelfleet/modelfleet/pkg/signer"
)

// answer is a member's answer to a challenge.
func (h house) answer(t *testing.T, key *signer.Signer, had []byte, generation uint64, at time.Time) api.ComebackRequest {
	t.Helper()
	r := api.ComebackRequest{Member: "a"}
	_, reply, err := h.Comeback(t.Context(), r, "", at)
	if err != nil || len(reply.Challenge) == 0 || reply.Certificate != nil {
		t.Fatalf("asked for a challenge: %+v, %v", reply, err)
	}
	r.Challenge, r.CSR, r.Generation, r.Certificate = reply.Challenge, request(t, key), generation, had
	return sign(t, r, key)
}

func sign(t *testing.T, r api.ComebackRequest, key *signer.Signer) api.ComebackRequest {
	digest := r.Digest()
	r.Signature = must(key.Sign(rand.Reader, digest[:], crypto.SHA256))(t)
	return r
}

func (h house) comeback(t *testing.T, key *signer.Signer, e inventory.Enrolled, at time.Time) (inventory.Enrolled, error) {
	t.Helper()
	out, _, err := h.Comeback(t.Context(), h.answer(t, key, e.Certificate, e.Member.Generation, at), "192.0.2.3:1", at)
	return out, err
}

const month = 30 * 24 * time.Hour

func TestAKnownKeyComesBackAFewTimes(t *testing.T) {
	h := open(t, 1, nil)
	key := must(signer.Ephemeral())(t)
	e := must(h.enrol(t, "a", key, nil))(t)
	if _, err := h.comeback(t, key, e, now); !fault.Is(err, fault.Conflict) {
		t.Errorf("with a good certificate: %v, want Conflict", err)
	}
	at := now
	for n := range inventory.MaxComebacks {
		at = at.Add(month)
		back, err := h.comeback(t, key, e, at)
		if err != nil {
			t.Fatalf("time %d: %v", n, err)
		}
		id, _, err := h.ca.Verify(back.Certificate, at)
		if err != nil || id.Generation != e.Member.Generation+1 {
			t.Fatalf("time %d: certificate of %+v, %v", n, id, err)
		}
		must(h.Check(t.Context(), id, now))(t)
		e = back
	}
	at = at.Add(month)
	if _, err := h.comeback(t, key, e, at); !fault.Is(err, fault.Denied) || !strings.Contains(fault.Hint(err), "members allow-comeback a") {
		t.Fatalf("one more: %v, want Denied and what to do", err)
	}
	if err := h.AllowComeback(t.Context(), "a", "ann", at); err != nil {
		t.Fatal(err)
	}
	if _, err := h.comeback(t, key, e, at); err != nil {
		t.Errorf("once it was allowed: %v", err)
	}
	if got := h.actions(t); got[len(got)-1] != audit.MemberReturned || got[len(got)-2] != audit.MemberAllowed {
		t.Errorf("audited %v", got)
	}
}

func TestAComebackWhoseAnswerWasLostIsRepeated(t *testing.T) {
	h := open(t, 1, nil)
	key := must(signer.Ephemeral())(t)
	e := must(h.enrol(t, "a", key, nil))(t)
	at := now.Add(month)
	for range 5 {
		must(h.comeback(t, key, e, at))(t) // lost
	}
	back := must(h.comeback(t, key, e, at))(t)
	if back.Member.Comebacks != 1 || back.Member.Generation != 2 {
		t.Errorf("counted %d, generation %d", back.Member.Comebacks, back.Member.Generation)
	}
}

func TestAComebackIsRefusedForCause(t *testing.T) {
	h := open(t, 1, nil)
	key, other := must(signer.Ephemeral())(t), must(signer.Ephemeral())(t)
	e := must(h.enrol(t, "a", key, nil))(t)
	at := now.Add(month)
	good := h.answer(t, key, e.Certificate, 1, at)
	stranger := house{reopen(t, h.store, h.ca), h.store, h.ca}.answer(t, key, e.Certificate, 1, at)
	damaged := good
	damaged.Challenge = append([]byte(nil), good.Challenge...)
	damaged.Challenge[3] ^= 1 // a later end
	for name, tc := range map[string]struct {
		r    api.ComebackRequest
		at   time.Time
		kind fault.Kind
	}{
		"an old challenge":           {good, at.Add(2 * time.Minute), fault.Denied},
		"another process's":          {stranger, at, fault.Denied},
		"one that was stretched":     {sign(t, damaged, key), at, fault.Denied},
		"one cut short":              {sign(t, api.ComebackRequest{Member: "a", Challenge: []byte("x"), CSR: good.CSR, Certificate: good.Certificate}, key), at, fault.Denied},
		"another key's signature":    {sign(t, good, other), at, fault.Denied},
		"no signature":               {api.ComebackRequest{Member: "a", Challenge: good.Challenge, CSR: good.CSR, Certificate: good.Certificate}, at, fault.Denied},
		"a request for another key":  {sign(t, api.ComebackRequest{Member: "a", Challenge: good.Challenge, CSR: request(t, other), Certificate: good.Certificate}, key), at, fault.Invalid},
		"a field that is not signed": {api.ComebackRequest{Member: "a", Challenge: good.Challenge, CSR: good.CSR, Generation: 7, Certificate: good.Certificate, Signature: good.Signature}, at, fault.Denied},
		"nobody":                     {api.ComebackRequest{Member: "nobody"}, at, fault.Denied},
	} {
		if out, _, err := h.Comeback(t.Context(), tc.r, "", tc.at); !fault.Is(err, tc.kind) || out.Certificate != nil {
			t.Errorf("%s: %v, want %v", name, err, tc.kind)
		}
	}
	if m, _ := h.Member("a"); m.Comebacks != 0 || m.Locked != "" {
		t.Errorf("a stranger's attempts touched the member: %+v", m)
	}
	if _, _, err := h.Comeback(t.Context(), good, "", at); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Comeback(t.Context(), good, "", at); !fault.Is(err, fault.Denied) {
		t.Errorf("the same answer again: %v, want Denied", err)
	}
	if err := h.Revoke(t.Context(), "a", "ann", "stolen", at); err != nil {
		t.Fatal(err)
	}
	m, _ := h.Member("a")
	if _, err := h.comeback(t, key, inventory.Enrolled{Member: m}, at.Add(month)); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("revoked: %v, want Denied", err)
	}
}

// A copy that was made before a renewal knows the key but not the newest
// certificate: it locks the identity instead of coming back, whatever generation it
// claims. The operator who found it unlocks, for the right one of the two.
func TestACopyThatComesBackLocksTheIdentity(t *testing.T) {
	for _, stale := range []bool{false, true} {
		h := open(t, 1, nil)
		key := must(signer.Ephemeral())(t)
		old := must(h.enrol(t, "a", key, nil))(t)
		id := h.identity(t, old)
		fresh := must(h.Renew(t.Context(), id, api.RenewRequest{CSR: request(t, key), Generation: 1}, now))(t)
		must(h.Check(t.Context(), h.identity(t, fresh), now))(t)
		at := now.Add(month)
		guess := inventory.Enrolled{Certificate: old.Certificate, Member: fresh.Member} // claims the newest generation
		guess.Member.Generation = 1
		if stale { // else it guesses
			guess = old
		}
		if _, err := h.comeback(t, key, guess, at); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "locked") {
			t.Fatalf("the copy came back: %v", err)
		}
		if _, err := h.comeback(t, key, fresh, at); !fault.Is(err, fault.Denied) {
			t.Fatalf("the locked member: %v, want Denied", err)
		}
		unlock := func(r api.UnlockRequest) error { return h.Unlock(t.Context(), "a", "ann", r, at) }
		if err := unlock(api.UnlockRequest{Reason: "found", Certificate: "0123456789"}); !fault.Is(err, fault.Invalid) {
			t.Errorf("a certificate nobody had: %v, want Invalid", err)
		}
		if err := unlock(api.UnlockRequest{}); !fault.Is(err, fault.Invalid) {
			t.Errorf("without a reason: %v, want Invalid", err)
		}
		r := api.UnlockRequest{Reason: "the spare was in use"}
		real, copied := fresh, old
		if stale {
			r.Certificate, real, copied = fleet.DigestOf(old.Certificate).String()[:12], old, fresh // the copy had renewed first
		}
		if err := unlock(r); err != nil {
			t.Fatal(err)
		}
		for _, e := range []inventory.Enrolled{old, fresh} {
			if _, err := h.Check(t.Context(), h.identity(t, e), now); !fault.Is(err, fault.Untrusted) {
				t.Errorf("a certificate from before: %v, want Untrusted", err)
			}
		}
		back, err := h.comeback(t, key, real, at)
		if err != nil {
			t.Fatalf("the real member (stale %v): %v", stale, err)
		}
		now2, _, err := h.ca.Verify(back.Certificate, at)
		if err != nil {
			t.Fatal(err)
		}
		must(h.Check(t.Context(), now2, now))(t)
		if _, err := h.comeback(t, key, copied, at.Add(month)); !fault.Is(err, fault.Denied) {
			t.Errorf("the copy, after all: %v, want Denied", err)
		}
		if m, _ := h.Member("a"); m.Locked == "" {
			t.Error("the copy did not lock it again")
		}
		if err := unlock(api.UnlockRequest{Reason: "x"}); err != nil {
			t.Error(err)
		}
		if err := unlock(api.UnlockRequest{Reason: "x"}); !fault.Is(err, fault.Conflict) {
			t.Errorf("what is not locked: %v, want Conflict", err)
		}
	}
}

// Two holders of one identity that renew in the same moment get a certificate each,
// as one does whose answer was lost: who uses a second one is found out.
func TestACopyInStepIsFoundByItsCertificate(t *testing.T) {
	h := open(t, 1, nil)
	key := must(signer.Ephemeral())(t)
	id := h.identity(t, must(h.enrol(t, "a", key, nil))(t))
	must(h.Check(t.Context(), id, now))(t)
	r := api.RenewRequest{CSR: request(t, key), Generation: 1}
	one, two := h.identity(t, must(h.Renew(t.Context(), id, r, now))(t)), h.identity(t, must(h.Renew(t.Context(), id, r, now))(t))
	if one.Generation != two.Generation {
		t.Fatalf("generations %d and %d", one.Generation, two.Generation)
	}
	for range 2 {
		must(h.Check(t.Context(), one, now))(t) // whichever is first, also if it is not the newest
	}
	if _, err := h.Check(t.Context(), two, now); !fault.Is(err, fault.Denied) {
		t.Errorf("the second: %v, want Denied", err)
	}
	if m, _ := h.Member("a"); !strings.Contains(m.Locked, one.Certificate.Short()) || !strings.Contains(m.Locked, two.Certificate.Short()) {
		t.Errorf("locked: %q", m.Locked)
	}
}

// With the device CA stolen and out of the policy every member comes back by its
// key, and that does not count: nobody but the operator did it.
func TestAStolenDeviceCACostsNoComeback(t *testing.T) {
	h := open(t, 1, nil)
	key := must(signer.Ephemeral())(t)
	e := must(h.enrol(t, "a", key, nil))(t)
	fresh := must(signer.Ephemeral())(t)
	cert := must(identity.SelfSign("plant", fresh, 24*365*time.Hour, now.Add(time.Hour)))(t)
	if err := h.ca.Replace(ca.Authorities{Certificates: []*x509.Certificate{cert}, Keys: []crypto.Signer{fresh}}); err != nil {
		t.Fatal(err)
	}
	back := must(h.comeback(t, key, e, now.Add(2*time.Hour)))(t)
	if _, _, err := h.ca.Verify(back.Certificate, now.Add(2*time.Hour)); err != nil || back.Member.Comebacks != 0 {
		t.Errorf("came back %+v: %v", back.Member, err)
	}
}
