package gossip

import (
	"crypto"
	"crypto/ecdsa"
	"encoding/binary"
	"net/netip"

	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// metaVersion is the first byte of metadata.
const metaVersion = 2

// The flags of metadata.
const (
	flagUplink  = 1 << iota // the member reaches the coordinator by itself
	flagMetered             // what it takes from the bucket costs it money
	flagsKnown  = flagUplink | flagMetered
)

// meta is a member's memberlist metadata: 77 bytes with its signature.
type meta struct {
	uplink, metered bool
	weight          uint8
	key             telemetry.KeyID
	share           uint16 // TCP port that it serves frames on; 0: it does not
}

// where is what a member's metadata is bound to, so that it cannot be used
// under another name, in another cell or at another address.
type where struct {
	cell, name string
	addr       netip.AddrPort
}

func (m meta) encode() []byte {
	b := []byte{metaVersion, 0, m.weight}
	if m.uplink {
		b[1] |= flagUplink
	}
	if m.metered {
		b[1] |= flagMetered
	}
	return binary.BigEndian.AppendUint16(append(b, m.key[:]...), m.share)
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
	m := meta{uplink: h[1]&flagUplink != 0, metered: h[1]&flagMetered != 0, weight: h[2], key: telemetry.KeyID(r.take(8))}
	m.share = binary.BigEndian.Uint16(r.take(2))
	r.take(telemetry.SignatureSize)
	if h[0] != metaVersion || h[1]&^flagsKnown != 0 || m.weight == 0 {
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
