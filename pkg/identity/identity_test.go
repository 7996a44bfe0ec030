package identity_test

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/identity"
	"github.com/modelfleet/modelfleet/pkg/identity/identitytest"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

// desk is the part of a coordinator that gives out identities.
type desk struct {
	*httptest.Server
	root     *trusttest.Fleet
	ca       *identitytest.CA
	other    *signer.Signer // when set, certificates are for this key
	issued   uint64         // newest generation of the one member
	shown    []uint64       // generations of the certificates that members showed
	renewing string         // fleet in renewed certificates, when not the first's
	pins     []string       // told with each renewal
	doubts   bool           // certificates are not believed: members have to come back
	returned int            // how many did
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{root: trusttest.New(t, nil), ca: identitytest.New(t, "test")}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/enrol", func(w http.ResponseWriter, r *http.Request) {
		var req api.EnrolRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			t.Error(err)
		}
		if req.Secret != (trust.JoinToken{Secret: [16]byte{1}}.SecretText()) {
			api.WriteProblem(w, fault.Newf(fault.Denied, "enrol", "", "the token is not known"))
			return
		}
		cert := d.issue(t, d.ca, req.Kind, req.Member, req.CSR)
		facts := fleet.Facts{ID: req.Member, Kind: req.Kind, Group: "line", Labels: req.Labels, Agent: req.Agent, Platform: req.Platform}
		reply(t, w, api.EnrolReply{
			Facts: facts, Certificate: cert, Generation: d.issued, DeviceCA: d.ca.Certificate.Raw, Root: d.root.Genesis.Root, Pack: []byte("pack"),
			Cell: api.Cell{ID: "plant/0"},
		})
	})
	mux.HandleFunc("POST /v1/renew", func(w http.ResponseWriter, r *http.Request) {
		if d.doubts {
			api.WriteProblem(w, fault.Newf(fault.Untrusted, "verify certificate", "", "it has expired"))
			return
		}
		shown := r.TLS.PeerCertificates[0]
		d.shown = append(d.shown, shown.SerialNumber.Uint64()-1)
		var req api.RenewRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil || req.Generation != d.issued {
			t.Errorf("asked with generation %d, the newest is %d; %v", req.Generation, d.issued, err)
		}
		kind, member, _ := strings.Cut(strings.TrimPrefix(shown.URIs[0].Path, "/"), "/")
		ca := d.ca
		if d.renewing != "" {
			ca = identitytest.New(t, d.renewing)
		}
		cert := d.issue(t, ca, fleet.Kind(kind), fleet.MemberID(member), req.CSR)
		reply(t, w, api.RenewReply{Certificate: cert, DeviceCA: ca.Certificate.Raw, Generation: d.issued, Cell: api.Cell{ID: "plant/1"}, Pins: d.pins})
	})
	mux.HandleFunc("POST /v1/comeback", func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) > 0 {
			t.Error("showed a certificate to come back")
		}
		var req api.ComebackRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			t.Error(err)
		}
		if req.Challenge == nil {
			reply(t, w, api.ComebackReply{Challenge: []byte("challenge")})
			return
		}
		csr, err := x509.ParseCertificateRequest(req.CSR)
		if err != nil {
			t.Fatal(err)
		}
		digest := req.Digest()
		if string(req.Challenge) != "challenge" || req.Generation != d.issued || !ecdsa.VerifyASN1(csr.PublicKey.(*ecdsa.PublicKey), digest[:], req.Signature) {
			api.WriteProblem(w, fault.Newf(fault.Denied, "come back", "", "not signed"))
			return
		}
		d.returned++
		cert := d.issue(t, d.ca, fleet.Device, req.Member, req.CSR)
		reply(t, w, api.ComebackReply{RenewReply: api.RenewReply{Certificate: cert, DeviceCA: d.ca.Certificate.Raw, Generation: d.issued}})
	})
	d.Server = httptest.NewUnstartedServer(mux)
	d.TLS = &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: d.ca.Pool()}
	d.StartTLS()
	t.Cleanup(d.Close)
	return d
}

