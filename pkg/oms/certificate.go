package oms

import (
	"crypto/ecdsa"
	"crypto/x509"
	"slices"
	"time"
)

// checkChain returns the leaf's key if the chain, the leaf first, leads to one
// of the roots now and the leaf may sign code. The leaf may itself be a root.
func checkChain(chain []*x509.Certificate, roots *x509.CertPool, now time.Time) (*ecdsa.PublicKey, error) {
	leaf, between := chain[0], x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	switch {
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return nil, errf(Certificate, "", "the leaf is not for digital signatures")
	case leaf.KeyUsage&x509.KeyUsageCertSign != 0:
		return nil, errf(Certificate, "", "the leaf may sign certificates: it is an authority, not a signer")
	case !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageCodeSigning):
		// Verify takes a leaf that names no usage for one of all usages.
		return nil, errf(Certificate, "", "the leaf is not for code signing")
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	})
	if err != nil {
		return nil, errf(Certificate, "", "%w", err)
	}
	pub, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, errf(Unsupported, "", "a certificate for %T: OMS wants ECDSA", leaf.PublicKey)
	}
	return pub, nil
}
