// Package identitytest issues members' certificates for tests, as a coordinator's
// device CA does.
package identitytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// CA is a fleet's device CA.
type CA struct {
	Certificate *x509.Certificate

	fleet string
	key   *ecdsa.PrivateKey
}

// New makes the CA of a fleet.
func New(t testing.TB, fleet string) *CA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "device CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &CA{Certificate: cert, fleet: fleet, key: key}
}

// Pool is the CA as a TLS server takes it.
func (c *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.Certificate)
	return pool
}

// Issue makes a member's certificate of a generation for a public key, valid for
// life.
func (c *CA) Issue(kind fleet.Kind, member fleet.MemberID, pub any, life time.Duration, generation uint64) ([]byte, error) {
	tmpl := &x509.Certificate{
		SerialNumber: new(big.Int).SetUint64(generation + 1), NotBefore: time.Now().Add(-life / 100), NotAfter: time.Now().Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs: []*url.URL{{Scheme: "spiffe", Host: c.fleet, Path: "/" + string(kind) + "/" + string(member)}},
	}
	return x509.CreateCertificate(rand.Reader, tmpl, c.Certificate, pub, c.key)
}
