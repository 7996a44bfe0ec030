//go:build !keyless

package keyless_test

import (
	"strings"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/keyless"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

func TestWithoutTheTagItSaysSo(t *testing.T) {
	t.Parallel()
	_, signing := keyless.Sign(t.Context(), oms.Manifest{}, keyless.Signing{})
	_, _, verifying := keyless.Verify(nil, nil)
	_, fetching := keyless.FetchTrustedRoot(false)
	for _, err := range []error{signing, verifying, fetching} {
		if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Hint(err), "keyless") {
			t.Errorf("%v, hint %q", err, fault.Hint(err))
		}
	}
}
