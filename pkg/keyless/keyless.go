// Package keyless signs and verifies models by OpenSSF Model Signing's method
// sigstore: no key is kept; a certificate that lives ten minutes binds the
// signature to an identity which an OpenID provider vouches for (a person, a
// build pipeline), and a transparency log shows when it was made.
//
//	bundle, err := keyless.Sign(ctx, manifest, keyless.Signing{Token: token, TrustedRoot: root})
//	manifest, who, err := keyless.Verify(bundle, root, keyless.Identity{Issuer: "https://token.actions.githubusercontent.com", Subject: "..."})
//
// Verifying asks nobody: everything that is needed is in the bundle and in the
// trusted root, which for a fleet is a target of its own TUF policy.
//
// The work is sigstore-go's, which brings some seventy modules and 12 MB: it is
// linked only with the build tag "keyless", into the publisher's commands and
// the coordinator, never into a member. Without the tag every call says so.
package keyless

import (
	"regexp"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// The public Sigstore instances, the defaults of [Signing].
const (
	PublicFulcio  = "https://fulcio.sigstore.dev"
	PublicRekor   = "https://rekor.sigstore.dev"
	StagingFulcio = "https://fulcio.sigstage.dev"
	StagingRekor  = "https://rekor.sigstage.dev"
)

// Identity is who may have signed. Exactly one of Subject and Pattern is set.
type Identity struct {
	Issuer  string `json:"issuer"`            // URL of the OpenID provider, exactly
	Subject string `json:"subject,omitempty"` // the certificate's name, exactly: a mail address, a workflow's URI
	Pattern string `json:"pattern,omitempty"` // RE2 that must match the whole name
}

// Check reports why the identity would let in more than somebody meant, or nil.
func (i Identity) Check() error {
	const op = "read identity"
	switch {
	case i.Issuer == "":
		return fault.Newf(fault.Invalid, op, i.Subject+i.Pattern, "it has no issuer").
			WithHint("name the OpenID provider: anybody can open an account with the same name elsewhere")
	case (i.Subject == "") == (i.Pattern == ""):
		return fault.Newf(fault.Invalid, op, i.Issuer, "it needs a subject or a pattern, one of them")
	}
	if _, err := regexp.Compile(i.Pattern); err != nil {
		return fault.New(fault.Invalid, op, i.Pattern, err)
	}
	return nil
}

// String is the identity for people.
func (i Identity) String() string {
	if i.Pattern != "" {
		return "/" + i.Pattern + "/ of " + i.Issuer
	}
	return i.Subject + " of " + i.Issuer
}

// Signing says with whose word to sign, and whom to ask.
type Signing struct {
	Token       string // identity token (JWT) of the OpenID provider, with the audience "sigstore"
	TrustedRoot []byte // trusted_root.json; what was signed is verified by it before it is given back
	Fulcio      string // certificate authority; default [PublicFulcio]
	Rekor       string // transparency log; default [PublicRekor]
}