func (d *desk) issue(t *testing.T, ca *identitytest.CA, kind fleet.Kind, member fleet.MemberID, der []byte) []byte {
	csr, err := x509.ParseCertificateRequest(der)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		t.Error(err)
		return nil
	}
	pub := csr.PublicKey
	if d.other != nil {
		pub = d.other.Public()
	}
	d.issued++
	cert, err := ca.Issue(kind, member, pub, time.Hour, d.issued)
	if err != nil {
		t.Error(err)
	}
	return cert
}

func reply(t *testing.T, w http.ResponseWriter, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		t.Error(err)
	}
}

func (d *desk) options(t *testing.T) identity.Options {
	return identity.Options{Dir: filepath.Join(t.TempDir(), "identity"), Attempts: 1, Token: trust.JoinToken{
		URL: d.URL, ID: "t1", Secret: [16]byte{1}, Root: d.root.Genesis.Pin, Group: "line",
		TLS: sha256.Sum256(d.Certificate().RawSubjectPublicKeyInfo), Expires: time.Now().Add(time.Hour),
	}}
}

func newcomer(kind fleet.Kind) identity.Newcomer {
	return identity.Newcomer{ID: "m-1", Kind: kind, Labels: fleet.Labels{"class": "a"}, Agent: "1.0.0"}
}

func renew(t *testing.T, m *identity.Member) error {
	_, err := m.Renew(t.Context(), identity.Renewal{GossipAddr: "10.0.0.1:7946"})
	return err
}

func TestAnEnrolmentIsKept(t *testing.T) {
	t.Parallel()
	for _, kind := range []fleet.Kind{fleet.Device, fleet.Function} {
		o := newDesk(t).options(t)
		if _, err := identity.Load(t.Context(), o); !fault.Is(err, fault.NotFound) {
			t.Fatalf("before enrolling: %v", err)
		}
		m, first, err := identity.Enrol(t.Context(), o, newcomer(kind))
		if err != nil {
			t.Fatal(err)
		}
		id := m.Identity()
		if id.Fleet != "test" || id.Facts.ID != "m-1" || id.Facts.Kind != kind || id.Facts.Labels["class"] != "a" || id.Cell.ID != "plant/0" {
			t.Errorf("enrolled as %+v", id)
		}
		if string(first.Pack) != "pack" || len(first.Trust.Root) == 0 {
			t.Errorf("enrolment %+v", first)
		}
		o.Token = trust.JoinToken{} // it is not needed any more
		again, err := identity.Load(t.Context(), o)
		if err != nil || !again.Key().ECDSA().Equal(m.Key().Public()) || !cmp.Equal(again.Identity(), id) {
			t.Fatalf("loaded %+v, %v", again, err)
		}
		for _, name := range []string{"key.pem", "identity.json"} {
			fi, err := os.Stat(filepath.Join(o.Dir, name))
			if err != nil || fi.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v %v", name, fi, err)
			}
		}
		if err := identity.Forget(o); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(o.Dir); err != nil || len(left) > 0 {
			t.Errorf("after forgetting: %v %v", left, err)
		}
	}
}

// A second enrolment is of the next generation; a member that took itself for
// the first could never renew.
func TestAMemberThatEnrolsAgainKeepsItsKeyAndMayRenew(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	o := d.options(t)
	m, _, err := identity.Enrol(t.Context(), o, newcomer(fleet.Device))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(o.Dir, "identity.json")); err != nil { // as if it had crashed before
		t.Fatal(err)
	}
	again, _, err := identity.Enrol(t.Context(), o, newcomer(fleet.Device))
	if err != nil || !again.Key().ECDSA().Equal(m.Key().Public()) || again.Identity().Generation != 2 {
		t.Fatalf("enrolled again: %+v, %v", again.Identity(), err)
	}
	if err := renew(t, again); err != nil {
		t.Error(err)
	}
}

