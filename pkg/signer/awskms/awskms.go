// Package awskms signs with ECDSA P-256 keys that never leave AWS KMS.
//
//	s, err := awskms.Open(ctx, "awskms:///alias/modelfleet/orchard/coordinator")
//
// A reference is awskms:/// and an alias, a key id or an ARN; a host between the
// slashes is another KMS endpoint (https), and so is $AWS_ENDPOINT_URL_KMS.
// Credentials and region are found as the AWS SDK finds them; an ARN brings its
// own region. The caller needs kms:DescribeKey, kms:GetPublicKey and kms:Sign.
//
// [Open] looks at the key once: one of another kind, or one that is disabled, is
// refused by name, before anything depends on it. The public half is kept, and
// every signature is checked with it: an alias that is led to another key while
// a program runs is found at the next signature, not by the fleet. Only the
// coordinator and the operator's commands import this package.
package awskms

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	sigstore "github.com/sigstore/sigstore/pkg/signature/kms/aws"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/signer"
)

// Scheme begins every reference to a key in KMS.
const Scheme = sigstore.ReferenceScheme

// timeout bounds a signature: [crypto.Signer] has no context.
const timeout = 20 * time.Second

// IsReference reports whether ref names a key in KMS rather than a file.
func IsReference(ref string) bool { return strings.HasPrefix(ref, Scheme) }

// Open finds the key that ref names and wraps it.
func Open(ctx context.Context, ref string) (*signer.Signer, error) {
	endpoint, id, _, err := sigstore.ParseReference(ref)
	if err != nil {
		return nil, fault.New(fault.Invalid, opOpen, ref, err).
			WithHint("write awskms:///alias/NAME, awskms:///KEY-ID or awskms:///arn:aws:kms:REGION:ACCOUNT:key/KEY-ID")
	}
	var opts []func(*config.LoadOptions) error
	if m := arnRegion.FindStringSubmatch(id); m != nil {
		opts = append(opts, config.WithRegion(m[1]))
	}
	if err := check(ctx, ref, endpoint, id, opts); err != nil {
		return nil, err
	}
	remote, err := sigstore.LoadSignerVerifier(ctx, ref, opts...)
	if err != nil {
		return nil, explain(opOpen, ref, err)
	}
	pub, err := remote.PublicKey(options.WithContext(ctx))
	if err != nil {
		return nil, explain(opOpen, ref, err)
	}
	ec, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return nil, fault.Newf(fault.Invalid, opOpen, ref, "a public key of type %T, want ECDSA P-256", pub).WithHint(makeKey)
	}
	s, err := signer.New(&key{ref: ref, remote: remote, pub: ec})
	if err != nil {
		return nil, fault.New(fault.Invalid, opOpen, ref, err)
	}
	return s, nil
}

const opOpen = "open KMS key"

// makeKey is the next move when a key is of the wrong kind.
const makeKey = "make one with: aws kms create-key --key-usage SIGN_VERIFY --key-spec ECC_NIST_P256 (or terraform module signing-keys)"

var arnRegion = regexp.MustCompile(`^arn:[a-z-]+:kms:([a-z0-9-]+):`)

// check asks KMS what the key is, and refuses what cannot sign for a fleet.
func check(ctx context.Context, ref, endpoint, id string, opts []func(*config.LoadOptions) error) error {
	cfg, err := config.LoadDefaultConfig(ctx, opts...)
	if err != nil {
		return explain(opOpen, ref, err)
	}
	client := kms.NewFromConfig(cfg, func(o *kms.Options) {
		if endpoint != "" {
			o.BaseEndpoint = aws.String("https://" + endpoint)
		}
	})
	out, err := client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &id})
	if err != nil {
		return explain(opOpen, ref, err)
	}
	m := out.KeyMetadata
	switch {
	case m == nil:
		return fault.Newf(fault.Internal, opOpen, ref, "KMS describes no key")
	case m.KeySpec != types.KeySpecEccNistP256 || m.KeyUsage != types.KeyUsageTypeSignVerify || len(m.SigningAlgorithms) == 0:
		return fault.Newf(fault.Invalid, opOpen, ref, "a key of spec %s for %s, want ECC_NIST_P256 for SIGN_VERIFY", m.KeySpec, m.KeyUsage).WithHint(makeKey)
	case m.KeyState != types.KeyStateEnabled:
		return disabled(opOpen, ref, fmt.Errorf("the key is in state %s", m.KeyState))
	}
	return nil
}

// key is a key in KMS.
type key struct {
	ref    string
	remote *sigstore.SignerVerifier
	pub    *ecdsa.PublicKey
}

// Public is the public half, as it was when the key was opened.
func (k *key) Public() crypto.PublicKey { return k.pub }

// Sign has KMS sign a SHA-256 digest.
func (k *key) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	const op = "sign with KMS key"
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	sig, err := k.remote.SignMessage(nil, options.WithContext(ctx), options.WithDigest(digest))
	if err != nil {
		return nil, explain(op, k.ref, err)
	}
	if !ecdsa.VerifyASN1(k.pub, digest, sig) {
		return nil, fault.Newf(fault.Conflict, op, k.ref, "another key signed than the one that was opened").
			WithHint("the alias leads to another key now: lead it back, or start again with the new key once root and policy name it (modelfleet key rotate)")
	}
	return sig, nil
}
