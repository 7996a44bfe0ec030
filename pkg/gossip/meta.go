package gossip

import (
	"crypto"
	"crypto/ecdsa"
	"net/netip"

	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// meta is a member's memberlist metadata: 76 bytes with its signature.
type meta struct {
	uplink bool
	weight uint8
	key    telemetry.KeyID
}

// where is what a member's metadata is bound to, so that it cannot be used
// under another name, in another cell or at another address.
type where struct {
	cell, name string
	addr       netip.AddrPort
}

func (m meta) encode() []byte {
	b := []byte{wireVersion, 0, m.weight}
	if m.uplink {
		b[1] = 1
	}
	return append(b, m.key[:]...)
}

// signed is what the signature covers: more than what travels.
func (m meta) signed(w where) []byte {
	b := append(m.encode(), w.cell...)
	b = append(append(append(b, 0), w.name...), 0)
	return append(b, netip.AddrPortFrom(w.addr.Addr().Unmap(), w.addr.Port()).String()...)
}

func (m meta) sign(fleetName string, key crypto.Signer, w where) ([]byte, error) {
	sealed, err := telemetry.Seal(telemetry.MetaDomain, fleetName, key, m.signed(w))
	if err != nil {
		return nil, err
	}
	return append(m.encode(), sealed[len(sealed)-telemetry.SignatureSize:]...), nil
}

// parseMeta reads metadata and does not check its signature.
func parseMeta(b []byte) (meta, error) {
	r := &in{b: b}
	h := r.take(3)
	m := meta{uplink: h[1] == 1, weight: h[2], key: telemetry.KeyID(r.take(8))}
	r.take(telemetry.SignatureSize)
	if h[0] != wireVersion || h[1] > 1 || m.weight == 0 {
		return meta{}, errWire
	}
	return m, r.end()
}

func verifyMeta(b []byte, fleetName string, pub *ecdsa.PublicKey, w where) error {
	m, err := parseMeta(b)
	if err != nil {
		return err
	}
	sealed := append(m.signed(w), b[len(b)-telemetry.SignatureSize:]...)
	_, err = telemetry.Open(telemetry.MetaDomain, fleetName, pub, sealed)
	return err
}
