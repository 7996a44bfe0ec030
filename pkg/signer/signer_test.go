package signer_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/signer"
)

func TestGeneratedKeyIsPrivateAndLoads(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "k.pem")
	made, err := signer.Generate(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %o, want 600", info.Mode().Perm())
	}
	got, err := signer.Load(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if !got.ECDSA().Equal(made.ECDSA()) {
		t.Error("the loaded key is another one")
	}
	if _, err := signer.Generate(path); !fault.Is(err, fault.Conflict) {
		t.Errorf("generating over a key: %v, want a conflict", err)
	}
}

// One key signs for sigstore (TUF), for crypto.Signer (certificates) and for OMS.
func TestOneKeyIsAllSigners(t *testing.T) {
	t.Parallel()
	s, err := signer.Ephemeral()
	if err != nil {
		t.Fatal(err)
	}
	sig, err := s.SignMessage(bytes.NewReader([]byte("hello")))
	if err != nil {
		t.Fatal(err)
	}
	v, err := signature.LoadECDSAVerifier(s.ECDSA(), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.VerifySignature(bytes.NewReader(sig), bytes.NewReader([]byte("hello"))); err != nil {
		t.Error(err)
	}
	sum := sha256.Sum256([]byte("hello"))
	sig, err = s.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil || !ecdsa.VerifyASN1(s.ECDSA(), sum[:], sig) {
		t.Errorf("crypto.Signer: %v", err)
	}
	if _, err := s.Sign(rand.Reader, sum[:], crypto.SHA512); !fault.Is(err, fault.Invalid) {
		t.Errorf("a digest of another hash: %v", err)
	}
	if _, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, s); err != nil {
		t.Error(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "w"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := oms.Hash(t.Context(), dir, oms.Options{})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := oms.Sign(m, s)
	if err != nil {
		t.Fatal(err)
	}
	b, err := oms.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.VerifyKey(s.ECDSA()); err != nil {
		t.Error(err)
	}
}

func TestLoadRefusesWithANextMove(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string, data []byte, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, data, mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	pemOf := func(c elliptic.Curve, typ string) []byte {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
	}
	for name, c := range map[string]struct {
		ref  string
		want fault.Kind
	}{
		"absent":         {filepath.Join(dir, "none"), fault.NotFound},
		"readable":       {file("open.pem", pemOf(elliptic.P256(), "PRIVATE KEY"), 0o644), fault.Denied},
		"another curve":  {file("p384.pem", pemOf(elliptic.P384(), "PRIVATE KEY"), 0o600), fault.Invalid},
		"not a key":      {file("text.pem", []byte("hello"), 0o600), fault.Invalid},
		"encrypted":      {file("enc.pem", pemOf(elliptic.P256(), "ENCRYPTED SIGSTORE PRIVATE KEY"), 0o600), fault.Invalid},
		"a folder":       {dir, fault.Invalid},
		"KMS, for later": {"awskms:///alias/vision", fault.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := signer.Load(context.Background(), c.ref)
			if !fault.Is(err, c.want) {
				t.Errorf("%v: kind %v, want %v", err, fault.KindOf(err), c.want)
			}
			if fault.Hint(err) == "" && name != "a folder" {
				t.Errorf("%v ends without a next move", err)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := signer.Load(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled load: %v", err)
	}
}

func TestPublicKeysTravelAsPEM(t *testing.T) {
	t.Parallel()
	s, err := signer.Ephemeral()
	if err != nil {
		t.Fatal(err)
	}
	data, err := signer.EncodePublic(s.ECDSA())
	if err != nil {
		t.Fatal(err)
	}
	pub, err := signer.ParsePublic(data)
	if err != nil || !pub.Equal(s.ECDSA()) {
		t.Errorf("read back: %v", err)
	}
	if _, err := signer.ParsePublic([]byte("x")); !fault.Is(err, fault.Invalid) {
		t.Errorf("garbage: %v", err)
	}
	if a, _ := signer.Fingerprint(pub); len(a) != 64 {
		t.Errorf("fingerprint %q", a)
	}
}
