package telemetry

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// KeyID names a member's key: the first 8 bytes of SHA-256 of its
// SubjectPublicKeyInfo.
type KeyID [8]byte

// KeyIDOf is the id of a public key.
func KeyIDOf(pub *ecdsa.PublicKey) (KeyID, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return KeyID{}, fault.New(fault.Invalid, "name key", "", err)
	}
	sum := sha256.Sum256(der)
	return KeyID(sum[:8]), nil
}

// String is the id in hex.
func (k KeyID) String() string { return hex.EncodeToString(k[:]) }

// MarshalText is the id in hex.
func (k KeyID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, k[:]), nil }

// UnmarshalText is the inverse of [KeyID.MarshalText].
func (k *KeyID) UnmarshalText(b []byte) error { return unhex("key id", k[:], b) }

// Prefix stands for a release, a rollout or a model in a row: 8 bytes of a
// SHA-256. The zero prefix stands for none.
type Prefix [8]byte

// String is the prefix in hex, or "-" for none.
func (p Prefix) String() string {
	if p.IsZero() {
		return "-"
	}
	return hex.EncodeToString(p[:])
}

// IsZero reports whether p stands for nothing.
func (p Prefix) IsZero() bool { return p == Prefix{} }

// MarshalText is the prefix in hex, all zeros for none.
func (p Prefix) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, p[:]), nil }

// UnmarshalText is the inverse of [Prefix.MarshalText].
func (p *Prefix) UnmarshalText(b []byte) error { return unhex("prefix", p[:], b) }

func unhex(what string, to, text []byte) error {
	if len(text) != 2*len(to) {
		return fault.Newf(fault.Invalid, "read "+what, string(text), "want %d hex digits", 2*len(to))
	}
	if _, err := hex.Decode(to, text); err != nil {
		return fault.New(fault.Invalid, "read "+what, string(text), err)
	}
	return nil
}

// ReleasePrefix stands for the release whose OMS root digest is d.
func ReleasePrefix(d fleet.Digest) Prefix { return Prefix(d[:8]) }

// RolloutPrefix stands for a rollout; "" gives the zero prefix.
func RolloutPrefix(id fleet.RolloutID) Prefix { return nameOf(string(id)) }

// ModelPrefix stands for a model; "" gives the zero prefix.
func ModelPrefix(m fleet.ModelName) Prefix { return nameOf(string(m)) }

// MemberPrefix stands for a member in a row about another one.
func MemberPrefix(id fleet.MemberID) Prefix { return nameOf(string(id)) }

func nameOf(s string) Prefix {
	if s == "" {
		return Prefix{}
	}
	sum := sha256.Sum256([]byte(s))
	return Prefix(sum[:8])
}

// NextEpoch is a member's boot epoch after the one it remembers (0: none). It is
// above that, and above any that was lost with a state that was damaged or could
// not be written: no epoch may come again, or begin below one that the
// coordinator knows.
func NextEpoch(last uint64, now time.Time) uint64 {
	return max(last+1, uint64(max(now.Unix(), 0)))
}
