//go:build keyless

package keyless_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/keyless"
	"github.com/modelfleet/modelfleet/pkg/keyless/sigstoretest"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/signer"
)

const (
	issuer  = "https://token.actions.example"
	subject = "https://ci.example/orchard/.github/workflows/train.yml@refs/heads/main"
)

func model(t *testing.T) (string, oms.Manifest) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "detector")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "weights.bin"), []byte("weights"), 0o644))
	m, err := oms.Hash(t.Context(), dir, oms.Options{})
	must(t, err)
	return dir, m
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sign(t *testing.T, s *sigstoretest.Sigstore, m oms.Manifest) []byte {
	t.Helper()
	raw, err := keyless.Sign(t.Context(), m, keyless.Signing{Token: sigstoretest.Token(issuer, subject), TrustedRoot: s.Root, Fulcio: s.URL, Rekor: s.URL})
	must(t, err)
	return raw
}

func TestSignedByAnIdentityAndVerifiedOffline(t *testing.T) {
	t.Parallel()
	s := sigstoretest.Start(t)
	dir, m := model(t)
	raw := sign(t, s, m)
	s.Down.Store(true) // from here on nobody is asked
	for _, allowed := range []keyless.Identity{
		{Issuer: issuer, Subject: subject},
		{Issuer: issuer, Pattern: `https://ci\.example/orchard/.*`},
	} {
		got, who, err := keyless.Verify(raw, s.Root, keyless.Identity{Issuer: issuer, Subject: "https://else.example/"}, allowed)
		must(t, err)
		if got.Root != m.Root || who.Issuer != issuer || who.Subject != subject {
			t.Errorf("signed %s by %s, read %s by %s", m.Root, subject, got.Root, who)
		}
		must(t, got.Check(t.Context(), dir, oms.CheckOptions{}))
	}
}

func TestWhomNobodyAllowedIsRefused(t *testing.T) {
	t.Parallel()
	s := sigstoretest.Start(t)
	_, m := model(t)
	raw := sign(t, s, m)
	for name, allowed := range map[string][]keyless.Identity{
		"another subject":               {{Issuer: issuer, Subject: subject + "x"}},
		"another issuer":                {{Issuer: "https://accounts.example", Subject: subject}},
		"a pattern that fits in part":   {{Issuer: issuer, Pattern: `https://ci\.example`}},
		"a pattern for another's issue": {{Issuer: issuer + "/", Pattern: `.*`}},
	} {
		if _, _, err := keyless.Verify(raw, s.Root, allowed...); !fault.Is(err, fault.Untrusted) {
			t.Errorf("%s: %v, want Untrusted", name, err)
		}
	}
	for name, allowed := range map[string][]keyless.Identity{
		"nobody": nil, "no issuer": {{Subject: subject}}, "neither": {{Issuer: issuer}}, "both": {{Issuer: issuer, Subject: subject, Pattern: ".*"}},
		"a pattern that is none": {{Issuer: issuer, Pattern: "("}},
	} {
		if _, _, err := keyless.Verify(raw, s.Root, allowed...); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
}

func TestOtherBundlesAreRefused(t *testing.T) {
	t.Parallel()
	s, other := sigstoretest.Start(t), sigstoretest.Start(t)
	_, m := model(t)
	good := sign(t, s, m)
	change := func(f func(b map[string]any)) []byte {
		var b map[string]any
		must(t, json.Unmarshal(good, &b))
		f(b)
		raw, err := json.Marshal(b)
		must(t, err)
		return raw
	}
	envelope := func(b map[string]any) map[string]any { return b["dsseEnvelope"].(map[string]any) }
	material := func(b map[string]any) map[string]any { return b["verificationMaterial"].(map[string]any) }
	late := sigstoretest.Start(t)
	late.Backdate = 30 * time.Minute
	_, m2 := model(t)
	for name, c := range map[string]struct {
		raw, root []byte
		why       string
	}{
		"another Sigstore's": {good, other.Root, "log"},
		"another payload": {change(func(b map[string]any) {
			e := envelope(b)
			text, _ := base64.StdEncoding.DecodeString(e["payload"].(string))
			e["payload"] = base64.StdEncoding.EncodeToString([]byte(strings.Replace(string(text), "detector", "Detector", 1)))
		}), s.Root, "payload"},
		"no log entry": {change(func(b map[string]any) { material(b)["tlogEntries"] = []any{} }), s.Root, "log"},
		"another's log entry": {change(func(b map[string]any) {
			var x map[string]any
			must(t, json.Unmarshal(sign(t, s, m2), &x))
			material(b)["tlogEntries"] = material(x)["tlogEntries"]
		}), s.Root, ""},
		"not a bundle":       {[]byte("{}"), s.Root, "bundle"},
		"by a key":           {signedByKey(t, m), s.Root, "key or a certificate"},
		"nested in nonsense": {[]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"certificate":{"rawBytes":"AAAA"}},"dsseEnvelope":{"payload":"","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"AAAA"}]}}`), s.Root, ""},
	} {
		_, _, err := keyless.Verify(c.raw, c.root, keyless.Identity{Issuer: issuer, Subject: subject})
		if !fault.Is(err, fault.Untrusted) || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v, want Untrusted because of the %s", name, err, c.why)
		}
	}
	if _, _, err := keyless.Verify(good, []byte("{}"), keyless.Identity{Issuer: issuer, Subject: subject}); err == nil {
		t.Error("an empty trusted root was believed")
	}
	// Certificates live ten minutes; what counts is when the log took it up.
	if _, _, err := keyless.Verify(sign(t, late, m), late.Root, keyless.Identity{Issuer: issuer, Subject: subject}); err != nil {
		t.Errorf("signed half an hour ago: %v", err)
	}
}

// A certificate that was over when the log took the signature up proves nothing:
// its key may have been found since.
func TestSignedAfterTheCertificateIsRefused(t *testing.T) {
	t.Parallel()
	s := sigstoretest.Start(t)
	s.Backdate, s.Delay = 30*time.Minute, 20*time.Minute
	_, m := model(t)
	_, err := keyless.Sign(t.Context(), m, keyless.Signing{Token: sigstoretest.Token(issuer, subject), TrustedRoot: s.Root, Fulcio: s.URL, Rekor: s.URL})
	if err == nil || !strings.Contains(err.Error(), "outside certificate validity") {
		t.Errorf("signed with a certificate that was over: %v", err)
	}
}

func TestASigstoreThatIsAwayIsNamed(t *testing.T) {
	t.Parallel()
	s := sigstoretest.Start(t)
	_, m := model(t)
	_, err := keyless.Sign(t.Context(), m, keyless.Signing{Token: "no token", TrustedRoot: s.Root, Fulcio: s.URL, Rekor: s.URL})
	if !fault.Is(err, fault.Denied) || !strings.Contains(fault.Hint(err), s.URL) {
		t.Errorf("signed with no token: %v, hint %q", err, fault.Hint(err))
	}
}

func signedByKey(t *testing.T, m oms.Manifest) []byte {
	t.Helper()
	key, err := signer.Ephemeral()
	must(t, err)
	raw, err := oms.Sign(m, key)
	must(t, err)
	return raw
}
