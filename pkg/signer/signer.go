// Package signer holds the keys that sign: a private ECDSA P-256 key behind
// sigstore's [signature.Signer], which TUF metadata is signed with, and at the
// same time a [crypto.Signer], which OMS bundles and certificates are.
//
//	s, err := signer.Load(ctx, "keys/vision.pem")   // PKCS#8 PEM, mode 0600
//	s, err := signer.Generate("keys/vision.pem")
//
// Every online, publisher and device key is P-256 with SHA-256: OMS, AWS KMS
// and TPMs all have it. References beginning with "awskms:///" are kept for
// keys that never leave AWS KMS; this build refuses them by name.
package signer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// maxKeyFile caps what is read of a key file.
const maxKeyFile = 64 << 10

// Signer is a private key. It is safe for concurrent use.
type Signer struct {
	inner *signature.ECDSASigner
	pub   *ecdsa.PublicKey
}

var (
	_ signature.Signer = (*Signer)(nil)
	_ crypto.Signer    = (*Signer)(nil)
)

// New wraps a private key, which must be on P-256.
func New(key *ecdsa.PrivateKey) (*Signer, error) {
	if key == nil || key.Curve != elliptic.P256() {
		return nil, fault.Newf(fault.Invalid, "use key", "", "not an ECDSA P-256 key").
			WithHint("make one with: openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt")
	}
	inner, err := signature.LoadECDSASigner(key, crypto.SHA256)
	if err != nil {
		return nil, fault.New(fault.Internal, "use key", "", err)
	}
	return &Signer{inner: inner, pub: &key.PublicKey}, nil
}

// Ephemeral returns a key that lives in memory only.
func Ephemeral() (*Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fault.New(fault.Internal, "make key", "", err)
	}
	return New(key)
}

// Load opens the key that ref names: a path to an unencrypted PEM file (PKCS#8
// or SEC 1) that only its owner may read.
func Load(ctx context.Context, ref string) (*Signer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if scheme, _, ok := strings.Cut(ref, "://"); ok {
		return nil, fault.Newf(fault.Invalid, "load key", ref, "keys of scheme %q are not supported by this build", scheme).
			WithHint("give the path of a P-256 key in PEM")
	}
	data, err := readPrivate(ref)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(data); block != nil && strings.Contains(block.Type, "ENCRYPTED") {
		return nil, fault.Newf(fault.Invalid, "load key", ref, "the key is encrypted with a passphrase").
			WithHint("write it out plain with: openssl pkcs8 -topk8 -nocrypt -in %s, and mode 0600", ref)
	}
	key, err := cryptoutils.UnmarshalPEMToPrivateKey(data, cryptoutils.SkipPassword)
	if err != nil {
		return nil, fault.New(fault.Invalid, "load key", ref, err).
			WithHint("the file must hold one P-256 private key in PEM")
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fault.Newf(fault.Invalid, "load key", ref, "a key of type %T, want ECDSA P-256", key).
			WithHint("make one with: openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt")
	}
	s, err := New(ec)
	if err != nil {
		return nil, fault.New(fault.Invalid, "load key", ref, err)
	}
	return s, nil
}

// readPrivate reads a file that nobody but its owner may read.
func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		kind := fault.Invalid
		if errors.Is(err, fs.ErrNotExist) {
			kind = fault.NotFound
		} else if errors.Is(err, fs.ErrPermission) {
			kind = fault.Denied
		}
		return nil, fault.New(kind, "load key", path, err).WithHint("check the path, or make a key with: openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt")
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fault.New(fault.Internal, "load key", path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fault.Newf(fault.Invalid, "load key", path, "not a file")
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fault.Newf(fault.Denied, "load key", path, "mode %04o lets others read it", mode).
			WithHint("chmod 600 %s", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, fault.New(fault.Internal, "load key", path, err)
	}
	return data, nil
}

// Generate makes a key and writes it to path as PKCS#8 PEM with mode 0600. An
// existing file is a Conflict: a key is never overwritten.
func Generate(path string) (*Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fault.New(fault.Internal, "make key", path, err)
	}
	data, err := cryptoutils.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return nil, fault.New(fault.Internal, "make key", path, err)
	}
	if err := create(path, data); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, fault.New(fault.Conflict, "make key", path, err).
				WithHint("choose another path: a key is never overwritten")
		}
		return nil, fault.New(fault.Invalid, "make key", path, err)
	}
	return New(key)
}

// create writes a new file durably: it is there whole after a power failure, or
// the call has not returned.
func create(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// PublicKey is the public half, as [signature.Signer] wants it.
func (s *Signer) PublicKey(...signature.PublicKeyOption) (crypto.PublicKey, error) { return s.pub, nil }

// Public is the public half, as [crypto.Signer] wants it.
func (s *Signer) Public() crypto.PublicKey { return s.pub }

// ECDSA is the public half with its own type.
func (s *Signer) ECDSA() *ecdsa.PublicKey { return s.pub }

// SignMessage signs a message, which it hashes with SHA-256.
func (s *Signer) SignMessage(message io.Reader, opts ...signature.SignOption) ([]byte, error) {
	return s.inner.SignMessage(message, opts...)
}

// Sign signs a SHA-256 digest, in ASN.1.
func (s *Signer) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts != nil && opts.HashFunc() != crypto.SHA256 {
		return nil, fault.Newf(fault.Invalid, "sign", "", "hash %s, want SHA-256", opts.HashFunc())
	}
	return s.inner.Sign(random, digest, opts)
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
		return nil, fault.New(fault.Invalid, "read public key", "", fmt.Errorf("a key of type %T, want ECDSA P-256", key))
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
