//go:build !keyless

package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// A build without Sigstore says so, and which build has it.
func TestWithoutTheTagTheMethodSigstoreIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bundle := filepath.Join(dir, "b.sig")
	must(t, os.WriteFile(bundle, []byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"certificate":{"rawBytes":"AAAA"}},"dsseEnvelope":{"payload":"AAAA","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"AAAA"}]}}`), 0o644))
	for _, args := range [][]string{
		{"sign-model", "--output-bundle", filepath.Join(dir, "c.sig"), "--identity-token", "x", "--use-staging"},
		{"verify-model", "--bundle", bundle, "--identity", "x", "--identity-provider", "https://x", "--use-staging"},
	} {
		code, said := runModel(t, moment, append(args, "--method", "sigstore", "--model-path", bundle)...)
		if code != fault.Invalid.Exit() || !strings.Contains(said, "-tags keyless") {
			t.Errorf("%q: exit %d: %s", args, code, said)
		}
	}
}
