package signer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// maxKeyFile caps what is read of a key file.
const maxKeyFile = 64 << 10

// Load opens the key in a file: PEM without a passphrase (PKCS#8 or SEC 1) that
// only its owner may read.
func Load(ctx context.Context, path string) (*Signer, error) { return LoadSealed(ctx, path, nil) }

// LoadSealed is [Load] for a key that may have a passphrase, as sigstore's tools
// write it ("ENCRYPTED SIGSTORE PRIVATE KEY"). The passphrase is asked for only
// when there is one. It costs 134 MiB of memory for a moment: for people's
// commands, not for devices.
func LoadSealed(ctx context.Context, path string, passphrase func(path string) ([]byte, error)) (*Signer, error) {
	const op = "load key"
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if scheme, _, ok := strings.Cut(path, "://"); ok {
		return nil, fault.Newf(fault.Invalid, op, path, "keys of scheme %q cannot be used here", scheme).
			WithHint("give the path of a P-256 key in PEM")
	}
	data, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	pass := cryptoutils.SkipPassword
	if block, _ := pem.Decode(data); block != nil && strings.Contains(block.Type, "ENCRYPTED") {
		if passphrase == nil {
			return nil, fault.Newf(fault.Invalid, op, path, "the key is encrypted with a passphrase, and this program cannot prompt for one").
				WithHint("services need an unencrypted key file of mode 0600 (modelfleet key create FILE.pem) or a key in KMS")
		}
		text, err := passphrase(path)
		if err != nil {
			return nil, err
		}
		pass = cryptoutils.StaticPasswordFunc(text)
	}
	key, err := cryptoutils.UnmarshalPEMToPrivateKey(data, pass)
	switch {
	case err != nil && strings.Contains(err.Error(), "decrypt"):
		return nil, fault.Newf(fault.Denied, op, path, "wrong passphrase").
			WithHint("try again; if the passphrase is lost, replace the key with `modelfleet key rotate`")
	case err != nil:
		return nil, fault.New(fault.Invalid, op, path, err).WithHint("the file must hold one P-256 private key in PEM")
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fault.Newf(fault.Invalid, op, path, "a key of type %T, want ECDSA P-256", key).WithHint(makeKey)
	}
	s, err := New(ec)
	if err != nil {
		return nil, fault.New(fault.Invalid, op, path, err)
	}
	return s, nil
}

// readPrivate reads a file that nobody but its owner may read.
func readPrivate(path string) ([]byte, error) {
	const op = "load key"
	f, err := os.Open(path)
	if err != nil {
		kind := fault.Invalid
		if errors.Is(err, fs.ErrNotExist) {
			kind = fault.NotFound
		} else if errors.Is(err, fs.ErrPermission) {
			kind = fault.Denied
		}
		return nil, fault.New(kind, op, path, err).WithHint("check the path, or %s", makeKey)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fault.New(fault.Internal, op, path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fault.Newf(fault.Invalid, op, path, "not a file")
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fault.Newf(fault.Denied, op, path, "mode %04o lets others read it", mode).
			WithHint("chmod 600 %s", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, fault.New(fault.Internal, op, path, err)
	}
	return data, nil
}

// Generate makes a key and writes it to path as PKCS#8 PEM with mode 0600. An
// existing file is a Conflict: a key is never overwritten.
func Generate(path string) (*Signer, error) { return GenerateSealed(path, nil) }

// GenerateSealed is [Generate] with a passphrase; none makes a plain file.
func GenerateSealed(path string, passphrase []byte) (*Signer, error) {
	const op = "make key"
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fault.New(fault.Internal, op, path, err)
	}
	var data []byte
	if len(passphrase) == 0 {
		data, err = cryptoutils.MarshalPrivateKeyToPEM(key)
	} else if data, err = cryptoutils.MarshalPrivateKeyToEncryptedDER(key, cryptoutils.StaticPasswordFunc(passphrase)); err == nil {
		data = pem.EncodeToMemory(&pem.Block{Type: string(cryptoutils.EncryptedSigstorePrivateKeyPEMType), Bytes: data})
	}
	if err != nil {
		return nil, fault.New(fault.Internal, op, path, err)
	}
	if err := create(path, data); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, fault.New(fault.Conflict, op, path, err).
				WithHint("choose another path: a key is never overwritten")
		}
		return nil, fault.New(fault.Invalid, op, path, err)
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
