// Package keyref opens the key that a reference names, wherever it is kept: the
// one place that knows the kinds there are.
//
//	keys/vision.pem                         a file, P-256 in PEM, mode 0600
//	awskms:///alias/modelfleet/orchard/vision   a key that never leaves AWS KMS
//	ana.pub                                 (only [Public]) a public key in PEM
//
// The coordinator and the operator's commands use it for every key they take;
// agents and functions do not, for it links AWS.
package keyref

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/signer/awskms"
)

// Options says how keys are opened.
type Options struct {
	// Passphrase asks for the passphrase of a sealed file; nil: such keys are refused.
	Passphrase func(path string) ([]byte, error)
}

// Open opens a key to sign with.
func Open(ctx context.Context, ref string, o Options) (*signer.Signer, error) {
	if awskms.IsReference(ref) {
		return awskms.Open(ctx, ref)
	}
	return signer.LoadSealed(ctx, ref, o.Passphrase)
}

// maxPublic caps what is read of a public key's file.
const maxPublic = 64 << 10

// Public is the public half of the key that ref names: a file of it, or a key
// that could also sign.
func Public(ctx context.Context, ref string, o Options) (*ecdsa.PublicKey, error) {
	const op = "read public key"
	if awskms.IsReference(ref) {
		s, err := awskms.Open(ctx, ref)
		if err != nil {
			return nil, err
		}
		return s.ECDSA(), nil
	}
	f, err := os.Open(ref)
	if err != nil {
		kind := fault.Invalid
		if errors.Is(err, fs.ErrNotExist) {
			kind = fault.NotFound
		}
		return nil, fault.New(kind, op, ref, err).WithHint("have its holder run `modelfleet key create NAME.pem` and send you NAME.pub")
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPublic))
	if err != nil {
		return nil, fault.New(fault.Invalid, op, ref, err)
	}
	if strings.Contains(string(data), "PRIVATE KEY") {
		s, err := signer.LoadSealed(ctx, ref, o.Passphrase)
		if err != nil {
			return nil, err
		}
		return s.ECDSA(), nil
	}
	pub, err := signer.ParsePublic(data)
	if err != nil {
		return nil, fault.New(fault.Invalid, op, ref, err)
	}
	return pub, nil
}

// Holder is a name for whoever holds the key that ref names: that of its file or
// alias, without what only says which role it is for.
func Holder(ref string) string {
	name := path.Base(filepath.ToSlash(ref))
	name = strings.TrimSuffix(strings.TrimSuffix(name, ".pub"), ".pem")
	for _, role := range []string{"root-", "policy-", "publisher-"} {
		if rest, ok := strings.CutPrefix(name, role); ok && rest != "" {
			return rest
		}
	}
	return name
}
