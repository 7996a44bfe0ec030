package folder

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
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

// MayFinish says why the policy may not go over to the newest device CA alone yet,
// going by what the coordinator knows of each.
func MayFinish(newest []byte, known []api.DeviceCAInfo) error {
	const op = "take out device CA"
	block, _ := pem.Decode(newest)
	if block == nil {
		return fault.Newf(fault.Invalid, op, trust.PathDeviceCA, "it is not PEM")
	}
	keep, issues := fleet.DigestOf(block.Bytes), false
	for _, ca := range known {
		issues = issues || ca.Issues && ca.Fingerprint == keep
	}
	if !issues {
		return fault.Newf(fault.Conflict, op, keep.Short(), "the coordinator does not issue certificates with the CA that would be left: nobody could renew").
			WithHint("copy its key into keys/ of the coordinator's fleet folder, as device-ca*.pem, and wait until its log says that it issues")
	}
	for _, ca := range known {
		if ca.Fingerprint != keep && ca.Members > 0 {
			return fault.Newf(fault.Conflict, op, keep.Short(), "CA %s is still in use by %s", ca.Fingerprint.Short(), console.Count(ca.Members, "member")).
				WithHint("certificates live 7 days: wait until they have renewed; or --now if it was stolen")
		}
	}
	return nil
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
