//go:build keyless

package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/keyless"
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
	run(0, "signed 1 file", append(sign, sigstoretest.Token(issuer, subject))...)
	s.Down.Store(true) // verifying asks nobody
	run(0, "matches its signature", "verify-model", "--bundle", bundle, "--identity", subject, "--identity-provider", issuer)
	run(fault.Untrusted.Exit(), "allowed", "verify-model", "--bundle", bundle, "--identity", subject+"x", "--identity-provider", issuer)
	run(fault.Untrusted.Exit(), "allowed", "verify-model", "--bundle", bundle, "--identity", subject, "--identity-provider", issuer+"x")
	must(t, os.WriteFile(filepath.Join(model, "weights.bin"), []byte("poison"), 0o644))
	run(fault.Untrusted.Exit(), "weights.bin", "verify-model", "--bundle", bundle, "--identity", subject, "--identity-provider", issuer)
}

// A fleet whose policy asks for the pipeline's word: publish refuses to go without
// it, and puts it beside the bundle by the team's key.
func TestPublishingWithoutAKeyBesidesTheTeams(t *testing.T) {
	t.Parallel()
	const issuer, subject = "https://token.actions.example", "https://ci.example/train.yml"
	s := sigstoretest.Start(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Mkdir(at("bucket"), 0o755))
	must(t, os.Mkdir(at("model"), 0o755))
	must(t, os.WriteFile(at("model/weights.bin"), []byte("weights"), 0o644))
	must(t, os.WriteFile(at("trusted_root.json"), s.Root, 0o644))
	must(t, os.WriteFile(at("token"), []byte(sigstoretest.Token(issuer, subject)+"\n"), 0o600))
	run := func(want int, say string, args ...string) {
		t.Helper()
		if code, said := runModel(t, time.Now(), args...); code != want || !strings.Contains(said, say) {
			t.Fatalf("%v: exit %d, want %d with %q:\n%s", args, code, want, say, said)
		}
	}
	publish := []string{"publish", at("model"), "detector@1.0.0", "--dir", at("orchard"), "--no-admit"}
	word := append(publish, "--identity-token-file", at("token"), "--fulcio-url", s.URL, "--rekor-url", s.URL)
	run(0, "", "init", "--dir", at("orchard"), "--name", "orchard", "--team", "vision", "--bucket", "dir:"+at("bucket"))
	run(fault.Invalid.Exit(), "asks for no keyless signature", word...)
	run(0, "", "key", "keyless", "--team", "vision", "--issuer", issuer, "--subject", subject, "--trusted-root", at("trusted_root.json"), "--dir", at("orchard"), "--yes")
	run(fault.Invalid.Exit(), "--identity-token-file", publish...)
	s.Down.Store(true)
	run(fault.Denied.Exit(), s.URL, word...)
	s.Down.Store(false)
	run(0, "published detector@1.0.0", word...)
	raw, err := os.ReadFile(at("bucket/models/vision/detector/1.0.0/default.oms.sigstore.json"))
	must(t, err)
	if _, who, err := keyless.Verify(raw, s.Root, keyless.Identity{Issuer: issuer, Subject: subject}); err != nil || who.Subject != subject {
		t.Errorf("signed by %s: %v", who, err)
	}
	run(0, "published before", word...)
	run(0, "", "key", "keyless", "--team", "vision", "--remove", "--dir", at("orchard"), "--yes")
	run(0, "published before", publish...)
}
