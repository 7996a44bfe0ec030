package inventory_test

import (
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/inventory"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/identity"
	"github.com/modelfleet/modelfleet/pkg/signer"
)

// An operator approves what is shown, not what the device says afterwards.
func TestWhatWasApprovedIsWhatJoins(t *testing.T) {
	h := open(t, 1, nil)
	h.token(t, api.Token{Uses: 2, Approve: true, Labels: fleet.Labels{"region": "eu"}})
	key := must(signer.Ephemeral())(t)
	ask := func(labels fleet.Labels, hardware ...fleet.Digest) (inventory.Enrolled, *api.Pending, error) {
		return h.Enrol(t.Context(), api.EnrolRequest{
			TokenID: "u", Secret: "other", Member: "a", Kind: fleet.Device, CSR: request(t, key), Labels: labels, Hardware: hardware,
		}, "192.0.2.7:1", now)
	}
	if _, p, err := ask(fleet.Labels{"ring": "lab"}, fleet.Digest{1}); err != nil || p == nil {
		t.Fatalf("asked: %+v, %v", p, err)
	}
	print := must(identity.Fingerprint(key.ECDSA()))(t)
	if err := h.Answer(t.Context(), "a", "ann", true, api.ApprovalRequest{Fingerprint: print}, now); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ask(fleet.Labels{"ring": "lab"}, fleet.Digest{2}); !fault.Is(err, fault.Conflict) {
		t.Errorf("as another machine than was approved: %v, want Conflict", err)
	}
	e, _, err := ask(fleet.Labels{"ring": "production", "site": "cork"}, fleet.Digest{1})
	if err != nil {
		t.Fatal(err)
	}
	if got := e.Member.Facts.Labels.String(); got != (fleet.Labels{"ring": "lab", "region": "eu"}).String() {
		t.Errorf("it joined as %s, and was approved as ring=lab", got)
	}
}

// An approval that nobody fetched can be taken back, and its id is free again.
func TestAnApprovalIsTakenBack(t *testing.T) {
	h := open(t, 1, nil)
	h.token(t, api.Token{Uses: 2, Approve: true})
	key := must(signer.Ephemeral())(t)
	waits := func(_ inventory.Enrolled, p *api.Pending, err error) {
		t.Helper()
		if err != nil || p == nil {
			t.Fatalf("asked: %+v, %v", p, err)
		}
	}
	waits(h.join(t, "a", key, now))
	r := api.ApprovalRequest{Fingerprint: must(identity.Fingerprint(key.ECDSA()))(t), Reason: "lost on the way"}
	for _, yes := range []bool{true, false} {
		if err := h.Answer(t.Context(), "a", "ann", yes, r, now); err != nil {
			t.Fatalf("answer %v: %v", yes, err)
		}
	}
	if _, _, err := h.join(t, "a", key, now); !fault.Is(err, fault.Denied) {
		t.Errorf("after that: %v, want Denied", err)
	}
	if err := h.Answer(t.Context(), "a", "ann", true, r, now); !fault.Is(err, fault.Conflict) {
		t.Errorf("approved what was denied: %v, want Conflict", err)
	}
	waits(h.join(t, "a", must(signer.Ephemeral())(t), now)) // another device takes the id
}

// What is unlocked comes back by its key, with the certificate that the operator
// named. A join token that the copy found on the disk is no way around that.
func TestATokenDoesNotGetACopyPastAnUnlock(t *testing.T) {
	h := open(t, 9, nil)
	key := must(signer.Ephemeral())(t)
	old := must(h.enrol(t, "a", key, nil))(t)
	id := h.identity(t, old)
	must(h.Check(t.Context(), id, now))(t)
	fresh := must(h.Renew(t.Context(), id, api.RenewRequest{CSR: request(t, key), Generation: 1}, now))(t)
	must(h.Check(t.Context(), h.identity(t, fresh), now))(t)
	if _, err := h.Renew(t.Context(), id, api.RenewRequest{CSR: request(t, key), Generation: 1}, now); !fault.Is(err, fault.Denied) {
		t.Fatalf("the copy: %v, want Denied", err)
	}
	if err := h.Unlock(t.Context(), "a", "ann", api.UnlockRequest{Reason: "wiped"}, now); err != nil {
		t.Fatal(err)
	}
	if _, err := h.enrol(t, "a", key, nil); !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "unlocked") {
		t.Errorf("the copy enrols: %v, want Conflict", err)
	}
	must(h.comeback(t, key, fresh, now))(t)
}

// A token that is over gives no certificates, also to who joined by it once.
func TestATokenThatIsOverServesNobodyAgain(t *testing.T) {
	h := open(t, 1, nil)
	h.token(t, api.Token{Uses: 1})
	key := must(signer.Ephemeral())(t)
	for range 2 { // the first answer was lost
		if _, _, err := h.join(t, "a", key, now); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := h.join(t, "a", key, now.Add(25*time.Hour)); !fault.Is(err, fault.Denied) {
		t.Errorf("after its end: %v, want Denied", err)
	}
}

// Certificates that are never shown to the coordinator, only to neighbours, count
// too: else a stolen key would be good for ever.
func TestAComebackThatIsNeverUsedCounts(t *testing.T) {
	h := open(t, 1, nil)
	key := must(signer.Ephemeral())(t)
	e := must(h.enrol(t, "a", key, nil))(t)
	must(h.Check(t.Context(), h.identity(t, e), now))(t)
	at, n := now, 0
	for range 10 {
		at = at.Add(month)
		if _, err := h.comeback(t, key, e, at); err == nil {
			n++
		}
	}
	if n != inventory.MaxComebacks {
		t.Errorf("it came back %d times, at most %d are allowed", n, inventory.MaxComebacks)
	}
}

// A member that was taken over cannot fill the audit log, in which each certificate
// is an entry for good.
func TestAMemberDoesNotFillTheAuditLog(t *testing.T) {
	h := open(t, 1, nil)
	key := must(signer.Ephemeral())(t)
	id := h.identity(t, must(h.enrol(t, "a", key, nil))(t))
	csr, in := request(t, key), 0
	for range 200 {
		e, err := h.Renew(t.Context(), id, api.RenewRequest{CSR: csr, Generation: id.Generation}, now)
		if err != nil {
			if !fault.Is(err, fault.Transient) {
				t.Fatal(err)
			}
			continue
		}
		id = h.identity(t, e)
		must(h.Check(t.Context(), id, now))(t)
		in++
	}
	if in > 30 {
		t.Errorf("it renewed %d times in a moment", in)
	}
	if _, err := h.Renew(t.Context(), id, api.RenewRequest{CSR: csr, Generation: id.Generation}, now.Add(4*24*time.Hour)); err != nil {
		t.Errorf("when it is time: %v", err)
	}
}
