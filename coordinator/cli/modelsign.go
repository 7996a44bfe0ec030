package cli

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/keyless"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// signModel is `sign-model`.
type signModel struct {
	model
	out, key, cert       string
	shardSize            int64
	token, fulcio, rekor string // of the method sigstore
	hash                 string
}

func (d *desk) signModelCommand() *cobra.Command {
	o := &signModel{model: model{desk: d}}
	cmd := &cobra.Command{
		Use: "sign-model", Short: "Sign a model folder or file as OMS v1.0, without a fleet", Args: cobra.NoArgs,
		Long: `Sign a model folder or file with OpenSSF Model Signing v1.0 and write the bundle.

It implements the adapter protocol of the public OMS conformance suite. To publish a
model to a fleet, use "modelfleet publish", which also signs it.`,
		Example: `  modelfleet sign-model --method key --model-path ./detector --output-bundle detector.sig --private-key key.pem
  modelfleet sign-model --method certificate --model-path ./detector --output-bundle detector.sig --private-key key.pem --signing-cert leaf.pem --cert-chain intermediate.pem
  modelfleet sign-model --method sigstore --model-path ./detector --output-bundle detector.sig --identity-token "$TOKEN"`,
		RunE: run(func(ctx context.Context, _ []string) error { return o.run(ctx) }),
	}
	o.declare(cmd)
	o.flags(cmd.Flags())
	return cmd
}

// flags are those that signing has alone.
func (o *signModel) flags(f *pflag.FlagSet) {
	f.StringVar(&o.out, "output-bundle", "", "`file` to write the bundle to")
	f.StringVar(&o.key, "private-key", "", "private EC key `file` in PEM, P-256, P-384 or P-521")
	f.StringVar(&o.cert, "signing-cert", "", "PEM certificate `file` of the key, for the method certificate")
	f.StringVar(&o.token, "identity-token", "", "identity `token` (JWT, audience sigstore) for the method sigstore")
	f.StringVar(&o.fulcio, "fulcio-url", "", "`URL` of the Sigstore certificate authority; default: the public one")
	f.StringVar(&o.rekor, "rekor-url", "", "`URL` of the Sigstore transparency log; default: the public one")
	f.StringVar(&o.hash, "hash-algorithm", "sha256", "file `hash`: sha256, blake2b or blake3 (not all verifiers support the last two)")
	f.Int64Var(&o.shardSize, "shard-size", 0, "sign shards of this many `bytes` instead of whole files")
}

func (o *signModel) run(ctx context.Context) error {
	m, err := o.write(ctx)
	if err != nil {
		return err
	}
	if o.json() {
		return o.JSON(map[string]any{"bundle": o.out, "files": len(m.Files()), "identity": m.Root.String()})
	}
	o.Print("signed %s, identity %s", console.Count(len(m.Files()), "file"), m.Root)
	return nil
}

// write signs the model and writes the bundle.
func (o *signModel) write(ctx context.Context) (oms.Manifest, error) {
	const op = "sign model"
	if err := o.complete(op); err != nil {
		return oms.Manifest{}, err
	}
	opts := oms.Options{Ignore: o.inside(append(o.ignore, o.out)), Workers: o.workers}
	if o.shardSize != 0 {
		opts.Method, opts.ShardSize = oms.Shards, o.shardSize
	}
	if o.hash != "sha256" {
		i := slices.IndexFunc(hashTypes(), func(h oms.HashType) bool { return h.Name == o.hash })
		if i < 0 {
			return oms.Manifest{}, fault.Newf(fault.Invalid, op, "--hash-algorithm "+o.hash, "there is no such hash").WithHint("say sha256, blake2b or blake3")
		}
		opts.Hash = hashTypes()[i]
	}
	m, err := oms.Hash(ctx, o.path, opts)
	if err != nil {
		return m, unsigned(op, o.path, err)
	}
	bundle, err := o.sign(ctx, m)
	if err != nil {
		if _, ok := errors.AsType[*fault.Error](err); ok {
			return m, err
		}
		return m, unsigned(op, o.path, err)
	}
	return m, cas.WriteFile(o.out, bundle, 0o644)
}

// complete checks that the method has the flags it needs.
func (o *signModel) complete(op string) error {
	if err := o.checkMethod(op); err != nil {
		return err
	}
	switch {
	case o.out == "":
		return lacks(op, "--output-bundle")
	case o.method == "sigstore" && o.token == "":
		return lacks(op, "--identity-token")
	case o.method != "sigstore" && o.key == "":
		return lacks(op, "--private-key")
	case o.method == "certificate" && o.cert == "":
		return lacks(op, "--signing-cert")
	}
	return nil
}

// sign signs by the method asked for.
func (o *signModel) sign(ctx context.Context, m oms.Manifest) ([]byte, error) {
	if o.method == "sigstore" {
		root, err := o.sigstoreRoot()
		if err != nil {
			return nil, err
		}
		s := keyless.Signing{Token: o.token, TrustedRoot: root, Fulcio: o.fulcio, Rekor: o.rekor}
		if o.staging {
			s.Fulcio, s.Rekor = cmp.Or(o.fulcio, keyless.StagingFulcio), cmp.Or(o.rekor, keyless.StagingRekor)
		}
		return keyless.Sign(ctx, m, s)
	}
	key, err := readPEM(o.key, "private key", privateKey)
	if err != nil {
		return nil, err
	}
	if o.method == "key" {
		return oms.Sign(m, key)
	}
	certs, err := readChain(append([]string{o.cert}, o.chain...))
	if err != nil {
		return nil, err
	}
	return oms.SignCertificate(m, key, certs...)
}
