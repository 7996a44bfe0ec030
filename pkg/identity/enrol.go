package identity

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"runtime"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// Newcomer is what a member says of itself when it enrols.
type Newcomer struct {
	ID     fleet.MemberID
	Kind   fleet.Kind
	Labels fleet.Labels
	Agent  string // version
	// Role, where there is one, proves the AWS role that a function runs as.
	Role *Credentials
}

// Enrolment is what enrolling gave besides the identity.
type Enrolment struct {
	Trust trust.State // begins with the root that the token pins
	Pack  []byte      // the group's first trust pack
}

// Enrol asks for an identity, once, and keeps it. A key that is there already is
// used: after a crash, or when the certificate has expired, the same member may
// enrol again. A coordinator that is not the token's is Untrusted. Where an operator
// has to approve the member first the error is a [*Waiting], which is Transient:
// the same call, made again later, has the answer.
func Enrol(ctx context.Context, o Options, n Newcomer) (*Member, Enrolment, error) {
	if err := cas.MkdirAll(o.Dir); err != nil {
		return nil, Enrolment{}, err
	}
	key, err := signer.Load(ctx, o.keyPath())
	if fault.Is(err, fault.NotFound) {
		key, err = signer.Generate(o.keyPath())
	}
	if err != nil {
		return nil, Enrolment{}, err
	}
	var id Identity
	id.aim(o.Token)
	r, err := ask(ctx, id, key, o.Token, n)
	if err != nil {
		return nil, Enrolment{}, err
	}
	if r.Pending != nil {
		return nil, Enrolment{}, waiting(n.ID, *r.Pending, key)
	}
	st, err := trust.NewState(r.Root, o.Token.Root)
	if err != nil {
		return nil, Enrolment{}, err
	}
	if r.Facts.Group != o.Token.Group || r.Facts.Kind != n.Kind {
		return nil, Enrolment{}, fault.Newf(fault.Untrusted, "enrol", string(n.ID), "the coordinator made it a %s of group %s, the token is for a %s of group %s",
			r.Facts.Kind, r.Facts.Group, n.Kind, o.Token.Group)
	}
	id.Facts, id.Root, id.Cell = r.Facts, r.Root, r.Cell
	id.Certificate, id.Issuer, id.Generation = r.Certificate, r.DeviceCA, max(r.Generation, 1)
	id.Token = o.Token.ID
	id.learn(r.Pins)
	cert, err := id.judge(key.ECDSA())
	if err != nil {
		return nil, Enrolment{}, err
	}
	id.Fleet = cert.URIs[0].Host
	if err := o.save(id); err != nil {
		return nil, Enrolment{}, err
	}
	m := &Member{o: o, key: key}
	return m, Enrolment{Trust: st, Pack: r.Pack}, m.become(id, cert)
}

// ask makes the call, without a certificate.
func ask(ctx context.Context, id Identity, key *signer.Signer, tok trust.JoinToken, n Newcomer) (api.EnrolReply, error) {
	csr, err := request(key, n.ID)
	if err != nil {
		return api.EnrolReply{}, err
	}
	req := api.EnrolRequest{
		TokenID: tok.ID, Secret: tok.SecretText(), Member: n.ID, Kind: n.Kind, Labels: n.Labels,
		CSR: csr, Agent: n.Agent, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	if n.Kind == fleet.Device {
		req.Hardware = Hardware(tok.Root)
	}
	if n.Role != nil {
		name, err := Fingerprint(key.ECDSA())
		if err != nil {
			return api.EnrolReply{}, err
		}
		req.IAM = new(n.Role.Prove(tok.Root.String(), name, time.Now()))
	}
	client, err := api.NewClient(api.Options{URL: id.URL, Pin: id.Pin})
	if err != nil {
		return api.EnrolReply{}, err
	}
	defer client.Close()
	return client.Enrol(ctx, req)
}

// Waiting is the error of a member that an operator has to approve.
type Waiting struct {
	Member      fleet.MemberID
	Fingerprint string        // of the key that was made here
	After       time.Duration // when to ask again
}

// Error says what to do.
func (w *Waiting) Error() string {
	return "an operator has to approve it; its key is " + w.Fingerprint
}

// waiting is the error for what the coordinator said. It names the key that is
// here, whatever fingerprint the coordinator saw: they have to be compared.
func waiting(id fleet.MemberID, p api.Pending, key *signer.Signer) error {
	name, err := Fingerprint(key.ECDSA())
	if err != nil {
		return err
	}
	w := &Waiting{Member: id, Fingerprint: name, After: p.After.D()}
	return fault.New(fault.Transient, "enrol", string(id), w).
		WithHint("compare the key, then: modelfleet members approve %s", id)
}

// request is a PKCS#10 request by key.
func request(key *signer.Signer, member fleet.MemberID) ([]byte, error) {
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: string(member)}, SignatureAlgorithm: x509.ECDSAWithSHA256,
	}, key)
	if err != nil {
		return nil, fault.New(fault.Internal, "request certificate", string(member), err)
	}
	return csr, nil
}
