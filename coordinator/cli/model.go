package cli

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/zeebo/blake3"
	"golang.org/x/crypto/blake2b"

	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/keyless"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// model is what `sign-model` and `verify-model` share. Their flags are those of
// the adapter protocol of the public OMS conformance suite, which runs them.
type model struct {
	*desk
	method, path string
	chain        []string // certificate files
	ignore       []string // paths as given
	workers      int      // files or shards hashed at once; 0: as package oms has it
	staging      bool     // of the method sigstore, like the next
	trustedRoot  string
}

func (o *model) declare(cmd *cobra.Command) {
	cmd.Hidden = true
	f := cmd.Flags()
	f.StringVar(&o.method, "method", "", "signing `method`: key, certificate, or sigstore in a build with -tags keyless")
	f.StringVar(&o.path, "model-path", "", "model `folder`, or one file")
	f.StringArrayVar(&o.chain, "cert-chain", nil, "certificate `file`, repeatable: when signing, the intermediates; when verifying, the trusted certificates")
	f.IntVar(&o.workers, "max-workers", 0, "`number` of files or shards hashed in parallel; 0: one per core, at most 8")
	f.StringArrayVar(&o.ignore, "ignore-paths", nil, "`path` in the model to ignore; repeatable")
	f.BoolVar(&o.staging, "use-staging", false, "use the staging instance of the public Sigstore")
	f.StringVar(&o.trustedRoot, "trusted-root", "", "trusted_root.json `file` of a private Sigstore; default: the public one, fetched over the network")
	for _, name := range []string{"method", "model-path"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is declared above
		}
	}
}

// checkMethod refuses a method that there is not.
func (o *model) checkMethod(op string) error {
	if slices.Contains([]string{"key", "certificate", "sigstore"}, o.method) {
		return nil
	}
	return fault.Newf(fault.Invalid, op, "--method "+o.method, "there is no such method").
		WithHint("say --method key, --method certificate or --method sigstore")
}

// sigstoreRoot is the trusted root of the method sigstore.
func (o *model) sigstoreRoot() ([]byte, error) {
	if o.trustedRoot == "" {
		return keyless.FetchTrustedRoot(o.staging)
	}
	raw, err := os.ReadFile(o.trustedRoot)
	if err != nil {
		return nil, cas.Classify("read trusted root", o.trustedRoot, err)
	}
	return raw, nil
}

func lacks(op, flag string) error {
	return fault.Newf(fault.Invalid, op, flag, "the flag is needed")
}

// unsigned gives the reason for which a model cannot be read or signed a kind
// and a next move.
func unsigned(op, path string, err error) error {
	f := fault.New(fault.Invalid, op, path, err)
	switch oms.ClassOf(err) {
	case oms.Irregular:
		return f.WithHint("a model holds plain files only: replace links by the files they lead to, or leave them out with --ignore-paths")
	case oms.Empty:
		return f.WithHint("sign whole files, without --shard-size, or leave empty ones out")
	case oms.Reading:
		f.Kind = fault.KindOf(cas.Classify(op, path, err))
	}
	return f
}

// hashTypes are the hashes that the format's registry lists besides SHA-256. They
// are for models that others signed: a fleet's are signed with SHA-256.
func hashTypes() []oms.HashType {
	return []oms.HashType{
		{Name: "blake2b", New: func() hash.Hash {
			h, err := blake2b.New512(nil)
			if err != nil {
				panic(err) // only a key can be wrong, and there is none
			}
			return h
		}},
		{Name: "blake3", New: func() hash.Hash { return blake3.New() }},
	}
}

// inside gives those of the paths that lie inside the model, relative to it.
func (o *model) inside(paths []string) []string {
	var out []string
	for _, p := range paths {
		if rel, ok := within(o.path, p); ok && !slices.Contains(out, rel) {
			out = append(out, rel)
		}
	}
	return out
}

// within is path relative to dir, if it lies below it as written or by the
// folders that links lead to.
func within(dir, path string) (string, bool) {
	rel, err := filepath.Rel(absolute(dir), absolute(path))
	if err == nil && rel != "." && filepath.IsLocal(rel) {
		return filepath.ToSlash(rel), true
	}
	realDir, err1 := filepath.EvalSymlinks(dir)
	parent, err2 := filepath.EvalSymlinks(filepath.Dir(path))
	if err1 != nil || err2 != nil {
		return "", false
	}
	rel, err = filepath.Rel(absolute(realDir), filepath.Join(absolute(parent), filepath.Base(path)))
	return filepath.ToSlash(rel), err == nil && rel != "." && filepath.IsLocal(rel)
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return filepath.Clean(path)
}

// readBundle reads a bundle, and no more of the file than one may have.
func readBundle(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, cas.Classify("read bundle", path, err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, oms.MaxBundle+1))
	if err != nil {
		return nil, cas.Classify("read bundle", path, err)
	}
	return raw, nil
}

// readChain reads the certificates of the files, each once.
func readChain(paths []string) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for _, path := range paths {
		certs, err := readPEM(path, "certificate", func(kind string, der []byte) ([]*x509.Certificate, error) {
			if kind != "CERTIFICATE" {
				return nil, nil
			}
			return x509.ParseCertificates(der)
		})
		if err != nil {
			return nil, err
		}
		for _, c := range certs {
			if !slices.ContainsFunc(out, c.Equal) {
				out = append(out, c)
			}
		}
	}
	return out, nil
}

// readPEM is what the first block of a PEM file holds that parse knows. A file
// of several certificates is one block after the other: they are joined first.
func readPEM[T *ecdsa.PrivateKey | *ecdsa.PublicKey | []*x509.Certificate](path, what string, parse func(kind string, der []byte) (T, error)) (T, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, cas.Classify("read "+what, path, err)
	}
	joined := map[string][]byte{}
	var kinds []string
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if _, ok := joined[block.Type]; !ok {
			kinds = append(kinds, block.Type)
		}
		joined[block.Type] = append(joined[block.Type], block.Bytes...)
	}
	for _, kind := range kinds {
		if v, err := parse(kind, joined[kind]); err != nil {
			return nil, fault.New(fault.Invalid, "read "+what, path, err)
		} else if v != nil {
			return v, nil
		}
	}
	return nil, fault.Newf(fault.Invalid, "read "+what, path, "there is none in it").WithHint("give a %s in PEM, unencrypted", what)
}

func privateKey(kind string, der []byte) (*ecdsa.PrivateKey, error) {
	switch {
	case kind == "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(der)
	case kind == "PRIVATE KEY":
		return ec[*ecdsa.PrivateKey](x509.ParsePKCS8PrivateKey(der))
	case strings.Contains(kind, "ENCRYPTED"):
		return nil, fmt.Errorf("the key is encrypted with a passphrase")
	}
	return nil, nil
}

func publicKey(kind string, der []byte) (*ecdsa.PublicKey, error) {
	if kind != "PUBLIC KEY" {
		return nil, nil
	}
	return ec[*ecdsa.PublicKey](x509.ParsePKIXPublicKey(der))
}

// ec is the key, which must be of an elliptic curve.
func ec[T any](key any, err error) (T, error) {
	k, ok := key.(T)
	if err == nil && !ok {
		err = fmt.Errorf("a key of type %T: OMS wants ECDSA", key)
	}
	return k, err
}
