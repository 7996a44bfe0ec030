// Package ca is the fleet's own small certificate authority: it gives members
// short-lived identities on P-256 keys that they made themselves, and reads
// identities back out of certificates.
//
// A member's name is the one URI in its certificate, spiffe://FLEET/KIND/ID. The
// upper half of the serial number is the certificate's generation, which grows
// with each renewal: two holders of one identity cannot both renew without one
// of them showing a stale generation. The CA's certificate is a target of the
// fleet's TUF policy, so that members judge each other by the root they pinned.
// The policy may list several: certificates of each are believed, and the newest
// whose key is here issues. So a CA is replaced without a member being cut off.
//
// The package keeps nothing; who is enrolled, locked or revoked is inventory's.
package ca

import (
	"cmp"
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
	"slices"
	"sync/atomic"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

const (
	// Lifetime is how long a member's certificate is valid, unless [Authorities] say
	// otherwise.
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
	Kind        fleet.Kind
	ID          fleet.MemberID
	Generation  uint64
	Certificate fleet.Digest // SHA-256 of the certificate
	Issuer      fleet.Digest // and of the CA's
	Expires     time.Time
}

// Authorities are the device CAs that the policy lists, in its order, and the keys
// that the coordinator has of them. A certificate without its key is one to be
// believed, not one to issue with.
type Authorities struct {
	Certificates []*x509.Certificate
	Keys         []crypto.Signer
	Lifetime     time.Duration // of members' certificates; 0: [Lifetime]
}

// CA issues and judges certificates. It is safe for concurrent use.
type CA struct {
	fleet string
	now   atomic.Pointer[authorities]
}

// authorities is [Authorities], looked through.
type authorities struct {
	certs   []*x509.Certificate // newest first
	pool    *x509.CertPool
	issuer  *x509.Certificate // nil: there is no key of any
	key     crypto.Signer
	listing []Authority
	life    time.Duration
}

// Authority is one device CA, as people see it.
type Authority struct {
	Fingerprint fleet.Digest // SHA-256 of its certificate
	Expires     time.Time
	Issues      bool // new certificates come from it
}

// New returns the CA of a fleet.
func New(fleetName string, a Authorities) (*CA, error) {
	c := &CA{fleet: fleetName}
	return c, c.Replace(a)
}

// Replace takes over what the policy lists now. Certificates that it does not list
// any more are refused from here on, also on connections that are open.
func (c *CA) Replace(a Authorities) error {
	next := &authorities{pool: x509.NewCertPool(), certs: slices.Clone(a.Certificates), life: cmp.Or(a.Lifetime, Lifetime)}
	slices.Reverse(next.certs) // of two that are equally old the one listed later counts as newer
	slices.SortStableFunc(next.certs, func(x, y *x509.Certificate) int { return y.NotBefore.Compare(x.NotBefore) })
	for _, cert := range next.certs {
		pub, ok := cert.PublicKey.(*ecdsa.PublicKey)
		if !ok || !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
			return fault.Newf(fault.Invalid, "open device CA", cert.Subject.String(), "the certificate may not issue others, or its key is not ECDSA").
				WithHint("put one into the policy that `modelfleet init` or `modelfleet key rotate device-ca` made")
		}
		next.pool.AddCert(cert)
		for _, key := range a.Keys {
			if next.issuer == nil && pub.Equal(key.Public()) {
				next.issuer, next.key = cert, key
			}
		}
	}
	for _, cert := range next.certs {
		next.listing = append(next.listing, Authority{Fingerprint: fleet.DigestOf(cert.Raw), Expires: cert.NotAfter, Issues: cert == next.issuer})
	}
	c.now.Store(next)
	return nil
}

// Authorities lists the device CAs, newest first.
func (c *CA) Authorities() []Authority { return c.now.Load().listing }

// Lifetime is that of the certificates which are made now.
func (c *CA) Lifetime() time.Duration { return c.now.Load().life }

