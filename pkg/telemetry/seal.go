package telemetry

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"math/big"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Domain separates what a member's key signs: a signature made for one purpose
// says nothing for another.
type Domain string

// The domains of a member's key in telemetry and gossip.
const (
	RowDomain    Domain = "modelfleet/row/v1"
	WindowDomain Domain = "modelfleet/window/v1"
	AckDomain    Domain = "modelfleet/ack/v1"
	MetaDomain   Domain = "modelfleet/meta/v1"
)

// SignatureSize is the length of a signature: r and s, 32 bytes each, big endian.
const SignatureSize = 64

// digest is what is signed: SHA-256(domain, NUL, fleet, NUL, body).
func (d Domain) digest(fleet string, body []byte) [sha256.Size]byte {
	buf := make([]byte, 0, 512)
	buf = append(append(buf, d...), 0)
	buf = append(append(buf, fleet...), 0)
	return sha256.Sum256(append(buf, body...))
}

// Seal appends to body a signature by key, an ECDSA P-256 key of the fleet's
// member. Of the two signatures (r, s) and (r, n-s) it makes the one with the
// lower s, the only one [Open] takes.
func Seal(d Domain, fleet string, key crypto.Signer, body []byte) ([]byte, error) {
	pub, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, fault.Newf(fault.Invalid, "sign", string(d), "want an ECDSA P-256 key")
	}
	sum := d.digest(fleet, body)
	der, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return nil, fault.New(fault.Internal, "sign", string(d), err)
	}
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) > 0 {
		return nil, fault.Newf(fault.Internal, "sign", string(d), "the key made no ASN.1 signature")
	}
	order := pub.Params().N
	if sig.S.Cmp(new(big.Int).Rsh(order, 1)) > 0 {
		sig.S.Sub(order, sig.S)
	}
	out := make([]byte, len(body)+SignatureSize)
	copy(out, body)
	sig.R.FillBytes(out[len(body) : len(body)+32])
	sig.S.FillBytes(out[len(body)+32:])
	return out, nil
}

var errSignature = errors.New("the signature is not by the member's key")

// Open checks the signature at the end of msg and returns what it covers, which
// shares msg's memory.
func Open(d Domain, fleet string, pub *ecdsa.PublicKey, msg []byte) ([]byte, error) {
	if len(msg) < SignatureSize {
		return nil, fault.New(fault.Untrusted, "verify", string(d), errShort)
	}
	body, raw := msg[:len(msg)-SignatureSize], msg[len(msg)-SignatureSize:]
	r, s := new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])
	if s.Cmp(new(big.Int).Rsh(pub.Params().N, 1)) > 0 {
		return nil, fault.Newf(fault.Untrusted, "verify", string(d), "the signature's s is not the lower one")
	}
	sum := d.digest(fleet, body)
	if !ecdsa.Verify(pub, sum[:], r, s) {
		return nil, fault.New(fault.Untrusted, "verify", string(d), errSignature)
	}
	return body, nil
}
