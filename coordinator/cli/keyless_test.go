//go:build keyless

package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/keyless/sigstoretest"
)

// The conformance suite's adapter protocol for the method sigstore, against a
// Sigstore of our own.
func TestSignAndVerifyWithoutAKey(t *testing.T) {
	t.Parallel()
	const issuer, subject = "https://token.actions.example", "https://ci.example/train.yml"
	s := sigstoretest.Start(t)
	dir := t.TempDir()
	model, bundle, root := filepath.Join(dir, "detector"), filepath.Join(dir, "detector.sig"), filepath.Join(dir, "trusted_root.json")
	must(t, os.Mkdir(model, 0o755))
	must(t, os.WriteFile(filepath.Join(model, "weights.bin"), []byte("weights"), 0o644))
	must(t, os.WriteFile(root, s.Root, 0o644))
	run := func(want int, say string, args ...string) {
		t.Helper()
		code, said := runModel(t, time.Now(), append(args, "--method", "sigstore", "--model-path", model, "--trusted-root", root)...)
		if code != want || !strings.Contains(said, say) {
			t.Errorf("%v: exit %d, want %d with %q:\n%s", args, code, want, say, said)
		}
	}
	sign := []string{"sign-model", "--output-bundle", bundle, "--fulcio-url", s.URL, "--rekor-url", s.URL, "--identity-token"}
	run(0, "signed 1 files", append(sign, sigstoretest.Token(issuer, subject))...)
	s.Down.Store(true) // verifying asks nobody
	run(0, "is what was signed", "verify-model", "--bundle", bundle, "--identity", subject, "--identity-provider", issuer)
	run(fault.Untrusted.Exit(), "allowed", "verify-model", "--bundle", bundle, "--identity", subject+"x", "--identity-provider", issuer)
	run(fault.Untrusted.Exit(), "allowed", "verify-model", "--bundle", bundle, "--identity", subject, "--identity-provider", issuer+"x")
	must(t, os.WriteFile(filepath.Join(model, "weights.bin"), []byte("poison"), 0o644))
	run(fault.Untrusted.Exit(), "weights.bin", "verify-model", "--bundle", bundle, "--identity", subject, "--identity-provider", issuer)
}
