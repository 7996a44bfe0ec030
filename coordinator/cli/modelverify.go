package cli

import (
	"context"
	"crypto/x509"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/keyless"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// verifyModel is `verify-model`.
type verifyModel struct {
	model
	bundle, key        string
	ignoreUnsigned     bool
	identity, provider string
}

func (d *desk) verifyModelCommand() *cobra.Command {
	o := &verifyModel{model: model{desk: d}}
	cmd := &cobra.Command{
		Use: "verify-model", Short: "Check a model folder or file against its OMS bundle, without a fleet", Args: cobra.NoArgs,
		Long: `Verify that a model folder or file matches its OpenSSF Model Signing bundle exactly, and
that the bundle is signed by the given key or certificate authority. Bundles of the
first releases of the reference implementation are supported too.

It implements the adapter protocol of the public OMS conformance suite. Exit code 6
means that the model is not trusted; the message names the reason.`,
		Example: `  modelfleet verify-model --method key --model-path ./detector --bundle detector.sig --public-key key.pub
  modelfleet verify-model --method certificate --model-path ./detector --bundle detector.sig --cert-chain root.pem
  modelfleet verify-model --method sigstore --model-path ./detector --bundle detector.sig --identity ana@example.org --identity-provider https://accounts.google.com`,
		RunE: run(func(ctx context.Context, _ []string) error { return o.run(ctx) }),
	}
	o.declare(cmd)
	o.flags(cmd.Flags())
	return cmd
}

// flags are those that verifying has alone.
func (o *verifyModel) flags(f *pflag.FlagSet) {
	f.StringVar(&o.bundle, "bundle", "", "bundle `file`")
	f.StringVar(&o.key, "public-key", "", "public EC key `file` in PEM, for the method key")
	f.BoolVar(&o.ignoreUnsigned, "ignore-unsigned-files", false, "accept files that were not signed")
	f.StringVar(&o.identity, "identity", "", "allowed certificate `name` of the signer, for the method sigstore")
	f.StringVar(&o.provider, "identity-provider", "", "`URL` of the OpenID provider that issued the identity")
}

func (o *verifyModel) run(ctx context.Context) error {
	m, err := o.check(ctx)
	if err != nil {
		return err
	}
	if o.json() {
		return o.JSON(map[string]any{"ok": true, "files": len(m.Files()), "identity": m.Root.String()})
	}
	o.Print("%s matches its signature: %s, identity %s", console.Clean(o.path), console.Count(len(m.Files()), "file"), m.Root)
	return nil
}

// complete checks that the method has the flags it needs.
func (o *verifyModel) complete(op string) error {
	if err := o.checkMethod(op); err != nil {
		return err
	}
	switch {
	case o.bundle == "":
		return lacks(op, "--bundle")
	case o.method == "key" && o.key == "":
		return lacks(op, "--public-key")
	case o.method == "certificate" && len(o.chain) == 0:
		return lacks(op, "--cert-chain")
	case o.method == "sigstore" && o.identity == "":
		return lacks(op, "--identity")
	case o.method == "sigstore" && o.provider == "":
		return lacks(op, "--identity-provider")
	}
	return nil
}

// check verifies the bundle, and the model against it.
func (o *verifyModel) check(ctx context.Context) (m oms.Manifest, err error) {
	const op = "verify model"
	if err := o.complete(op); err != nil {
		return m, err
	}
	raw, err := readBundle(o.bundle)
	if err != nil {
		return m, err
	}
	b, err := oms.ParseHistorical(raw)
	if err != nil {
		return m, fault.New(fault.Untrusted, "read bundle", o.bundle, err)
	}
	b.Accept(hashTypes()...)
	if m, err = o.signed(b, raw); err != nil {
		return m, err
	}
	err = m.Check(ctx, o.path, oms.CheckOptions{Ignore: o.inside(append(o.ignore, o.bundle)), IgnoreUnsigned: o.ignoreUnsigned, Workers: o.workers})
	switch {
	case err == nil:
		return m, nil
	case oms.ClassOf(err) == oms.Reading:
		return m, unsigned(op, o.path, err)
	}
	return m, fault.New(fault.Untrusted, op, o.path, err).WithHint("the model is not what was signed: fetch it again from where it was published")
}

// signed is what the bundle says when whom we trust stands behind it.
func (o *verifyModel) signed(b *oms.Bundle, raw []byte) (oms.Manifest, error) {
	if o.method == "sigstore" {
		root, err := o.sigstoreRoot()
		if err != nil {
			return oms.Manifest{}, err
		}
		m, _, err := keyless.Verify(raw, root, keyless.Identity{Issuer: o.provider, Subject: o.identity})
		return m, err
	}
	if o.method == "key" {
		pub, err := readPEM(o.key, "public key", publicKey)
		if err != nil {
			return oms.Manifest{}, err
		}
		m, err := b.VerifyKey(pub)
		if err != nil {
			return m, fault.New(fault.Untrusted, "verify bundle", o.bundle, err).WithHint("is this the signer's key, and the method the signer's?")
		}
		return m, nil
	}
	roots := x509.NewCertPool()
	certs, err := readChain(o.chain)
	if err != nil {
		return oms.Manifest{}, err
	}
	for _, c := range certs {
		roots.AddCert(c)
	}
	m, err := b.VerifyCertificate(roots, o.now())
	if err != nil {
		return m, fault.New(fault.Untrusted, "verify bundle", o.bundle, err).WithHint("is this the signer's authority, and the method the signer's?")
	}
	return m, nil
}
