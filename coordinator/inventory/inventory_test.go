package inventory_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/coordinator/ca"
	"github.com/modelfleet/modelfleet/coordinator/inventory"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/coordinator/store/sqlite"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/identity"
	"github.com/modelfleet/modelfleet/pkg/signer"
)

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

type house struct {
	*inventory.Inventory
	store *sqlite.Store
	ca    *ca.CA
}

func open(t *testing.T, uses int, labels fleet.Labels) house {
	s := must(sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "x.db")))(t)
	t.Cleanup(func() { s.Close() })
	key := must(signer.Ephemeral())(t)
	cert := must(identity.SelfSign("plant", key, 24*365*time.Hour, now))(t)
	c := must(ca.New("plant", ca.Authorities{Certificates: []*x509.Certificate{cert}, Keys: []crypto.Signer{key}}))(t)
	tok := store.Token{Token: api.Token{ID: "t", Group: fleet.DefaultGroup, Kind: fleet.Device, Labels: labels, Uses: uses, Expires: now.Add(time.Hour)}, SecretHash: fleet.DigestOf([]byte("secret"))}
	if err := s.AddToken(t.Context(), tok, audit.Note{At: now, Action: audit.TokenCreated}); err != nil {
		t.Fatal(err)
	}
	return house{reopen(t, s, c), s, c}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func reopen(t *testing.T, s *sqlite.Store, c *ca.CA) *inventory.Inventory {
	return must(inventory.New(t.Context(), inventory.Options{Store: s, CA: c, Logger: quiet()}))(t)
}

func request(t *testing.T, key *signer.Signer) []byte {
	return must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key))(t)
}

func (h house) enrol(t *testing.T, id string, key *signer.Signer, labels fleet.Labels) (inventory.Enrolled, error) {
	e, _, err := h.Enrol(t.Context(), api.EnrolRequest{TokenID: "t", Secret: "secret", Member: fleet.MemberID(id), Kind: fleet.Device, Labels: labels, CSR: request(t, key)}, "192.0.2.1:99", now)
	return e, err
}

