//go:build !keyless

package keyless

import (
	"context"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// Available reports whether this program was built with the tag "keyless".
const Available = false

func absent(op string) error {
	return fault.Newf(fault.Invalid, op, "method sigstore", "this program was built without it").
		WithHint("use a build with `-tags keyless` (`make keyless`), or a key")
}

// Sign signs a manifest.
func Sign(context.Context, oms.Manifest, Signing) ([]byte, error) {
	return nil, absent("sign model")
}

// Verify returns what a bundle says if one of the identities signed it.
func Verify([]byte, []byte, ...Identity) (oms.Manifest, Identity, error) {
	return oms.Manifest{}, Identity{}, absent("verify bundle")
}

// FetchTrustedRoot gets the trusted root of the public Sigstore, or of its
// staging instance, over the network.
func FetchTrustedRoot(bool) ([]byte, error) { return nil, absent("fetch trusted root") }
