package storetest

import (
	"crypto/sha256"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

func pending(id, key, token string) store.Pending {
	pub := []byte("public key of " + key)
	sum := sha256.Sum256(pub)
	return store.Pending{
		PendingMember: api.PendingMember{Member: fleet.MemberID(id), Fingerprint: key, Kind: fleet.Device, Group: fleet.DefaultGroup, Token: token, Since: now.Truncate(time.Second), State: api.Waiting},
		PublicKey:     pub, KeyID: telemetry.KeyID(sum[:8]),
	}
}

// Waiting takes a use of the token; joining once it is approved takes no other, also
// when the token is over by then.
func waitingTakesTheUse(t *testing.T, s store.Store) {
	ok(t, s.AddToken(t.Context(), token("t1", 2), note(audit.TokenCreated, "t1")))
	add := func(p store.Pending, at time.Time) error {
		return s.AddPending(t.Context(), p, at, note(audit.MemberPending, string(p.Member)))
	}
	p := pending("a", "a", "t1")
	ok(t, add(p, now))
	wantKind(t, add(pending("a", "other", "t1"), now), fault.Conflict)
	wantKind(t, add(pending("b", "b", "t1"), now.Add(2*time.Hour)), fault.Denied) // expired
	if got := must(s.Token(t.Context(), "t1"))(t); got.Used != 1 {
		t.Errorf("token used %d times, want once", got.Used)
	}
	p.State, p.By = api.Refused, "ann"
	for range 2 { // a denial gives it back, once
		ok(t, s.SavePending(t.Context(), p, note(audit.MemberDenied, "a")))
		if got := must(s.Token(t.Context(), "t1"))(t); got.Used != 0 {
			t.Errorf("token used %d times after the denial", got.Used)
		}
	}
	again := pending("a", "a", "t1")
	ok(t, add(again, now)) // it may ask again, which takes a use again
	wantKind(t, s.SavePending(t.Context(), pending("a", "other", "t1"), note(audit.MemberApproved, "a")), fault.NotFound)
	again.State = api.Approved
	ok(t, s.SavePending(t.Context(), again, note(audit.MemberApproved, "a")))
	late := now.Add(48 * time.Hour)
	ok(t, s.Enrol(t.Context(), member("a", "t1"), late, note(audit.MemberEnrolled, "a")))
	if got := must(s.Pending(t.Context()))(t); len(got) != 0 {
		t.Errorf("still waiting: %+v", got)
	}
	ok(t, s.Enrol(t.Context(), member("c", "t1"), now, note(audit.MemberEnrolled, "c")))
	wantKind(t, s.Enrol(t.Context(), member("d", "t1"), now, note(audit.MemberEnrolled, "d")), fault.Denied)
}