func TestAnEnrolmentIsRefusedWhenEitherSideIsNotTheTokens(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kind fault.Kind
		edit func(*desk, *trust.JoinToken)
	}{
		"another root":    {fault.Untrusted, func(_ *desk, j *trust.JoinToken) { j.Root[0] ^= 1 }},
		"another TLS key": {fault.Untrusted, func(_ *desk, j *trust.JoinToken) { j.TLS[0] ^= 1 }},
		"another secret":  {fault.Denied, func(_ *desk, j *trust.JoinToken) { j.Secret[0] ^= 1 }},
		"another group":   {fault.Untrusted, func(_ *desk, j *trust.JoinToken) { j.Group = "other" }},
		"another key":     {fault.Untrusted, func(d *desk, _ *trust.JoinToken) { d.other = trusttest.Key(t) }},
		"no coordinator":  {fault.Transient, func(d *desk, _ *trust.JoinToken) { d.Close() }},
	} {
		d := newDesk(t)
		o := d.options(t)
		c.edit(d, &o.Token)
		if _, _, err := identity.Enrol(t.Context(), o, newcomer(fleet.Device)); !fault.Is(err, c.kind) {
			t.Errorf("%s: %v (%s), want %s", name, err, fault.KindOf(err), c.kind)
		}
		if _, err := identity.Load(t.Context(), o); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: an identity was kept: %v", name, err)
		}
	}
}

func TestEachRenewalShowsTheNewestCertificate(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	o := d.options(t)
	m, _, err := identity.Enrol(t.Context(), o, newcomer(fleet.Device))
	if err != nil {
		t.Fatal(err)
	}
	before := m.Client()
	for range 2 {
		if err := renew(t, m); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]uint64{1, 2}, d.shown); diff != "" {
		t.Errorf("generations shown (-want +got):\n%s", diff)
	}
	if id := m.Identity(); id.Generation != 3 || id.Cell.ID != "plant/1" || m.Client() == before {
		t.Errorf("renewed %+v", id)
	}
	kept, err := identity.Load(t.Context(), o)
	if err != nil || !cmp.Equal(kept.Identity(), m.Identity()) {
		t.Errorf("kept %+v, %v", kept, err)
	}
	d.renewing = "another"
	if err := renew(t, m); !fault.Is(err, fault.Untrusted) || m.Identity().Generation != 3 {
		t.Errorf("a certificate of another fleet: %v", err)
	}
}

func TestACertificateIsRenewedBeforeItEnds(t *testing.T) {
	t.Parallel()
	m, _, err := identity.Enrol(t.Context(), newDesk(t).options(t), newcomer(fleet.Device))
	if err != nil {
		t.Fatal(err)
	}
	at, now := m.RenewAt(), time.Now()
	if at.Before(now.Add(29*time.Minute)) || at.After(now.Add(46*time.Minute)) { // two thirds, a twelfth more or less
		t.Errorf("renewal of an hour's certificate in %s", at.Sub(now))
	}
	if m.Expired(at) || !m.Expired(now.Add(61*time.Minute)) {
		t.Error("it does not end after an hour")
	}
}

// Whether a certificate is good is the coordinator's to say: the device's clock may
// be wrong. The cell it had stays, and so does the certificate when it is refused.
func TestAMemberThatIsNotBelievedComesBackByItsKey(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	o := d.options(t)
	m, _, err := identity.Enrol(t.Context(), o, newcomer(fleet.Device))
	if err != nil {
		t.Fatal(err)
	}
	d.doubts = true
	back, err := m.Renew(t.Context(), identity.Renewal{})
	if err != nil || !back || d.returned != 1 {
		t.Fatalf("came back: %v %v", back, err)
	}
	kept, err := identity.Load(t.Context(), o)
	if err != nil || kept.Identity().Generation != 2 || kept.Identity().Cell.ID != "plant/0" {
		t.Errorf("kept %+v, %v", kept.Identity(), err)
	}
	d.issued = 99 // it is another one's turn
	if _, err := m.Renew(t.Context(), identity.Renewal{}); !fault.Is(err, fault.Denied) || m.Identity().Generation != 2 {
		t.Errorf("refused: %v", err)
	}
}

// Members learn the pin of the coordinator's next TLS key over the present one, and
// believe both from then on.
func TestPinsAreLearntAndKept(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	o := d.options(t)
	m, _, err := identity.Enrol(t.Context(), o, newcomer(fleet.Device))
	if err != nil {
		t.Fatal(err)
	}
	next := strings.Repeat("ab", 32)
	now := m.Identity().Pin
	d.pins = []string{now, next}
	if err := renew(t, m); err != nil {
		t.Fatal(err)
	}
	kept, err := identity.Load(t.Context(), o)
	if id := kept.Identity(); err != nil || id.Pin != now || !cmp.Equal(id.Pins, []string{next}) {
		t.Fatalf("kept pins %s %v, %v", id.Pin, id.Pins, err)
	}
	d.pins = []string{next, now} // as after the key was replaced: this server's is then the other of two
	for range 2 {
		if err := renew(t, kept); err != nil {
			t.Fatal(err)
		}
	}
	if id := kept.Identity(); id.Pin != next || !cmp.Equal(id.Pins, []string{now}) {
		t.Errorf("pins %s %v", id.Pin, id.Pins)
	}
}

