package inventory_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/iam"
	"github.com/modelfleet/modelfleet/coordinator/iam/iamtest"
	"github.com/modelfleet/modelfleet/coordinator/inventory"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/identity"
	"github.com/modelfleet/modelfleet/pkg/signer"
)

// token adds one with the secret "other" and the id "u".
func (h house) token(t *testing.T, tok api.Token) {
	t.Helper()
	tok.ID, tok.Group, tok.Expires = "u", fleet.DefaultGroup, now.Add(time.Hour)
	if tok.Kind == "" {
		tok.Kind = fleet.Device
	}
	kept := store.Token{Token: tok, SecretHash: fleet.DigestOf([]byte("other"))}
	if err := h.store.AddToken(t.Context(), kept, audit.Note{At: now, Action: audit.TokenCreated}); err != nil {
		t.Fatal(err)
	}
}

// join asks by the token u.
func (h house) join(t *testing.T, id string, key *signer.Signer, at time.Time, hardware ...fleet.Digest) (inventory.Enrolled, *api.Pending, error) {
	return h.Enrol(t.Context(), api.EnrolRequest{
		TokenID: "u", Secret: "other", Member: fleet.MemberID(id), Kind: fleet.Device, CSR: request(t, key), Hardware: hardware,
	}, "192.0.2.7:1", at)
}

// However many race for a token, as many get in as it has uses.
func TestATokenLetsInAsManyAsItHasUses(t *testing.T) {
	for _, uses := range []int{1, 5} {
		h := open(t, uses, nil)
		var in atomic.Int32
		var wg sync.WaitGroup
		for i := range 24 {
			key, id := must(signer.Ephemeral())(t), fmt.Sprintf("m%d", i)
			wg.Go(func() {
				_, _, err := h.Enrol(context.Background(), api.EnrolRequest{
					TokenID: "t", Secret: "secret", Member: fleet.MemberID(id), Kind: fleet.Device, CSR: request(t, key),
				}, fmt.Sprintf("192.0.2.%d:1", i), now)
				switch {
				case err == nil:
					in.Add(1)
				case !fault.Is(err, fault.Denied):
					t.Errorf("refused with %v, want Denied", err)
				}
			})
		}
		wg.Wait()
		if got := must(h.store.Token(t.Context(), "t"))(t); int(in.Load()) != uses || got.Used != uses || len(h.Members()) != uses {
			t.Errorf("%d enrolled by a token of %d uses, which counts %d", in.Load(), uses, got.Used)
		}
	}
}

func TestOnlyListedHardwareJoinsAndEachOnce(t *testing.T) {
	h := open(t, 1, nil)
	listed, second := identity.HardwareDigest(fleet.Digest{1}, "serial:4711"), identity.HardwareDigest(fleet.Digest{1}, "uuid:a-b-c")
	h.token(t, api.Token{Uses: 9, Hardware: []fleet.Digest{listed, second}})
	keys := [4]*signer.Signer{}
	for i := range keys {
		keys[i] = must(signer.Ephemeral())(t)
	}
	for _, hardware := range [][]fleet.Digest{nil, {identity.HardwareDigest(fleet.Digest{2}, "serial:4711")}} {
		if _, _, err := h.join(t, "a", keys[0], now, hardware...); !fault.Is(err, fault.Denied) || !strings.Contains(fault.Hint(err), "modelfleet-agent hardware") {
			t.Errorf("hardware %v: %v, want Denied and what to do", hardware, err)
		}
	}
	e, _, err := h.join(t, "a", keys[0], now, fleet.Digest{9}, listed)
	if err != nil || e.Member.Hardware != listed {
		t.Fatalf("the listed machine: %+v, %v", e.Member, err)
	}
	if _, _, err := h.join(t, "a", keys[0], now, listed); err != nil {
		t.Errorf("the same member again: %v", err)
	}
	if _, _, err := h.join(t, "b", keys[1], now, listed); !fault.Is(err, fault.Conflict) {
		t.Errorf("its serial number, under another name: %v, want Conflict", err)
	}
	if err := h.Revoke(t.Context(), "a", "ann", "broken", now); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.join(t, "b", keys[1], now, listed); err != nil {
		t.Errorf("once that one is revoked: %v", err)
	}
	if _, _, err := h.join(t, "c", keys[2], now, slices.Repeat([]fleet.Digest{second}, 99)...); !fault.Is(err, fault.Invalid) {
		t.Errorf("99 digests: %v, want Invalid", err)
	}
}

