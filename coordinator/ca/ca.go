// Package ca is the fleet's own small certificate authority: it gives members
// short-lived identities on P-256 keys that they made themselves, and reads
// identities back out of certificates.
//
// A member's name is the one URI in its certificate, spiffe://FLEET/KIND/ID. The
// upper half of the serial number is the certificate's generation, which grows
// with each renewal: two holders of one identity cannot both renew without one
// of them showing a stale generation. The CA's certificate is a target of the
// fleet's TUF policy, so that members judge each other by the root they pinned.
//
// The package keeps nothing; who is enrolled, locked or revoked is inventory's.
package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"math/big"
	"net/url"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

const (
	// Lifetime is how long a member's certificate is valid.
	Lifetime = 7 * 24 * time.Hour

	// Coordinator is the kind in the name of a coordinator that takes part in
	// a cell.
	Coordinator fleet.Kind = "coordinator"

	// backdate allows for members whose clocks are a little behind.
	backdate = 5 * time.Minute

	maxCSR = 4 << 10
)

// Identity is who a certificate names.
type Identity struct {
	Kind       fleet.Kind
	ID         fleet.MemberID
	Generation uint64
}

// CA issues certificates. It is safe for concurrent use.
type CA struct {
	fleet string
	key   crypto.Signer
	cert  *x509.Certificate
	pool  *x509.CertPool
}

// New returns the CA of a fleet. cert must be that of key.
func New(fleetName string, key crypto.Signer, cert *x509.Certificate) (*CA, error) {
	const op = "open device CA"
	pub, ok := cert.PublicKey.(*ecdsa.PublicKey)
	switch {
	case !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, fault.Newf(fault.Invalid, op, cert.Subject.String(), "the certificate may not issue others")
	case !ok || !pub.Equal(key.Public()):
		return nil, fault.Newf(fault.Invalid, op, cert.Subject.String(), "the key is not the certificate's").
			WithHint("device-ca.pem and device-ca.crt must come from the same `modelfleet init`")
	}
	c := &CA{fleet: fleetName, key: key, cert: cert, pool: x509.NewCertPool()}
	c.pool.AddCert(cert)
	return c, nil
}

// Certificate is the CA's own, in DER.
func (c *CA) Certificate() []byte { return c.cert.Raw }

// Pool is what the CA's certificates are verified against.
func (c *CA) Pool() *x509.CertPool { return c.pool }

// CheckCSR reads a signing request and returns its key. Nothing else of it is
// used: names come from the inventory, never from the asker.
func (c *CA) CheckCSR(der []byte) (*ecdsa.PublicKey, error) {
	const op = "read certificate request"
	if len(der) > maxCSR {
		return nil, fault.Newf(fault.Invalid, op, "", "it is larger than %d bytes", maxCSR)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fault.New(fault.Invalid, op, "", err)
	}
	pub, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, fault.Newf(fault.Invalid, op, "", "the key is not ECDSA on P-256")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fault.New(fault.Untrusted, op, "", errors.Join(errors.New("it is not signed by its key"), err))
	}
	return pub, nil
}

// Issue makes a certificate for pub that is valid from now for [Lifetime], but
// never longer than the CA's own.
func (c *CA) Issue(id Identity, pub *ecdsa.PublicKey, now time.Time) (der []byte, expires time.Time, err error) {
	const op = "issue certificate"
	if now.After(c.cert.NotAfter) {
		return nil, expires, fault.Newf(fault.Untrusted, op, string(id.ID), "the device CA expired at %s", c.cert.NotAfter.UTC().Format(time.RFC3339)).
			WithHint("sign a new device CA into the policy")
	}
	serial, err := serialOf(id.Generation)
	if err != nil {
		return nil, expires, fault.New(fault.Internal, op, string(id.ID), err)
	}
	expires = now.Add(Lifetime).UTC().Truncate(time.Second)
	if expires.After(c.cert.NotAfter) {
		expires = c.cert.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{c.fleet}, CommonName: string(id.ID)},
		URIs:         []*url.URL{c.uri(id)},
		NotBefore:    now.Add(-backdate).UTC(),
		NotAfter:     expires,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err = x509.CreateCertificate(rand.Reader, template, c.cert, pub, c.key)
	if err != nil {
		return nil, expires, fault.New(fault.Internal, op, string(id.ID), err)
	}
	return der, expires, nil
}

// serialOf is a serial number with the generation in its upper half and chance
// in the lower.
func serialOf(generation uint64) (*big.Int, error) {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], generation)
	if _, err := rand.Read(b[8:]); err != nil {
		return nil, err
	}
	return new(big.Int).SetBytes(b[:]), nil
}

func (c *CA) uri(id Identity) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: c.fleet, Path: "/" + string(id.Kind) + "/" + string(id.ID)}
}

// Identify reads who a certificate names. It must have been verified against
// [CA.Pool]; the TLS listener does that.
func (c *CA) Identify(cert *x509.Certificate) (Identity, error) {
	const op = "read identity"
	if len(cert.URIs) != 1 {
		return Identity{}, fault.Newf(fault.Untrusted, op, cert.Subject.CommonName, "the certificate has %d URIs, want one", len(cert.URIs))
	}
	id := Identity{Kind: Coordinator}
	u := cert.URIs[0]
	var rest string
	for _, kind := range []fleet.Kind{fleet.Device, fleet.Function, Coordinator} {
		if tail, ok := cutPrefix(u.Path, "/"+string(kind)+"/"); ok {
			id.Kind, rest = kind, tail
		}
	}
	member, err := fleet.ParseMemberID(rest)
	if err != nil || *u != *c.uri(Identity{Kind: id.Kind, ID: member}) {
		return Identity{}, fault.Newf(fault.Untrusted, op, u.String(), "it is not a name in fleet %s", c.fleet)
	}
	id.ID = member
	if b := cert.SerialNumber.Bytes(); len(b) > 8 {
		id.Generation = new(big.Int).SetBytes(b[:len(b)-8]).Uint64()
	}
	return id, nil
}

func cutPrefix(s, prefix string) (string, bool) {
	if len(s) <= len(prefix) || s[:len(prefix)] != prefix {
		return "", false
	}
	return s[len(prefix):], true
}