// A fleet that was installed in an hour does not renew in one, and a restart changes
// nothing.
func TestRenewalsAreSpread(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	var earliest, latest time.Duration
	for i := range 40 {
		o := d.options(t)
		n := newcomer(fleet.Device)
		n.ID = fleet.MemberID(fmt.Sprint("m-", i))
		m, _, err := identity.Enrol(t.Context(), o, n)
		if err != nil {
			t.Fatal(err)
		}
		again, err := identity.Load(t.Context(), o)
		if err != nil || !again.RenewAt().Equal(m.RenewAt()) {
			t.Errorf("a restart moves the renewal from %s to %s", m.RenewAt(), again.RenewAt())
		}
		at := time.Until(m.RenewAt())
		if earliest == 0 || at < earliest {
			earliest = at
		}
		latest = max(latest, at)
	}
	if latest-earliest < 7*time.Minute || latest-earliest > 11*time.Minute {
		t.Errorf("forty members of an hour renew within %s", latest-earliest)
	}
}

func TestAMemberMovesToANewDeviceCAOnce(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	m, _, err := identity.Enrol(t.Context(), d.options(t), newcomer(fleet.Device))
	if err != nil {
		t.Fatal(err)
	}
	own := d.ca.Certificate
	newer, err := identity.SelfSign("test", trusttest.Key(t), time.Hour, own.NotBefore.Add(2*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for name, listed := range map[string][]*x509.Certificate{"nothing known": nil, "its own": {own}} {
		if at, outdated := m.Outdated(listed, now); outdated {
			t.Errorf("%s: renew at %s", name, at)
		}
	}
	if at, outdated := m.Outdated([]*x509.Certificate{newer, own}, now); !outdated || at.Before(now) || at.After(now.Add(6*time.Minute)) {
		t.Errorf("a newer one beside its own: %v, in %s", outdated, at.Sub(now))
	}
	if at, outdated := m.Outdated([]*x509.Certificate{newer}, now); !outdated || !at.Equal(now) {
		t.Errorf("its own is gone: %v, in %s", outdated, at.Sub(now))
	}
	// The coordinator has not the new key yet: it is asked once, not again and again.
	if _, err := m.Renew(t.Context(), identity.Renewal{Listed: []*x509.Certificate{own, newer}}); err != nil {
		t.Fatal(err)
	}
	if at, outdated := m.Outdated([]*x509.Certificate{own, newer}, now); outdated {
		t.Errorf("asked already: renew at %s", at)
	}
}

func TestADamagedIdentityIsInvalid(t *testing.T) {
	t.Parallel()
	o := newDesk(t).options(t)
	if _, _, err := identity.Enrol(t.Context(), o, newcomer(fleet.Function)); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(o.Dir, "key.pem")
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	if _, err := signer.Generate(key); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.Load(t.Context(), o); !fault.Is(err, fault.Invalid) || fault.Hint(err) == "" {
		t.Errorf("with another key: %v", err)
	}
	if err := os.WriteFile(filepath.Join(o.Dir, "identity.json"), []byte(`{"url":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.Load(t.Context(), o); !fault.Is(err, fault.Invalid) || fault.Hint(err) == "" {
		t.Errorf("cut short: %v", err)
	}
}

// A function's environment variable is newer than what lies in its folder.
func TestATokenSaysWhereTheCoordinatorIsNow(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	o := d.options(t)
	if _, _, err := identity.Enrol(t.Context(), o, newcomer(fleet.Function)); err != nil {
		t.Fatal(err)
	}
	o.Token.URL, o.Token.TLS = "https://fleet.example:8443", fleet.Digest{}
	m, err := identity.Load(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if id := m.Identity(); id.URL != o.Token.URL || id.Pin != "" {
		t.Errorf("coordinator %s, pin %q", id.URL, id.Pin)
	}
}