func (h house) identity(t *testing.T, e inventory.Enrolled) ca.Identity {
	id, _, err := h.ca.Verify(e.Certificate, now)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// actions are those in the audit log, oldest first.
func (h house) actions(t *testing.T) (out []string) {
	for _, e := range must(h.store.AuditTail(t.Context(), 100))(t) {
		out = append(out, e.Action)
	}
	return out
}

func TestTheTokensLabelsWin(t *testing.T) {
	h := open(t, 1, fleet.Labels{"ring": "lab"})
	e := must(h.enrol(t, "a", must(signer.Ephemeral())(t), fleet.Labels{"ring": "production", "site": "s1"}))(t)
	if got := e.Member.Facts.Labels.String(); got != "ring=lab,site=s1" {
		t.Errorf("labels %s", got)
	}
}

func TestEnrolmentIsRefusedForCause(t *testing.T) {
	h := open(t, 5, nil)
	key := must(signer.Ephemeral())(t)
	base := api.EnrolRequest{TokenID: "t", Secret: "secret", Member: "a", Kind: fleet.Device, CSR: request(t, key)}
	for name, tc := range map[string]struct {
		change func(*api.EnrolRequest)
		kind   fault.Kind
	}{
		"wrong secret":   {func(r *api.EnrolRequest) { r.Secret = "guess" }, fault.Denied},
		"unknown token":  {func(r *api.EnrolRequest) { r.TokenID = "u" }, fault.Denied},
		"wrong kind":     {func(r *api.EnrolRequest) { r.Kind = fleet.Function }, fault.Denied},
		"no name":        {func(r *api.EnrolRequest) { r.Member = "No Name" }, fault.Invalid},
		"reserved name":  {func(r *api.EnrolRequest) { r.Member = "coordinator" }, fault.Invalid},
		"given label":    {func(r *api.EnrolRequest) { r.Labels = fleet.Labels{"id": "b"} }, fault.Invalid},
		"odd label":      {func(r *api.EnrolRequest) { r.Labels = fleet.Labels{"a": "b=c"} }, fault.Invalid},
		"label of terms": {func(r *api.EnrolRequest) { r.Labels = fleet.Labels{"a": "b,c"} }, fault.Invalid},
		"no request":     {func(r *api.EnrolRequest) { r.CSR = nil }, fault.Invalid},
	} {
		r := base
		tc.change(&r)
		if _, _, err := h.Enrol(t.Context(), r, "", now); !fault.Is(err, tc.kind) {
			t.Errorf("%s: %v, want %v", name, err, tc.kind)
		}
	}
	if got := len(h.Members()); got != 0 {
		t.Errorf("%d members, want none", got)
	}
}

func TestALostAnswerCostsNothing(t *testing.T) {
	h := open(t, 1, nil)
	key := must(signer.Ephemeral())(t)
	first := must(h.enrol(t, "a", key, fleet.Labels{"site": "s"}))(t)
	again := must(h.enrol(t, "a", key, fleet.Labels{"site": "s"}))(t)
	if again.Member.Generation != first.Member.Generation+1 || again.Cell.ID != first.Cell.ID || !bytes.Equal(again.Cell.Key, first.Cell.Key) {
		t.Errorf("first %+v\nagain %+v", first, again)
	}
	must(h.Check(t.Context(), h.identity(t, again), now))(t) // the answer came
	if _, err := h.enrol(t, "a", key, nil); !fault.Is(err, fault.Denied) {
		t.Errorf("the token once more: %v, want Denied", err)
	}
	if _, err := h.enrol(t, "a", must(signer.Ephemeral())(t), nil); !fault.Is(err, fault.Conflict) {
		t.Errorf("same id, other key: %v, want Conflict", err)
	}
}

func TestComingBackByAnotherTokenSpendsIt(t *testing.T) {
	h := open(t, 1, nil)
	key := must(signer.Ephemeral())(t)
	must(h.enrol(t, "a", key, nil))(t)
	tok := store.Token{Token: api.Token{ID: "u", Group: fleet.DefaultGroup, Kind: fleet.Device, Uses: 1, Expires: now.Add(time.Minute)}, SecretHash: fleet.DigestOf([]byte("other"))}
	if err := h.store.AddToken(t.Context(), tok, audit.Note{At: now, Action: audit.TokenCreated}); err != nil {
		t.Fatal(err)
	}
	again := func(at time.Time) error {
		_, _, err := h.Enrol(t.Context(), api.EnrolRequest{TokenID: "u", Secret: "other", Member: "a", Kind: fleet.Device, CSR: request(t, key)}, "", at)
		return err
	}
	if err := again(now.Add(time.Hour)); !fault.Is(err, fault.Denied) {
		t.Errorf("by an expired token: %v, want Denied", err)
	}
	if err := again(now); err != nil {
		t.Error(err)
	}
	if got := must(h.store.Token(t.Context(), "u"))(t); got.Used != 1 {
		t.Errorf("the token was used %d times, want once", got.Used)
	}
}

func TestACellHoldsSixtyFour(t *testing.T) {
	h := open(t, 200, fleet.Labels{"site": "hall"})
	sizes := map[string]int{}
	keys := map[string][]byte{}
	for i := range inventory.MaxCell + 6 {
		e := must(h.enrol(t, fmt.Sprintf("m%d", i), must(signer.Ephemeral())(t), nil))(t)
		sizes[e.Cell.ID]++
		keys[e.Cell.ID] = e.Cell.Key
	}
	if sizes["hall/0"] != inventory.MaxCell || sizes["hall/1"] != 6 || bytes.Equal(keys["hall/0"], keys["hall/1"]) || len(keys["hall/0"]) != 32 {
		t.Errorf("cells %v, keys equal or of %d bytes", sizes, len(keys["hall/0"]))
	}
}

func TestSeedsAreOthersInTheCell(t *testing.T) {
	h := open(t, 9, nil)
	for i, site := range []string{"a", "a", "b"} {
		id := fmt.Sprintf("m%d", i)
		must(h.enrol(t, id, must(signer.Ephemeral())(t), fleet.Labels{"site": site}))(t)
		if err := h.SetGossipAddr(t.Context(), fleet.MemberID(id), fmt.Sprintf("10.0.0.%d:7946", i)); err != nil {
			t.Fatal(err)
		}
	}
	if got := h.Seeds("a/0", "m0"); len(got) != 1 || got[0] != "10.0.0.1:7946" {
		t.Errorf("seeds %v, want the other one's", got)
	}
	for _, bad := range []string{"localhost:1", "10.0.0.1", "0.0.0.0:1", "10.0.0.1:0"} {
		if err := h.SetGossipAddr(t.Context(), "m0", bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want Invalid", bad, err)
		}
	}
	if e := must(h.enrol(t, "lone", must(signer.Ephemeral())(t), nil))(t); e.Cell.ID != "" {
		t.Errorf("a member without a site is in cell %s", e.Cell.ID)
	}
}

func TestRenewalKeepsTheKeyAndRaisesTheGeneration(t *testing.T) {
	h := open(t, 1, nil)
	key := must(signer.Ephemeral())(t)
	id := h.identity(t, must(h.enrol(t, "a", key, nil))(t))
	for want := uint64(2); want <= 4; want++ {
		must(h.Check(t.Context(), id, now))(t)
		e := must(h.Renew(t.Context(), id, api.RenewRequest{CSR: request(t, key), Generation: id.Generation}, now))(t)
		if id = h.identity(t, e); id.Generation != want {
			t.Fatalf("generation %d, want %d", id.Generation, want)
		}
	}
	if _, err := h.Renew(t.Context(), id, api.RenewRequest{CSR: request(t, must(signer.Ephemeral())(t)), Generation: id.Generation}, now); !fault.Is(err, fault.Invalid) {
		t.Errorf("another key: %v, want Invalid", err)
	}
	if _, err := h.Renew(t.Context(), id, api.RenewRequest{CSR: request(t, key), Generation: id.Generation + 1}, now); !fault.Is(err, fault.Invalid) {
		t.Errorf("a generation it does not hold: %v, want Invalid", err)
	}
}

func TestARenewalWhoseAnswerWasLostMayBeRepeated(t *testing.T) {
	h := open(t, 1, nil)
	key := must(signer.Ephemeral())(t)
	old := h.identity(t, must(h.enrol(t, "a", key, nil))(t))
	r := api.RenewRequest{CSR: request(t, key), Generation: old.Generation}
	for range 3 {
		must(h.Renew(t.Context(), old, r, now))(t) // lost
	}
	e := must(h.Renew(t.Context(), old, r, now))(t)
	if _, err := h.Check(t.Context(), h.identity(t, e), now); err != nil {
		t.Errorf("after the second try: %v", err)
	}
}

func TestACopiedIdentityIsLocked(t *testing.T) {
	h := open(t, 1, nil)
	key := must(signer.Ephemeral())(t)
	stolen := h.identity(t, must(h.enrol(t, "a", key, nil))(t))
	fresh := h.identity(t, must(h.Renew(t.Context(), stolen, api.RenewRequest{CSR: request(t, key), Generation: 1}, now))(t))
	must(h.Check(t.Context(), fresh, now))(t) // the real member uses the new one
	if _, err := h.Renew(t.Context(), stolen, api.RenewRequest{CSR: request(t, key), Generation: 1}, now); !fault.Is(err, fault.Denied) {
		t.Fatalf("the copy renewed: %v, want Denied", err)
	}
	for _, inv := range []*inventory.Inventory{h.Inventory, reopen(t, h.store, h.ca)} {
		if _, err := inv.Check(t.Context(), fresh, now); !fault.Is(err, fault.Denied) || fault.Hint(err) == "" {
			t.Errorf("the locked member: %v, want Denied with a hint", err)
		}
	}
	if got := h.actions(t); got[len(got)-1] != audit.MemberLocked {
		t.Errorf("audited %v, want %s last", got, audit.MemberLocked)
	}
}

func TestARevokedMemberIsOut(t *testing.T) {
	h := open(t, 2, nil)
	key := must(signer.Ephemeral())(t)
	e := must(h.enrol(t, "a", key, nil))(t)
	var told []fleet.MemberID
	h.OnChange(func(m store.Member) { told = append(told, m.Facts.ID) })
	for range 2 {
		if err := h.Revoke(t.Context(), "a", "ann", "stolen", now); err != nil {
			t.Fatal(err)
		}
	}
	id := h.identity(t, e)
	if _, err := h.Check(t.Context(), id, now); !fault.Is(err, fault.Denied) {
		t.Errorf("check: %v, want Denied", err)
	}
	if _, err := h.Renew(t.Context(), id, api.RenewRequest{CSR: request(t, key), Generation: 1}, now); !fault.Is(err, fault.Denied) {
		t.Errorf("renew: %v, want Denied", err)
	}
	if _, err := h.enrol(t, "a", key, nil); !fault.Is(err, fault.Conflict) {
		t.Errorf("enrol again: %v, want Conflict", err)
	}
	if len(told) != 1 {
		t.Errorf("told %v, want once", told)
	}
	if err := h.Revoke(t.Context(), "nobody", "ann", "", now); !fault.Is(err, fault.NotFound) {
		t.Errorf("nobody: %v, want NotFound", err)
	}
}
