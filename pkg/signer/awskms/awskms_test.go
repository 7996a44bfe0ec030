package awskms_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/signer/awskms"
	"github.com/modelfleet/modelfleet/pkg/signer/awskms/kmstest"
)

const alias = "alias/modelfleet/orchard/coordinator"

// One key in KMS signs all that a fleet signs: TUF metadata, OMS bundles and
// certificates. The fake fails the test when a request is not as KMS wants it.
func TestAKeyInKMSSignsEverything(t *testing.T) {
	k := kmstest.New(t)
	k.Use(t)
	s, err := awskms.Open(t.Context(), k.Key(alias))
	if err != nil {
		t.Fatal(err)
	}
	v, err := signature.LoadECDSAVerifier(s.ECDSA(), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := s.SignMessage(strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if err := v.VerifySignature(bytes.NewReader(sig), strings.NewReader("hello")); err != nil {
		t.Error(err)
	}
	m := metadata.Root()
	key, err := metadata.KeyFromPublicKey(s.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Signed.AddKey(key, metadata.ROOT); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Sign(s); err != nil {
		t.Fatal(err)
	}
	if err := m.VerifyDelegate(metadata.ROOT, m); err != nil {
		t.Errorf("TUF: %v", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "w"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	manifest, err := oms.Hash(t.Context(), dir, oms.Options{})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := oms.Sign(manifest, s)
	if err != nil {
		t.Fatal(err)
	}
	b, err := oms.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.VerifyKey(s.ECDSA()); err != nil {
		t.Errorf("OMS: %v", err)
	}
	if _, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, s); err != nil {
		t.Errorf("X.509: %v", err)
	}
	if k.Signatures() != 4 {
		t.Errorf("KMS signed %d times, want 4", k.Signatures())
	}
}

// Aliases, ids and ARNs all name a key; an ARN's region is where it is asked for.
func TestReferences(t *testing.T) {
	k := kmstest.New(t)
	k.Use(t)
	const id = "1234abcd-12ab-34cd-56ef-1234567890ab"
	for _, name := range []string{"alias/x", id, "arn:aws:kms:us-east-2:111122223333:key/" + id, "arn:aws:kms:us-east-2:111122223333:alias/x"} {
		if _, err := awskms.Open(t.Context(), k.Key(name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, ref := range []string{"awskms:///", "awskms:///nothing", "awskms://alias", "gcpkms://x/y"} {
		_, err := awskms.Open(t.Context(), ref)
		refused(t, err, fault.Invalid, ref)
	}
}

func refused(t *testing.T, err error, kind fault.Kind, parts ...string) {
	t.Helper()
	if !fault.Is(err, kind) {
		t.Fatalf("%v of kind %v, want %v", err, fault.KindOf(err), kind)
	}
	if fault.Hint(err) == "" {
		t.Errorf("%v ends without a next move", err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%v does not name %q", err, p)
		}
	}
}

func TestOpenRefusesByName(t *testing.T) {
	k := kmstest.New(t)
	k.Use(t)
	for name, c := range map[string]struct {
		ref  string
		do   func(*kmstest.Key)
		kind fault.Kind
		says string
	}{
		"another curve":     {k.P384("alias/a"), nil, fault.Invalid, "ECC_NIST_P384"},
		"RSA":               {k.RSA("alias/b"), nil, fault.Invalid, "RSA_2048"},
		"for key agreement": {k.Key("alias/c"), func(k *kmstest.Key) { k.Usage = "KEY_AGREEMENT" }, fault.Invalid, "KEY_AGREEMENT"},
		"disabled":          {k.Key("alias/d"), func(k *kmstest.Key) { k.State = "Disabled" }, fault.Denied, "Disabled"},
		"to be deleted":     {k.Key("alias/e"), func(k *kmstest.Key) { k.State = "PendingDeletion" }, fault.Denied, "PendingDeletion"},
		"denied":            {k.Key("alias/f"), func(k *kmstest.Key) { k.Denied = true }, fault.Denied, "AccessDenied"},
		"absent":            {"awskms:///alias/nobody", nil, fault.NotFound, "alias/nobody"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.do != nil {
				k.Change(strings.TrimPrefix(c.ref, "awskms:///"), c.do)
			}
			_, err := awskms.Open(t.Context(), c.ref)
			refused(t, err, c.kind, c.ref, c.says)
		})
	}
}

// What happens to a key while a program uses it comes out as what it is.
func TestSigningRefusesByName(t *testing.T) {
	k := kmstest.New(t)
	k.Use(t)
	s, err := awskms.Open(t.Context(), k.Key(alias))
	if err != nil {
		t.Fatal(err)
	}
	digest := make([]byte, 32)
	sign := func() error { _, err := s.Sign(rand.Reader, digest, crypto.SHA256); return err }
	for code, kind := range map[string]fault.Kind{
		"ThrottlingException": fault.Transient, "KMSInternalException": fault.Transient, "KeyUnavailableException": fault.Transient,
		"ExpiredTokenException": fault.Denied, "KMSInvalidStateException": fault.Denied, "InvalidKeyUsageException": fault.Invalid,
	} {
		k.Fail(3, code) // as often as the SDK tries
		refused(t, sign(), kind, code, alias)
		k.Fail(0, "")
	}
	k.Fail(1, "ThrottlingException")
	if err := sign(); err != nil {
		t.Errorf("throttled once: %v", err)
	}
	k.Change(alias, func(k *kmstest.Key) { k.State = "Disabled" })
	refused(t, sign(), fault.Denied, "DisabledException")
	k.Change(alias, func(k *kmstest.Key) { k.State, k.Denied = "Enabled", true })
	refused(t, sign(), fault.Denied, "AccessDeniedException")
	k.Change(alias, func(k *kmstest.Key) { k.Denied = false })
	if err := sign(); err != nil {
		t.Errorf("once all is well again: %v", err)
	}
	// Somebody leads the alias to another key.
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k.Change(alias, func(k *kmstest.Key) { k.Private = other })
	refused(t, sign(), fault.Conflict, "another key")
	if _, err := s.Sign(rand.Reader, digest[:20], crypto.SHA256); !fault.Is(err, fault.Invalid) {
		t.Errorf("a short digest: %v", err)
	}
}

// The network and this machine's own configuration are told apart.
func TestWithoutKMS(t *testing.T) {
	k := kmstest.New(t)
	k.Use(t)
	ref := k.Key(alias)
	t.Setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:1")
	_, err := awskms.Open(t.Context(), ref)
	refused(t, err, fault.Transient, ref)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/none")
	t.Setenv("AWS_CONFIG_FILE", "/none")
	t.Setenv("AWS_ENDPOINT_URL_KMS", "")
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	_, err = awskms.Open(t.Context(), ref)
	refused(t, err, fault.Invalid, ref, "region")
	t.Setenv("AWS_REGION", "eu-west-1")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	_, err = awskms.Open(t.Context(), ref)
	refused(t, err, fault.Denied, ref, "credentials")
}
