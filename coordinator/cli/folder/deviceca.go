package folder

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/identity"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// deviceCALife is how long members' identities can be issued under a device CA.
const deviceCALife = 10 * 365 * 24 * time.Hour

// DeviceCA is a new certificate in PEM that members' identities are issued under.
func DeviceCA(fleetName string, key crypto.Signer, now time.Time) ([]byte, error) {
	cert, err := identity.SelfSign(fleetName, key, deviceCALife, now)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), nil
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
