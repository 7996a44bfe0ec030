package oms_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/oms"
)

// day is when the vectors are read.
var day = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// steady is a key that signs without randomness, so that vectors come out the
// same each time they are made.
type steady struct{ *ecdsa.PrivateKey }

func (s steady) Sign(_ io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	return s.PrivateKey.Sign(nil, digest, o)
}

// named is a key made from its name. It is of no use but here.
func named(t testing.TB, name string, curve elliptic.Curve) steady {
	t.Helper()
	size := (curve.Params().BitSize + 7) / 8
	var raw []byte
	for i := 0; len(raw) < size; i++ {
		sum := sha256.Sum256(fmt.Appendf(nil, "modelfleet test vector key %s %d", name, i))
		raw = append(raw, sum[:]...)
	}
	raw = raw[:size]
	raw[0] = 0 // below the order of each curve
	k, err := ecdsa.ParseRawPrivateKey(curve, raw)
	if err != nil {
		t.Fatal(err)
	}
	return steady{k}
}

func publicPEM(t testing.TB, k steady) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func certificatePEM(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// issue makes a certificate for a key, good from a year before day to a year
// after it and for code signing; without a parent, a root.
func issue(t testing.TB, name string, pub any, parent *x509.Certificate, by steady, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: day.AddDate(-1, 0, 0), NotAfter: day.AddDate(1, 0, 0), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	if change != nil {
		change(c)
	}
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(nil, c, parent, pub, by)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// authority is a change that makes a certificate one of an authority.
func authority(c *x509.Certificate) {
	c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
}

func expired(c *x509.Certificate) { c.NotAfter = day.AddDate(0, 0, -1) }
func early(c *x509.Certificate)   { c.NotBefore = day.AddDate(0, 0, 1) }

// both applies two changes.
func both(a, b func(*x509.Certificate)) func(*x509.Certificate) {
	return func(c *x509.Certificate) { a(c); b(c) }
}

// file is one entry of a vector's model folder.
type file struct {
	Path    string `json:"path,omitempty"`
	PathHex string `json:"pathHex,omitempty"` // a name that is not UTF-8
	Text    string `json:"text,omitempty"`
	Hex     string `json:"hex,omitempty"`
	Link    string `json:"link,omitempty"` // a symbolic link to it
	Kind    string `json:"kind,omitempty"` // "folder" or "pipe"
}

// lay makes the folder.
func lay(t testing.TB, dir string, files []file) {
	t.Helper()
	for _, f := range files {
		name := f.Path
		if f.PathHex != "" {
			b, err := hex.DecodeString(f.PathHex)
			must(t, err)
			name = string(b)
		}
		path := filepath.Join(dir, filepath.FromSlash(name))
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		content, err := hex.DecodeString(f.Hex)
		must(t, err)
		switch {
		case f.Link != "":
			err = os.Symlink(f.Link, path)
		case f.Kind == "folder":
			err = os.Mkdir(path, 0o755)
		case f.Kind == "pipe":
			err = syscall.Mkfifo(path, 0o600)
		default:
			err = os.WriteFile(path, append([]byte(f.Text), content...), 0o644)
		}
		must(t, err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// doc is a bundle taken apart, to be changed and signed again.
type doc struct {
	bundle    map[string]any
	statement map[string]any
}

func apart(t testing.TB, bundle []byte) *doc {
	t.Helper()
	d := &doc{}
	must(t, json.Unmarshal(bundle, &d.bundle))
	payload, err := base64.StdEncoding.DecodeString(d.envelope()["payload"].(string))
	must(t, err)
	must(t, json.Unmarshal(payload, &d.statement))
	return d
}

// resign signs what change makes of a good bundle with the right key, so that
// it dies at the check meant for it and not at the signature. raw changes the
// payload's bytes; encoding is DSSE's by default.
func resign(t testing.TB, good []byte, k steady, change func(*doc), raw func([]byte) []byte, encoding func([]byte) []byte) []byte {
	t.Helper()
	d := apart(t, good)
	if change != nil {
		change(d)
	}
	payload, err := json.Marshal(d.statement)
	must(t, err)
	if raw != nil {
		payload = raw(payload)
	}
	if encoding == nil {
		encoding = pae
	}
	h := map[int]crypto.Hash{256: crypto.SHA256, 384: crypto.SHA384, 521: crypto.SHA512}[k.Curve.Params().BitSize]
	w := h.New()
	w.Write(encoding(payload))
	sig, err := k.Sign(nil, w.Sum(nil), h)
	must(t, err)
	d.envelope()["payload"] = payload
	if sigs, ok := d.envelope()["signatures"].([]any); ok && len(sigs) > 0 {
		if _, given := sigs[0].(map[string]any)["sig"].(string); given {
			sigs[0].(map[string]any)["sig"] = sig
		}
	}
	out, err := json.Marshal(d.bundle)
	must(t, err)
	return out
}

func pae(payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 28 application/vnd.in-toto+json %d %s", len(payload), payload)
}

// oldPAE is what release 0.2 signed.
func oldPAE(payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEV1 28 application/vnd.in-toto+json %d %s", len(payload), oms.PythonBytes(payload))
}

func (d *doc) envelope() map[string]any { return d.bundle["dsseEnvelope"].(map[string]any) }
func (d *doc) material() map[string]any { return d.bundle["verificationMaterial"].(map[string]any) }
func (d *doc) signature() map[string]any {
	return d.envelope()["signatures"].([]any)[0].(map[string]any)
}
func (d *doc) predicate() map[string]any { return d.statement["predicate"].(map[string]any) }
func (d *doc) serialization() map[string]any {
	return d.predicate()["serialization"].(map[string]any)
}
func (d *doc) subject() map[string]any       { return d.statement["subject"].([]any)[0].(map[string]any) }
func (d *doc) resources() []any              { return d.predicate()["resources"].([]any) }
func (d *doc) resource(i int) map[string]any { return d.resources()[i].(map[string]any) }

// setResources takes the resources, and makes the root digest theirs.
func (d *doc) setResources(rs []any) {
	d.predicate()["resources"] = rs
	h := sha256.New()
	for i := range rs {
		b, _ := hex.DecodeString(d.resource(i)["digest"].(string))
		h.Write(b)
	}
	d.subject()["digest"] = map[string]any{"sha256": hex.EncodeToString(h.Sum(nil))}
}

// resignSHA256 signs a payload as release 0.2 did, with SHA-256 whatever the key.
func resignSHA256(t testing.TB, bundle []byte, k steady) []byte {
	t.Helper()
	d := apart(t, bundle)
	payload, err := base64.StdEncoding.DecodeString(d.envelope()["payload"].(string))
	must(t, err)
	sum := sha256.Sum256(oldPAE(payload))
	sig, err := k.Sign(nil, sum[:], crypto.SHA256)
	must(t, err)
	d.signature()["sig"] = sig
	out, err := json.Marshal(d.bundle)
	must(t, err)
	return out
}

// rootOfVector is the root digest over the digests in the order of the bundle,
// worked out from the JSON alone.
func rootOfVector(t testing.TB, v vector) string {
	t.Helper()
	d := apart(t, []byte(v.Bundle))
	list, _ := d.statement["subject"].([]any)
	if p := d.predicate(); p["resources"] != nil {
		list = d.resources()
	}
	h := sha256.New()
	for _, r := range list {
		digest := r.(map[string]any)["digest"]
		if m, ok := digest.(map[string]any); ok {
			digest = m["sha256"]
		}
		b, err := hex.DecodeString(digest.(string))
		must(t, err)
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil))
}