func TestAMemberWaitsUntilItIsApproved(t *testing.T) {
	h := open(t, 1, nil)
	h.token(t, api.Token{Uses: 2, Approve: true})
	key, other := must(signer.Ephemeral())(t), must(signer.Ephemeral())(t)
	print := must(identity.Fingerprint(key.ECDSA()))(t)
	for range 3 { // it asks again and again
		_, p, err := h.join(t, "a", key, now)
		if err != nil || p == nil || p.Fingerprint != print || p.After <= 0 {
			t.Fatalf("asked: %+v, %v", p, err)
		}
	}
	if _, _, err := h.join(t, "a", other, now); !fault.Is(err, fault.Conflict) {
		t.Errorf("another device under the id that waits: %v, want Conflict", err)
	}
	if got := must(h.store.Token(t.Context(), "u"))(t); got.Used != 1 || len(h.Members()) != 0 {
		t.Errorf("waiting took %d uses and let %d in", got.Used, len(h.Members()))
	}
	h.Inventory = reopen(t, h.store, h.ca) // waiting outlives a restart
	if l := h.Pending(); len(l) != 1 || l[0].Member != "a" || l[0].Fingerprint != print || l[0].State != api.Waiting || l[0].From != "192.0.2.7" {
		t.Fatalf("listed %+v", l)
	}
	answer := func(id string, yes bool, fingerprint string) error {
		return h.Answer(t.Context(), fleet.MemberID(id), "ann", yes, api.ApprovalRequest{Fingerprint: fingerprint, Reason: "seen"}, now)
	}
	if err := answer("a", true, "00000000"); !fault.Is(err, fault.Conflict) {
		t.Errorf("approved by another fingerprint: %v, want Conflict", err)
	}
	if err := answer("nobody", true, ""); !fault.Is(err, fault.NotFound) {
		t.Errorf("nobody: %v, want NotFound", err)
	}
	if err := errors.Join(answer("a", true, print), answer("a", true, print)); err != nil {
		t.Fatal(err)
	}
	late := now.Add(24 * time.Hour) // the token is over, the approval is not
	if e, p, err := h.join(t, "a", key, late); err != nil || p != nil || e.Certificate == nil {
		t.Fatalf("after approval: %+v %+v %v", e, p, err)
	}
	if len(h.Pending()) != 0 || len(h.Members()) != 1 {
		t.Errorf("%d wait, %d are in", len(h.Pending()), len(h.Members()))
	}
	if _, p, err := h.join(t, "a", key, late); err != nil || p != nil { // the answer was lost
		t.Errorf("once more: %+v %v", p, err)
	}
	if _, _, err := h.join(t, "b", other, now); err != nil {
		t.Fatal(err)
	}
	if err := answer("b", false, must(identity.Fingerprint(other.ECDSA()))(t)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.join(t, "b", other, now); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "ann denied it: seen") {
		t.Errorf("after denial: %v, want Denied by whom and why", err)
	}
	if _, p, err := h.join(t, "c", must(signer.Ephemeral())(t), now); err != nil || p == nil { // the real one, perhaps
		t.Errorf("by the use that was denied: %+v, %v", p, err)
	}
	if _, _, err := h.join(t, "d", must(signer.Ephemeral())(t), now); !fault.Is(err, fault.Denied) {
		t.Errorf("a third by a token of two uses: %v, want Denied", err)
	}
	want := []string{
		audit.TokenCreated, audit.TokenCreated, audit.MemberPending, audit.MemberRefused, audit.MemberApproved, audit.MemberEnrolled,
		audit.MemberEnrolled, audit.MemberPending, audit.MemberDenied, audit.MemberRefused, audit.MemberPending,
	}
	if got := h.actions(t); !slices.Equal(got, want) {
		t.Errorf("audited %v\nwant    %v", got, want)
	}
}

