package identity

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// SelfSign makes the certificate of a device CA, which members' identities are
// issued under, on a key. `modelfleet init` and `modelfleet key rotate device-ca`
// put it into the policy.
func SelfSign(fleetName string, key crypto.Signer, life time.Duration, now time.Time) (*x509.Certificate, error) {
	const op = "make device CA"
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fault.New(fault.Internal, op, fleetName, err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{fleetName}, CommonName: fleetName + " device CA"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(life),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fault.New(fault.KindOf(err), op, fleetName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fault.New(fault.Internal, op, fleetName, err)
	}
	return cert, nil
}
