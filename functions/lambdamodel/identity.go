package lambdamodel

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// identity is who this environment is in the fleet. It lies in the folder, so
// that a crash does not make another member of it.
type identity struct {
	Fleet       string      `json:"fleet"`
	Facts       fleet.Facts `json:"facts"`
	Certificate []byte      `json:"certificate"` // DER
	Issuer      []byte      `json:"issuer"`      // DER of the device CA
	Generation  uint64      `json:"generation"`
}

const (
	identityFile = "identity.json"
	keyFile      = "key.pem"
)

// connect returns a client that shows whatever certificate show gives.
func connect(tok trust.JoinToken, show func() (*tls.Certificate, error)) (*api.Client, error) {
	o := api.Options{URL: tok.URL, Certificate: show, Attempts: 2}
	if !tok.TLS.IsZero() {
		o.Pin = hex.EncodeToString(tok.TLS[:])
	}
	return api.NewClient(o)
}

// readKept reads a JSON file that a life of this environment before this one
// left; false when there is none. One that is damaged counts as none: /tmp may be
// cut short by a kill, and everything in it can be had again.
func readKept(path string, v any) (bool, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, cas.Classify("read", path, err)
	}
	return json.Unmarshal(data, v) == nil, nil
}

func writeKept(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fault.New(fault.Internal, "write", path, err)
	}
	return cas.WriteFile(path, data, 0o600)
}

// enrolment is an identity with the key and the trust it began with.
type enrolment struct {
	id    identity
	key   *signer.Signer
	trust trust.State // zero when the identity was kept
	pack  []byte
}

// identify takes up the kept identity, or enrols.
func identify(ctx context.Context, o Options, tok trust.JoinToken) (enrolment, error) {
	var e enrolment
	kept, err := readKept(filepath.Join(o.Dir, identityFile), &e.id)
	if err != nil {
		return e, err
	}
	key := filepath.Join(o.Dir, keyFile)
	if kept {
		if e.key, err = signer.Load(ctx, key); err == nil {
			return e, nil
		}
	}
	// Without its identity the key is of no use.
	if err := os.Remove(key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return e, cas.Classify("remove", key, err)
	}
	if e.key, err = signer.Generate(key); err != nil {
		return e, err
	}
	return e, e.enrol(ctx, o, tok)
}

func (e *enrolment) enrol(ctx context.Context, o Options, tok trust.JoinToken) error {
	var salt [6]byte
	rand.Read(salt[:]) // never fails
	member := fleet.MemberID(memberName(os.Getenv("AWS_LAMBDA_FUNCTION_NAME")) + "-" + hex.EncodeToString(salt[:]))
	csr, err := request(e.key, member)
	if err != nil {
		return err
	}
	client, err := connect(tok, nil)
	if err != nil {
		return err
	}
	defer client.Close()
	reply, err := client.Enrol(ctx, api.EnrolRequest{
		TokenID: tok.ID, Secret: tok.SecretText(), Member: member, Kind: fleet.Function, Labels: o.Labels,
		CSR: csr, Agent: o.Version, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	})
	if err != nil {
		return err
	}
	if e.trust, err = trust.NewState(reply.Root, tok.Root); err != nil {
		return err
	}
	if reply.Facts.Group != tok.Group {
		return fault.Newf(fault.Untrusted, "enrol", string(member), "the coordinator put it into group %s, the token is for %s", reply.Facts.Group, tok.Group)
	}
	name, err := checkCertificate(reply.Certificate, reply.DeviceCA, reply.Facts.ID, e.key.ECDSA())
	if err != nil {
		return err
	}
	e.id = identity{Fleet: name, Facts: reply.Facts, Certificate: reply.Certificate, Issuer: reply.DeviceCA, Generation: max(reply.Generation, 1)}
	e.pack = reply.Pack
	return nil
}

func request(key *signer.Signer, member fleet.MemberID) ([]byte, error) {
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: string(member)}, SignatureAlgorithm: x509.ECDSAWithSHA256,
	}, key)
	if err != nil {
		return nil, fault.New(fault.Internal, "request certificate", string(member), err)
	}
	return csr, nil
}

// checkCertificate checks that a certificate is this member's, and returns the
// fleet's name. The coordinator's TLS key is pinned, so a wrong issuer would only
// make this member's reports worthless.
func checkCertificate(der, issuer []byte, member fleet.MemberID, pub *ecdsa.PublicKey) (string, error) {
	bad := func(format string, args ...any) error {
		return fault.Newf(fault.Untrusted, "check certificate", string(member), format, args...).
			WithHint("the coordinator answered with a certificate that is not this function's")
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return "", bad("%w", err)
	}
	ca, err := x509.ParseCertificate(issuer)
	if err != nil {
		return "", bad("issuer: %w", err)
	}
	if err := cert.CheckSignatureFrom(ca); err != nil {
		return "", bad("%w", err)
	}
	if !pub.Equal(cert.PublicKey) {
		return "", bad("it is for another key")
	}
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != "spiffe" || cert.URIs[0].Path != "/function/"+string(member) {
		return "", bad("it names %v", cert.URIs)
	}
	return cert.URIs[0].Host, nil
}

func (id identity) certificate(key *signer.Signer) *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{id.Certificate, id.Issuer}, PrivateKey: key}
}

// renewDue reports whether two thirds of the certificate's life have passed.
func (id identity) renewDue(now time.Time) bool {
	cert, err := x509.ParseCertificate(id.Certificate)
	return err != nil || now.After(cert.NotBefore.Add(2*cert.NotAfter.Sub(cert.NotBefore)/3))
}

// renew gets a fresh certificate for the same key.
func (m *member) renew(ctx context.Context) error {
	id := m.identity()
	csr, err := request(m.key, id.Facts.ID)
	if err != nil {
		return err
	}
	r, err := m.client.Renew(ctx, api.RenewRequest{CSR: csr, Generation: id.Generation})
	if err != nil {
		return err
	}
	name, err := checkCertificate(r.Certificate, r.DeviceCA, id.Facts.ID, m.key.ECDSA())
	if err != nil {
		return err
	}
	if name != id.Fleet {
		return fault.Newf(fault.Untrusted, "renew certificate", string(id.Facts.ID), "it is of fleet %s, this is a member of %s", name, id.Fleet)
	}
	id.Certificate, id.Issuer, id.Generation = r.Certificate, r.DeviceCA, r.Generation
	if err := writeKept(filepath.Join(m.o.Dir, identityFile), id); err != nil {
		return err
	}
	m.mu.Lock()
	m.id = id
	m.mu.Unlock()
	m.client.Close() // the next connection shows the new certificate
	return nil
}