// A stranger with a wrong secret fills no log, and after a while nobody listens.
func TestRefusalsAreCountedNotWrittenDownOneByOne(t *testing.T) {
	h := open(t, 1, nil)
	key := must(signer.Ephemeral())(t)
	r := api.EnrolRequest{TokenID: "t", Secret: "guess", Member: "a", Kind: fleet.Device, CSR: request(t, key)}
	kinds := map[fault.Kind]int{}
	for i := range 200 {
		_, _, err := h.Enrol(t.Context(), r, "198.51.100.9:1", now.Add(time.Duration(i)*time.Millisecond))
		kinds[fault.KindOf(err)]++
	}
	if kinds[fault.Denied] != 30 || kinds[fault.Transient] != 170 {
		t.Errorf("answered %v", kinds)
	}
	r.Secret = "secret"
	if _, _, err := h.Enrol(t.Context(), r, "198.51.100.10:1", now); err != nil {
		t.Errorf("another address: %v", err)
	}
	if err := h.Settle(t.Context(), now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := h.actions(t); !slices.Equal(got, []string{audit.TokenCreated, audit.MemberRefused, audit.MemberEnrolled, audit.MemberRefused}) {
		t.Errorf("audited %v", got)
	}
}

// The function signs, STS checks the signature, the token's pattern decides, and the
// proof is worth nothing for another key.
func TestAFunctionJoinsByItsRole(t *testing.T) {
	h := open(t, 1, nil)
	role := iamtest.Credentials{KeyID: "AKIA1", Secret: "s", Session: "x", ARN: "arn:aws:sts::123456789012:assumed-role/scorer/scorer-prod"}
	other := iamtest.Credentials{KeyID: "AKIA2", Secret: "t", ARN: "arn:aws:sts::123456789012:assumed-role/admin/me"}
	sts := iamtest.New(t, role, other)
	h.Inventory = must(inventory.New(t.Context(), inventory.Options{
		Store: h.store, CA: h.ca, Logger: quiet(), Role: iam.Verifier{Audience: "root", Client: sts.Client()}.Role,
	}))(t)
	h.token(t, api.Token{Uses: 9, Kind: fleet.Function, IAM: []string{"arn:aws:sts::123456789012:assumed-role/scorer/*"}})
	key := must(signer.Ephemeral())(t)
	prove := func(c iamtest.Credentials, audience string, key *signer.Signer) *api.SignedRequest {
		r := identity.Credentials{KeyID: c.KeyID, Secret: c.Secret, Session: c.Session, Region: "eu-west-1"}.
			Prove(audience, must(identity.Fingerprint(key.ECDSA()))(t), time.Now())
		return &r
	}
	for name, proof := range map[string]*api.SignedRequest{
		"none":                 nil,
		"of another role":      prove(other, "root", key),
		"for another key":      prove(role, "root", must(signer.Ephemeral())(t)),
		"for another fleet":    prove(role, "elsewhere", key),
		"with a wrong secret":  prove(iamtest.Credentials{KeyID: "AKIA1", Secret: "guess", Session: "x"}, "root", key),
		"of nobody known":      prove(iamtest.Credentials{KeyID: "AKIA9", Secret: "s"}, "root", key),
		"and the right answer": prove(role, "root", key),
	} {
		_, _, err := h.Enrol(t.Context(), api.EnrolRequest{TokenID: "u", Secret: "other", Member: "f", Kind: fleet.Function, CSR: request(t, key), IAM: proof}, "", now)
		if name == "and the right answer" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		} else if !fault.Is(err, fault.Denied) {
			t.Errorf("proof %s: %v, want Denied", name, err)
		}
	}
}

// A stranger who read a listed machine's name off it and was first keeps the machine
// out until a person, who is told once, gives it free.
func TestPeopleAreToldWhoseHardwareIsClaimedTwice(t *testing.T) {
	h := open(t, 1, nil)
	var alarms []string
	h.Inventory = must(inventory.New(t.Context(), inventory.Options{
		Store: h.store, CA: h.ca, Logger: quiet(), Alarm: func(id fleet.MemberID, text string) { alarms = append(alarms, string(id)+": "+text) },
	}))(t)
	listed := fleet.Digest{1}
	h.token(t, api.Token{Uses: 2, Hardware: []fleet.Digest{listed}})
	thief, real := must(signer.Ephemeral())(t), must(signer.Ephemeral())(t)
	if _, _, err := h.join(t, "thief", thief, now, listed); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, _, err := h.join(t, "cam-1", real, now, listed); !fault.Is(err, fault.Conflict) || !strings.Contains(fault.Hint(err), "members revoke thief") {
			t.Fatalf("the machine itself: %v, want Conflict and the command", err)
		}
	}
	if len(alarms) != 1 || !strings.Contains(alarms[0], "members revoke thief") {
		t.Errorf("people are told %q", alarms)
	}
	if err := h.Revoke(t.Context(), "thief", "ann", "not ours", now); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.join(t, "cam-1", real, now, listed); err != nil {
		t.Errorf("once it is free: %v", err)
	}
}