// Certificate is that of the CA which issues, in DER; nil when there is none.
func (c *CA) Certificate() []byte {
	if issuer := c.now.Load().issuer; issuer != nil {
		return issuer.Raw
	}
	return nil
}

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

// Issued is a fresh certificate.
type Issued struct {
	DER     []byte
	Issuer  []byte // DER of the CA's
	Expires time.Time
}

// Issue makes a certificate for pub that is valid from now for its lifetime, but
// never longer than the CA's own. When there is nothing to issue with, which an
// operator has to mend, the error is Exhausted: members try again later.
func (c *CA) Issue(id Identity, pub *ecdsa.PublicKey, now time.Time) (out Issued, err error) {
	const op = "issue certificate"
	a := c.now.Load()
	if a.issuer == nil {
		return out, fault.Newf(fault.Exhausted, op, string(id.ID), "the coordinator has the key of none of the %d device CAs that the policy lists", len(a.certs)).
			WithHint("put the key into keys/ of the fleet's folder, as device-ca*.pem")
	}
	if now.After(a.issuer.NotAfter) {
		return out, fault.Newf(fault.Exhausted, op, string(id.ID), "the device CA expired at %s", a.issuer.NotAfter.UTC().Format(time.RFC3339)).
			WithHint("sign a new device CA into the policy: modelfleet key rotate device-ca")
	}
	serial, err := serialOf(id.Generation)
	if err != nil {
		return out, fault.New(fault.Internal, op, string(id.ID), err)
	}
	expires := now.Add(a.life).UTC().Truncate(time.Second)
	if expires.After(a.issuer.NotAfter) {
		expires = a.issuer.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{c.fleet}, CommonName: string(id.ID)},
		URIs:         []*url.URL{c.uri(id)},
		NotBefore:    now.Add(-min(backdate, a.life/10)).UTC(),
		NotAfter:     expires,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.issuer, pub, a.key)
	if err != nil {
		return out, fault.New(fault.Internal, op, string(id.ID), err)
	}
	return Issued{der, a.issuer.Raw, expires}, nil
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

// Verify checks that one of the CAs issued a certificate and that it is valid at
// now for a P-256 key, and says whom it names. Untrusted means that the holder has
// to come back by its key, if that is known: see docs/formats/http.md, comeback.
func (c *CA) Verify(der []byte, now time.Time) (Identity, *ecdsa.PublicKey, error) {
	return c.verify(der, func(*x509.Certificate) time.Time { return now })
}

// Gave is Verify for a certificate that may have expired: one of the CAs issued it.
func (c *CA) Gave(der []byte) (Identity, *ecdsa.PublicKey, error) {
	return c.verify(der, func(cert *x509.Certificate) time.Time { return cert.NotAfter })
}

func (c *CA) verify(der []byte, at func(*x509.Certificate) time.Time) (Identity, *ecdsa.PublicKey, error) {
	const op = "verify certificate"
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Identity{}, nil, fault.New(fault.Untrusted, op, "", err)
	}
	chains, err := cert.Verify(x509.VerifyOptions{Roots: c.now.Load().pool, CurrentTime: at(cert), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return Identity{}, nil, fault.New(fault.Untrusted, op, cert.Subject.CommonName, err).
			WithHint("a member that the coordinator knows comes back by its key: POST /v1/comeback; an agent does so by itself")
	}
	pub, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return Identity{}, nil, fault.Newf(fault.Untrusted, op, cert.Subject.CommonName, "its key is not ECDSA on P-256")
	}
	id, err := c.identify(cert)
	id.Issuer = fleet.DigestOf(chains[0][len(chains[0])-1].Raw)
	return id, pub, err
}

// identify reads whom a certificate names.
func (c *CA) identify(cert *x509.Certificate) (Identity, error) {
	const op = "read identity"
	if len(cert.URIs) != 1 {
		return Identity{}, fault.Newf(fault.Untrusted, op, cert.Subject.CommonName, "the certificate has %d URIs, want one", len(cert.URIs))
	}
	id := Identity{Kind: Coordinator, Certificate: fleet.DigestOf(cert.Raw), Expires: cert.NotAfter}
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
