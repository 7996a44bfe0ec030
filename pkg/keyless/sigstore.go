//go:build keyless

package keyless

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// Available reports whether this program was built with the tag "keyless".
const Available = true

// statementType is the media type of what is signed.
const statementType = "application/vnd.in-toto+json"

// Sign signs a manifest: with a key that is thrown away, certified for the
// token's identity, and an entry in the transparency log. It asks both services
// over the network and verifies their answers by the trusted root.
func Sign(ctx context.Context, m oms.Manifest, o Signing) ([]byte, error) {
	const op = "sign model"
	payload, err := m.Statement()
	if err != nil {
		return nil, fault.New(fault.Invalid, op, m.Name, err)
	}
	trusted, err := readRoot(o.TrustedRoot)
	if err != nil {
		return nil, err
	}
	key, err := sign.NewEphemeralKeypair(nil) // P-256
	if err != nil {
		return nil, fault.New(fault.Internal, op, m.Name, err)
	}
	fulcio, rekor := cmp.Or(o.Fulcio, PublicFulcio), cmp.Or(o.Rekor, PublicRekor)
	signed, err := sign.Bundle(&sign.DSSEData{Data: payload, PayloadType: statementType}, key, sign.BundleOptions{
		Context:                    ctx,
		CertificateProvider:        sign.NewFulcio(&sign.FulcioOptions{BaseURL: fulcio, Retries: 2}),
		CertificateProviderOptions: &sign.CertificateProviderOptions{IDToken: o.Token},
		TransparencyLogs:           []sign.Transparency{sign.NewRekor(&sign.RekorOptions{BaseURL: rekor, Retries: 2})},
		TrustedRoot:                trusted,
	})
	if err != nil {
		return nil, fault.New(fault.Denied, op, m.Name, err).
			WithHint("is the token fresh, of audience \"sigstore\", and known to %s? Is %s the log of the trusted root?", fulcio, rekor)
	}
	raw, err := protojson.Marshal(signed)
	if err != nil {
		return nil, fault.New(fault.Internal, op, m.Name, err)
	}
	if _, err := oms.Parse(raw); err != nil { // never give out what we would refuse
		return nil, fault.New(fault.Internal, op, m.Name, err)
	}
	return raw, nil
}

// Verify returns what a bundle says if one of the identities signed it, and
// which one: the certificate leads to an authority of the trusted root, was
// valid when the transparency log took the signature up, and the log's own
// promise or proof is good. It asks nobody.
func Verify(raw, trustedRoot []byte, allowed ...Identity) (oms.Manifest, Identity, error) {
	const op = "verify bundle"
	refuse := func(err error, hint string) (oms.Manifest, Identity, error) {
		return oms.Manifest{}, Identity{}, fault.New(fault.Untrusted, op, "method sigstore", err).WithHint("%s", hint)
	}
	claim, err := oms.ParseHistorical(raw)
	if err != nil {
		return refuse(err, "it is no bundle of OpenSSF Model Signing: fetch it again from where it was published")
	}
	if !claim.Keyless() {
		return refuse(errors.New("it was signed by a key or a certificate"), "verify it by the method it was signed by")
	}
	trusted, err := readRoot(trustedRoot)
	if err != nil {
		return oms.Manifest{}, Identity{}, err
	}
	policy, err := policyOf(allowed)
	if err != nil {
		return oms.Manifest{}, Identity{}, err
	}
	b := &bundle.Bundle{}
	if err := b.UnmarshalJSON(raw); err != nil {
		return refuse(err, "fetch it again from where it was published")
	}
	v, err := verifier(trusted)
	if err != nil {
		return refuse(err, "give a trusted root that names a certificate authority and a transparency log")
	}
	result, err := v.Verify(b, policy)
	if err != nil {
		return refuse(err, "is the signer one of those allowed, and the trusted root of the Sigstore it was signed with?")
	}
	// Two parsers read the same bytes: what one verified must be what the other reads.
	if env, err := b.Envelope(); err != nil || !samePayload(env, claim.Payload()) {
		return refuse(errors.Join(errors.New("its payload can be read in two ways"), err), "do not use it")
	}
	m, err := claim.Unverified() // verified by now
	if err != nil {
		return refuse(err, "the signer signed something that is no model")
	}
	who := Identity{Subject: result.Signature.Certificate.SubjectAlternativeName, Issuer: result.Signature.Certificate.Issuer}
	return m, who, nil
}

// samePayload compares what sigstore-go verified with what package oms reads.
func samePayload(env *bundle.Envelope, payload []byte) bool {
	text, err := env.DecodeB64Payload()
	return err == nil && bytes.Equal(text, payload)
}

// verifier asks for everything the trusted root can prove.
func verifier(trusted *root.TrustedRoot) (*verify.Verifier, error) {
	if len(trusted.RekorLogs()) == 0 {
		return nil, errors.New("the trusted root names no transparency log")
	}
	options := []verify.VerifierOption{verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1)}
	if len(trusted.CTLogs()) > 0 {
		options = append(options, verify.WithSignedCertificateTimestamps(1))
	}
	return verify.NewVerifier(trusted, options...)
}

func policyOf(allowed []Identity) (verify.PolicyBuilder, error) {
	var options []verify.PolicyOption
	for _, i := range allowed {
		if err := i.Check(); err != nil {
			return verify.PolicyBuilder{}, err
		}
		pattern := i.Pattern
		if pattern != "" {
			pattern = "^(?:" + pattern + ")$"
		}
		id, err := verify.NewShortCertificateIdentity(i.Issuer, "", i.Subject, pattern)
		if err != nil {
			return verify.PolicyBuilder{}, fault.New(fault.Invalid, "read identity", i.String(), err)
		}
		options = append(options, verify.WithCertificateIdentity(id))
	}
	if len(options) == 0 {
		return verify.PolicyBuilder{}, fault.Newf(fault.Invalid, "verify bundle", "method sigstore", "nobody is allowed to have signed it").
			WithHint("name the signer: an OpenID issuer and a subject")
	}
	// What was signed is compared file by file, from the statement.
	return verify.NewPolicy(verify.WithoutArtifactUnsafe(), options...), nil
}

func readRoot(raw []byte) (*root.TrustedRoot, error) {
	trusted, err := root.NewTrustedRootFromJSON(raw)
	if err != nil {
		return nil, fault.New(fault.Invalid, "read trusted root", "", err).
			WithHint("give Sigstore's trusted_root.json, or that of your own deployment")
	}
	return trusted, nil
}

// FetchTrustedRoot gets the trusted root of the public Sigstore, or of its
// staging instance, over the network: by that Sigstore's own TUF repository,
// from a root built into sigstore-go.
func FetchTrustedRoot(staging bool) ([]byte, error) {
	const op = "fetch trusted root"
	options := tuf.DefaultOptions()
	if staging {
		options.Root, options.RepositoryBaseURL = tuf.StagingRoot(), tuf.StagingMirror
	}
	client, err := tuf.New(options)
	if err != nil {
		return nil, fault.New(fault.Transient, op, options.RepositoryBaseURL, err).WithHint("give a trusted root as a file")
	}
	raw, err := client.GetTarget("trusted_root.json")
	if err != nil {
		return nil, fault.New(fault.Transient, op, options.RepositoryBaseURL, fmt.Errorf("target trusted_root.json: %w", err))
	}
	return raw, nil
}
