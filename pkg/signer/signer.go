// Package signer holds the keys that sign: a private ECDSA P-256 key behind
// sigstore's [signature.Signer], which TUF metadata is signed with, and at the
// same time a [crypto.Signer], which OMS bundles and certificates are.
//
//	s, err := signer.Load(ctx, "keys/vision.pem")   // PKCS#8 PEM, mode 0600
//	s, err := signer.Generate("keys/vision.pem")
//	s, err := signer.New(remote)                    // any P-256 crypto.Signer
//
// Every online, publisher and device key is P-256 with SHA-256: OMS, AWS KMS
// and TPMs all have it. Keys that never leave AWS KMS are package awskms's, and
// whoever takes either kind opens it with package keyref: this package links
// nothing of AWS, so that agents need not.
package signer

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Signer is a private key, here or elsewhere. It is as safe for concurrent use as
// the key behind it.
type Signer struct {
	key crypto.Signer
	pub *ecdsa.PublicKey
}

var (
	_ signature.Signer = (*Signer)(nil)
	_ crypto.Signer    = (*Signer)(nil)
)

// makeKey is the next move of whoever has no key that fits.
const makeKey = "make one with: modelfleet key create FILE.pem"

// New wraps a private key, which must be on P-256.
func New(key crypto.Signer) (*Signer, error) {
	var pub *ecdsa.PublicKey
	if key != nil {
		pub, _ = key.Public().(*ecdsa.PublicKey)
	}
	if pub == nil || pub.Curve != elliptic.P256() {
		return nil, fault.Newf(fault.Invalid, "use key", "", "not an ECDSA P-256 key").WithHint(makeKey)
	}
	return &Signer{key: key, pub: pub}, nil
}

// Ephemeral returns a key that lives in memory only.
func Ephemeral() (*Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fault.New(fault.Internal, "make key", "", err)
	}
	return New(key)
}

// PublicKey is the public half, as [signature.Signer] wants it.
func (s *Signer) PublicKey(...signature.PublicKeyOption) (crypto.PublicKey, error) { return s.pub, nil }

// Public is the public half, as [crypto.Signer] wants it.
func (s *Signer) Public() crypto.PublicKey { return s.pub }

// ECDSA is the public half with its own type.
func (s *Signer) ECDSA() *ecdsa.PublicKey { return s.pub }

// SignMessage signs a message, which it hashes with SHA-256.
func (s *Signer) SignMessage(message io.Reader, opts ...signature.SignOption) ([]byte, error) {
	digest, hash, err := signature.ComputeDigestForSigning(message, crypto.SHA256, []crypto.Hash{crypto.SHA256}, opts...)
	if err != nil {
		return nil, fault.New(fault.Invalid, "sign", "", err)
	}
	return s.Sign(rand.Reader, digest, hash)
}

// Sign signs a SHA-256 digest, in ASN.1.
func (s *Signer) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts != nil && opts.HashFunc() != crypto.SHA256 {
		return nil, fault.Newf(fault.Invalid, "sign", "", "hash %s, want SHA-256", opts.HashFunc())
	}
	if len(digest) != sha256.Size {
		return nil, fault.Newf(fault.Invalid, "sign", "", "a digest of %d bytes, want %d", len(digest), sha256.Size)
	}
	return s.key.Sign(random, digest, crypto.SHA256)
}

// Fingerprint names a public key: hex SHA-256 over its SubjectPublicKeyInfo.
func Fingerprint(pub *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fault.New(fault.Invalid, "name key", "", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// ParsePublic reads a P-256 public key in PEM.
func ParsePublic(data []byte) (*ecdsa.PublicKey, error) {
	key, err := cryptoutils.UnmarshalPEMToPublicKey(data)
	if err != nil {
		return nil, fault.New(fault.Invalid, "read public key", "", err).WithHint("give one PUBLIC KEY block in PEM")
	}
	ec, ok := key.(*ecdsa.PublicKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, fault.New(fault.Invalid, "read public key", "", fmt.Errorf("a key of type %T, want ECDSA P-256", key)).WithHint(makeKey)
	}
	return ec, nil
}

// EncodePublic is a public key in PEM.
func EncodePublic(pub *ecdsa.PublicKey) ([]byte, error) {
	data, err := cryptoutils.MarshalPublicKeyToPEM(pub)
	if err != nil {
		return nil, fault.New(fault.Invalid, "write public key", "", err)
	}
	return data, nil
}
