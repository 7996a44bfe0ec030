package ca

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
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
