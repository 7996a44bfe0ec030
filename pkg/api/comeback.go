package api

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// comebackDomain separates signatures of a comeback from every other one.
const comebackDomain = "modelfleet/comeback/v1"

// Digest is what a member signs to come back: SHA-256 over the domain and each
// field but the signature with its length in front, as docs/formats/http.md spells
// out. It binds the challenge to the member, the key it asks for and the
// certificate it had.
func (r ComebackRequest) Digest() fleet.Digest {
	h := sha256.New()
	field := func(b []byte) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
		h.Write(b)
	}
	field([]byte(comebackDomain))
	field([]byte(r.Member))
	field(r.Challenge)
	field(r.CSR)
	field(binary.BigEndian.AppendUint64(nil, r.Generation))
	field(r.Certificate)
	return fleet.Digest(h.Sum(nil))
}
