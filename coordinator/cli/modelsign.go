package cli

import (
	"context"
	"crypto/x509"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// signModel is `sign-model`.
type signModel struct {
	model
	out, key, cert string
	shardSize      int64
}

func (d *desk) signModelCommand() *cobra.Command {
	o := &signModel{model: model{desk: d}}
	cmd := &cobra.Command{
		Use: "sign-model", Short: "Sign a model folder or file as OMS v1.0, without a fleet", Args: cobra.NoArgs,
		Long: `Sign a model folder or file with OpenSSF Model Signing v1.0 and write the bundle.

It speaks the adapter protocol of the public OMS conformance suite. To publish a
model to a fleet use "modelfleet publish", which signs too.`,
		Example: `  modelfleet sign-model --method key --model-path ./detector --output-bundle detector.sig --private-key key.pem
  modelfleet sign-model --method certificate --model-path ./detector --output-bundle detector.sig --private-key key.pem --signing-cert leaf.pem --cert-chain intermediate.pem`,
		RunE: run(func(ctx context.Context, _ []string) error { return o.run(ctx) }),
	}
	o.declare(cmd)
	f := cmd.Flags()
	f.StringVar(&o.out, "output-bundle", "", "`file` to write the bundle to")
	f.StringVar(&o.key, "private-key", "", "private EC key `file` in PEM, P-256, P-384 or P-521")
	f.StringVar(&o.cert, "signing-cert", "", "certificate `file` of the key in PEM, for the method certificate")
	f.StringArrayVar(&o.chain, "cert-chain", nil, "certificate `file` between it and the root; may be repeated, leaf to root")
	f.StringVar(&o.token, "identity-token", "", "`token` for the method sigstore, which this build does not have")
	f.Int64Var(&o.shardSize, "shard-size", 0, "sign ranges of so many `bytes` in place of whole files")
	return cmd
}

func (o *signModel) run(ctx context.Context) error {
	const op = "sign model"
	switch {
	case o.method != "key" && o.method != "certificate":
		return noMethod(op, o.method)
	case o.out == "":
		return lacks(op, "--output-bundle")
	case o.key == "":
		return lacks(op, "--private-key")
	case o.method == "certificate" && o.cert == "":
		return lacks(op, "--signing-cert")
	}
	key, err := readPEM(o.key, "private key", privateKey)
	if err != nil {
		return err
	}
	opts := oms.Options{Ignore: o.inside(append(o.ignore, o.out))}
	if o.shardSize != 0 {
		opts.Method, opts.ShardSize = oms.Shards, o.shardSize
	}
	m, err := oms.Hash(ctx, o.path, opts)
	if err != nil {
		return unsigned(op, o.path, err)
	}
	var bundle []byte
	if o.method == "key" {
		bundle, err = oms.Sign(m, key)
	} else {
		var certs []*x509.Certificate
		if certs, err = readChain(append([]string{o.cert}, o.chain...)); err != nil {
			return err
		}
		bundle, err = oms.SignCertificate(m, key, certs...)
	}
	if err != nil {
		return unsigned(op, o.path, err)
	}
	if err := cas.WriteFile(o.out, bundle, 0o644); err != nil {
		return err
	}
	if o.json() {
		return o.JSON(map[string]any{"bundle": o.out, "files": len(m.Files()), "identity": m.Root.String()})
	}
	o.Print("signed %d files, identity %s", len(m.Files()), m.Root)
	return nil
}
