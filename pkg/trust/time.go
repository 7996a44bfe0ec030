package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// TimeDomain begins what is signed for a [SignedTime], so that such a signature
// is worth nothing for anything else and nothing else is worth a time.
const TimeDomain = "modelfleet/time/v1"

// Nonce makes an answer the answer to one question. Never use one twice.
type Nonce [32]byte

// NewNonce draws a nonce.
func NewNonce() (n Nonce) {
	rand.Read(n[:]) // never fails
	return n
}

// SignedTime is a coordinator's word for the time, given to whoever asked with
// the nonce. Who carries it does not matter: a proxy that ends TLS can hold it
// back, and no more.
type SignedTime struct {
	Time      time.Time `json:"time"` // whole milliseconds, UTC
	Nonce     []byte    `json:"nonce"`
	Signature []byte    `json:"signature"` // ECDSA P-256 in ASN.1 DER over the SHA-256 of the message
}

// SignTime signs the time with a key of the fleet role.
func SignTime(key signature.Signer, n Nonce, at time.Time) (SignedTime, error) {
	at = at.UTC().Truncate(time.Millisecond)
	sig, err := key.SignMessage(bytes.NewReader(timeMessage(n, at)))
	if err != nil {
		return SignedTime{}, fault.New(fault.KindOf(err), "sign time", "", err)
	}
	return SignedTime{Time: at, Nonce: n[:], Signature: sig}, nil
}

// Verify returns the time if the answer is to this nonce and signed by one of the
// keys, which are those of the fleet role; see [Trusted.FleetKeys].
func (s SignedTime) Verify(n Nonce, keys []*ecdsa.PublicKey) (time.Time, error) {
	const op = "verify time"
	if !bytes.Equal(s.Nonce, n[:]) {
		return time.Time{}, Violated(RuleTime, op, "", fmt.Errorf("it answers another question than was asked: it was replayed"))
	}
	at := s.Time.UTC().Truncate(time.Millisecond)
	sum := sha256.Sum256(timeMessage(n, at))
	for _, k := range keys {
		if ecdsa.VerifyASN1(k, sum[:], s.Signature) {
			return at, nil
		}
	}
	return time.Time{}, Violated(RuleTime, op, "", fmt.Errorf("none of the fleet role's %d keys signed it", len(keys)))
}

// timeMessage is the domain, a zero byte, the nonce, and the Unix time in
// milliseconds as eight bytes, big endian.
func timeMessage(n Nonce, at time.Time) []byte {
	b := append([]byte(TimeDomain), 0)
	b = append(b, n[:]...)
	return binary.BigEndian.AppendUint64(b, uint64(at.UnixMilli()))
}
