package oms

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	_ "crypto/sha512" // for P-384 and P-521
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"time"
)

// bundle is a Sigstore bundle, as far as OMS uses it.
type bundle struct {
	MediaType string   `json:"mediaType"`
	Material  material `json:"verificationMaterial"`
	Envelope  envelope `json:"dsseEnvelope"`
}

type material struct {
	PublicKey *publicKey        `json:"publicKey,omitempty"`
	Chain     *chain            `json:"x509CertificateChain,omitempty"`
	Single    json.RawMessage   `json:"certificate,omitempty"` // method sigstore
	Tlog      []json.RawMessage `json:"tlogEntries,omitempty"`
	Times     json.RawMessage   `json:"timestampVerificationData,omitempty"`
}

type publicKey struct {
	Hint       string `json:"hint,omitempty"`
	RawBytes   []byte `json:"rawBytes,omitempty"`   // bundles before v1.0 only
	KeyDetails string `json:"keyDetails,omitempty"` // bundles before v1.0 only
}

type chain struct {
	Certificates []rawCertificate `json:"certificates"`
}

type rawCertificate struct {
	RawBytes []byte `json:"rawBytes"`
}

type envelope struct {
	Payload     []byte      `json:"payload"`
	PayloadType string      `json:"payloadType"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	Sig   []byte  `json:"sig"`
	KeyID *string `json:"keyid,omitempty"` // informative: accepted, never used
}

// Sign signs a manifest by the method key: whoever verifies must know the
// public key. The key is ECDSA on P-256, P-384 or P-521.
func Sign(m Manifest, key crypto.Signer) ([]byte, error) {
	hint, err := Fingerprint(key.Public())
	if err != nil {
		return nil, err
	}
	return sign(m, key, material{PublicKey: &publicKey{Hint: hint}})
}

// SignCertificate signs a manifest by the method certificate. certs is the
// chain, the leaf for key first, the root left out.
func SignCertificate(m Manifest, key crypto.Signer, certs ...*x509.Certificate) ([]byte, error) {
	if len(certs) == 0 {
		return nil, errf(Certificate, "", "no certificate")
	}
	pub, ok := certs[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || !pub.Equal(key.Public()) {
		return nil, errf(Certificate, "", "the first certificate is not the key's")
	}
	c := &chain{}
	for _, cert := range certs {
		c.Certificates = append(c.Certificates, rawCertificate{cert.Raw})
	}
	return sign(m, key, material{Chain: c})
}

func sign(m Manifest, key crypto.Signer, mat material) ([]byte, error) {
	pub, ok := key.Public().(*ecdsa.PublicKey)
	if !ok {
		return nil, errf(Unsupported, "", "a key of type %T: OMS wants ECDSA", key.Public())
	}
	payload, err := m.encode()
	if err != nil {
		return nil, errf(Malformed, "", "%w", err)
	}
	if _, err := parseStatement(payload); err != nil {
		return nil, err // never sign what we would refuse
	}
	h, err := hashFor(pub)
	if err != nil {
		return nil, err
	}
	sig, err := key.Sign(rand.Reader, digest(h, pae(payloadType, payload)), h)
	if err != nil {
		return nil, errf(Signature, "", "sign: %w", err)
	}
	return json.Marshal(bundle{
		MediaType: mediaType,
		Material:  mat,
		Envelope:  envelope{Payload: payload, PayloadType: payloadType, Signatures: []signature{{Sig: sig}}},
	})
}

// Bundle is a parsed bundle nobody vouches for yet: only its Verify methods
// give what it says.
type Bundle struct {
	b     bundle
	certs []*x509.Certificate
}

// Parse reads a bundle of at most [MaxBundle] bytes. It checks the form, not
// the signature.
func Parse(data []byte) (*Bundle, error) {
	if len(data) > MaxBundle {
		return nil, errf(TooLarge, "", "a bundle of %d bytes, at most %d", len(data), MaxBundle)
	}
	var b bundle
	if err := DecodeStrict(data, &b); err != nil {
		return nil, errf(Malformed, "", "bundle: %w", err)
	}
	switch {
	case !strings.HasPrefix(b.MediaType, mediaTypeAny):
		return nil, errf(Malformed, "", "media type %q", b.MediaType)
	case b.Envelope.PayloadType != payloadType:
		return nil, errf(Malformed, "", "payload type %q", b.Envelope.PayloadType)
	case len(b.Envelope.Signatures) != 1:
		return nil, errf(Malformed, "", "%d signatures, want 1", len(b.Envelope.Signatures))
	case len(b.Material.Single) > 0:
		return nil, errf(Unsupported, "", "method sigstore (keyless)")
	case (b.Material.PublicKey == nil) == (b.Material.Chain == nil):
		return nil, errf(Malformed, "", "verification material must be one of publicKey, x509CertificateChain")
	}
	out := &Bundle{b: b}
	if c := b.Material.Chain; c != nil {
		for _, raw := range c.Certificates {
			cert, err := x509.ParseCertificate(raw.RawBytes)
			if err != nil {
				return nil, errf(Malformed, "", "certificate: %w", err)
			}
			out.certs = append(out.certs, cert)
		}
		if len(out.certs) == 0 || len(out.certs) > 16 {
			return nil, errf(Malformed, "", "%d certificates in the chain", len(out.certs))
		}
	}
	return out, nil
}

// Hint is the fingerprint of the key that the bundle claims, or "" when it was
// signed by certificate. It is a claim, for messages.
func (b *Bundle) Hint() string {
	if b.b.Material.PublicKey == nil {
		return ""
	}
	return b.b.Material.PublicKey.Hint
}

// VerifyKey returns what the bundle says if one of the keys signed it.
func (b *Bundle) VerifyKey(pubs ...*ecdsa.PublicKey) (Manifest, error) {
	if b.b.Material.PublicKey == nil {
		return Manifest{}, errf(Unsupported, "", "signed by certificate, not by key")
	}
	for _, pub := range pubs {
		ok, err := b.signedBy(pub)
		if err != nil {
			return Manifest{}, err
		}
		if ok {
			return parseStatement(b.b.Envelope.Payload)
		}
	}
	return Manifest{}, errf(Signature, "", "none of %d trusted keys signed it; it names key %.12s", len(pubs), b.Hint())
}

// VerifyCertificate returns what the bundle says if its chain leads to one of
// the roots at the time now, for code signing, and the leaf signed it. Unlike
// the reference implementation it does not move the clock to the leaf's
// beginning: an expired certificate is expired.
func (b *Bundle) VerifyCertificate(roots *x509.CertPool, now time.Time) (Manifest, error) {
	if len(b.certs) == 0 {
		return Manifest{}, errf(Unsupported, "", "signed by key, not by certificate")
	}
	leaf, between := b.certs[0], x509.NewCertPool()
	for _, c := range b.certs[1:] {
		between.AddCert(c)
	}
	if leaf.IsCA || leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return Manifest{}, errf(Certificate, "", "the leaf is not for digital signatures")
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	})
	if err != nil {
		return Manifest{}, errf(Certificate, "", "%w", err)
	}
	pub, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return Manifest{}, errf(Unsupported, "", "a certificate for %T: OMS wants ECDSA", leaf.PublicKey)
	}
	ok, err = b.signedBy(pub)
	if err != nil {
		return Manifest{}, err
	}
	if !ok {
		return Manifest{}, errf(Signature, "", "the certificate's key did not sign it")
	}
	return parseStatement(b.b.Envelope.Payload)
}

func (b *Bundle) signedBy(pub *ecdsa.PublicKey) (bool, error) {
	h, err := hashFor(pub)
	if err != nil {
		return false, err
	}
	return ecdsa.VerifyASN1(pub, digest(h, pae(b.b.Envelope.PayloadType, b.b.Envelope.Payload)), b.b.Envelope.Signatures[0].Sig), nil
}

// Fingerprint names a public key as OMS does: hex SHA-256 over its PEM text.
func Fingerprint(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", errf(Unsupported, "", "public key: %w", err)
	}
	sum := sha256.Sum256(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	return hex.EncodeToString(sum[:]), nil
}

// hashFor is the hash the format pairs with a key's curve.
func hashFor(pub *ecdsa.PublicKey) (crypto.Hash, error) {
	switch pub.Curve {
	case elliptic.P256():
		return crypto.SHA256, nil
	case elliptic.P384():
		return crypto.SHA384, nil
	case elliptic.P521():
		return crypto.SHA512, nil
	}
	return 0, errf(Unsupported, "", "curve %s", pub.Curve.Params().Name)
}

func digest(h crypto.Hash, data []byte) []byte {
	w := h.New()
	w.Write(data)
	return w.Sum(nil)
}

// pae is DSSE's pre-authentication encoding.
func pae(typ string, body []byte) []byte {
	var buf bytes.Buffer
	fmt.Fprintf(&buf, "DSSEv1 %d %s %d ", len(typ), typ, len(body))
	buf.Write(body)
	return buf.Bytes()
}

// Unverified returns what the bundle says without asking who signed it: for
// listing, and for whoever just made it. Never act on it.
func (b *Bundle) Unverified() (Manifest, error) { return parseStatement(b.b.Envelope.Payload) }
