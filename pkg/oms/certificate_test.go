package oms_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/oms"
)

var day = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// issue makes a certificate for key, signed by the parent's key; a nil parent
// makes a root.
func issue(t *testing.T, name string, k *ecdsa.PrivateKey, parent *x509.Certificate, by *ecdsa.PrivateKey, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: day.Add(-time.Hour), NotAfter: day.Add(time.Hour),
		IsCA: parent == nil, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if parent == nil {
		parent, by = c, k
	} else {
		c.KeyUsage, c.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	}
	if change != nil {
		change(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, k.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCertificatesAreCheckedNowAndForCodeSigning(t *testing.T) {
	t.Parallel()
	dir := model(t)
	m := hash(t, dir, oms.Options{})
	rootKey, leafKey, strangerKey := key(t, elliptic.P384()), key(t, elliptic.P256()), key(t, elliptic.P256())
	root := issue(t, "root", rootKey, nil, nil, nil)
	stranger := issue(t, "root", strangerKey, nil, nil, nil)
	pool := func(cs ...*x509.Certificate) *x509.CertPool {
		p := x509.NewCertPool()
		for _, c := range cs {
			p.AddCert(c)
		}
		return p
	}
	for _, c := range []struct {
		name   string
		change func(*x509.Certificate)
		roots  *x509.CertPool
		now    time.Time
		want   oms.Class
	}{
		{"good", nil, pool(root), day, oms.Unclassified},
		{"another root", nil, pool(stranger), day, oms.Certificate},
		{"no roots", nil, pool(), day, oms.Certificate},
		{"expired", nil, pool(root), day.Add(2 * time.Hour), oms.Certificate},
		{"not yet valid", nil, pool(root), day.Add(-2 * time.Hour), oms.Certificate},
		{"not for code signing", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, pool(root), day, oms.Certificate},
		{"not for signatures", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }, pool(root), day, oms.Certificate},
		{"a CA as leaf", func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage |= x509.KeyUsageCertSign }, pool(root), day, oms.Certificate},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			leaf := issue(t, "leaf", leafKey, root, rootKey, c.change)
			raw, err := oms.SignCertificate(m, leafKey, leaf)
			if err != nil {
				t.Fatal(err)
			}
			b, err := oms.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			got, err := b.VerifyCertificate(c.roots, c.now)
			if c.want != oms.Unclassified {
				wantClass(t, err, c.want)
				return
			}
			if err != nil || got.Root != m.Root {
				t.Errorf("root %s, error %v", got.Root, err)
			}
			_, err = b.VerifyKey(&leafKey.PublicKey)
			wantClass(t, err, oms.Unsupported) // the methods are not interchangeable
		})
	}
	leaf := issue(t, "leaf", leafKey, root, rootKey, nil)
	_, err := oms.SignCertificate(m, strangerKey, leaf)
	wantClass(t, err, oms.Certificate)
	raw, err := oms.Sign(m, leafKey)
	if err != nil {
		t.Fatal(err)
	}
	b, err := oms.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.VerifyCertificate(pool(root), day)
	wantClass(t, err, oms.Unsupported)
}
