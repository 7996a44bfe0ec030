package ca

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/signer"
)

// serverLifetime is that of the listener's certificate. It is made anew at each
// start; what clients pin is its key.
const serverLifetime = 5 * 365 * 24 * time.Hour

// ServerCertificate is a self-signed certificate for the coordinator's listener
// on the given key. Clients judge it by its key, not by its names; hosts are for
// people who look at it.
func ServerCertificate(key *signer.Signer, hosts []string, now time.Time) (tls.Certificate, error) {
	serial, err := serialOf(1)
	if err != nil {
		return tls.Certificate{}, fault.New(fault.Internal, "make server certificate", "", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "modelfleet coordinator"},
		NotBefore:    now.Add(-24 * time.Hour),
		NotAfter:     now.Add(serverLifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if h != "" {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fault.New(fault.Internal, "make server certificate", "", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fault.New(fault.Internal, "make server certificate", "", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// SelfSign makes a CA certificate for a fleet's devices on key, as `modelfleet
// init` does.
func SelfSign(fleetName string, key *signer.Signer, validFor time.Duration, now time.Time) (*x509.Certificate, error) {
	const op = "make device CA"
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fault.New(fault.Internal, op, fleetName, err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{fleetName}, CommonName: fleetName + " device CA"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(validFor),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fault.New(fault.Internal, op, fleetName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fault.New(fault.Internal, op, fleetName, err)
	}
	return cert, nil
}

// Verify checks that der was issued by the CA and says whom it names and by
// which key, for a transport that is not TLS.
func (c *CA) Verify(der []byte, now time.Time) (Identity, *ecdsa.PublicKey, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Identity{}, nil, fault.New(fault.Untrusted, "read certificate", "", err)
	}
	_, err = cert.Verify(x509.VerifyOptions{Roots: c.pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return Identity{}, nil, fault.New(fault.Untrusted, "verify certificate", cert.Subject.CommonName, err)
	}
	pub, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return Identity{}, nil, fault.Newf(fault.Untrusted, "verify certificate", cert.Subject.CommonName, "its key is not ECDSA")
	}
	id, err := c.Identify(cert)
	return id, pub, err
}
