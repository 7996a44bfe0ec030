package folder

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// deviceCALife is how long members' identities can be issued under a device CA.
const deviceCALife = 10 * 365 * 24 * time.Hour

// DeviceCA is a new certificate in PEM that members' identities are issued under.
func DeviceCA(fleetName string, key crypto.Signer, now time.Time) ([]byte, error) {
	const op = "make device CA"
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fault.New(fault.Internal, op, fleetName, err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{fleetName}, CommonName: fleetName + " device CA"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(deviceCALife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fault.New(fault.KindOf(err), op, fleetName, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// certificates reads a list of certificates in PEM.
func certificates(listed []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := listed; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out, nil
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fault.New(fault.Invalid, "read device CA", trust.PathDeviceCA, err)
		}
		out = append(out, c)
	}
}

// NewestCA is the newest of the listed certificates, in PEM, and how many others
// there are.
func NewestCA(listed []byte) (newest []byte, others int, err error) {
	all, err := certificates(listed)
	if err != nil || len(all) == 0 {
		return nil, 0, err
	}
	last := all[0]
	for _, c := range all[1:] {
		if !c.NotBefore.Before(last.NotBefore) {
			last = c
		}
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: last.Raw}), len(all) - 1, nil
}

// IsCA reports whether a certificate of the key is listed.
func IsCA(listed []byte, key crypto.PublicKey) bool {
	all, err := certificates(listed)
	if err != nil {
		return false
	}
	for _, c := range all {
		if pub, ok := c.PublicKey.(*ecdsa.PublicKey); ok && pub.Equal(key) {
			return true
		}
	}
	return false
}
