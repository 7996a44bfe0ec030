package oms

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	_ "crypto/sha512" // for P-384 and P-521
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
	"time"
)

// Bundle is a parsed bundle nobody vouches for yet: only its Verify methods
// give what it says.
type Bundle struct {
	media    string
	material material
	envelope envelope
	certs    []*x509.Certificate
	era      era
	hashes   []HashType // besides SHA-256
}

// material is what a bundle says about who signed it.
type material struct {
	key     bool   // publicKey: method key
	hint    string // a name of the key
	chain   bool   // x509CertificateChain: method certificate
	certs   [][]byte
	keyless bool // certificate: method sigstore
}

// methods is how many methods the material is of.
func (m *material) methods() (n int) {
	for _, is := range []bool{m.key, m.chain, m.keyless} {
		if is {
			n++
		}
	}
	return n
}

// envelope is a DSSE envelope.
type envelope struct {
	payload     []byte
	payloadType string
	signatures  int
	sig         []byte // the first
}

// Parse reads a bundle of at most [MaxBundle] bytes. It checks the form, not
// the signature. Public keys given whole, as bundles before v1.1 did, are read;
// for anything older there is [ParseHistorical].
func Parse(data []byte) (*Bundle, error) {
	if len(data) > MaxBundle {
		return nil, errf(TooLarge, "", "a bundle of %d bytes, at most %d", len(data), MaxBundle)
	}
	b := &Bundle{}
	if err := b.from(&reader{data: data}); err != nil {
		return nil, within(err, "bundle")
	}
	switch {
	case !strings.HasPrefix(b.media, mediaTypeAny):
		return nil, errf(Malformed, "", "media type %q", b.media)
	case b.envelope.payloadType != payloadType:
		return nil, errf(Malformed, "", "payload type %q", b.envelope.payloadType)
	case b.envelope.signatures != 1:
		return nil, errf(Malformed, "", "%d signatures, want 1", b.envelope.signatures)
	case len(b.envelope.sig) == 0:
		return nil, errf(Malformed, "", "an empty signature")
	case b.material.methods() != 1:
		return nil, errf(Malformed, "", "verification material must be one of publicKey, x509CertificateChain, certificate")
	}
	if !b.material.chain {
		return b, nil
	}
	for _, der := range b.material.certs {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, errf(Malformed, "", "certificate: %w", err)
		}
		b.certs = append(b.certs, cert)
	}
	if len(b.certs) == 0 {
		return nil, errf(Malformed, "", "no certificates in the chain")
	}
	return b, nil
}

func (b *Bundle) from(r *reader) error {
	err := r.object(func(key []byte) error {
		switch string(key) {
		case "mediaType":
			return r.text(&b.media)
		case "verificationMaterial":
			return b.material.from(r)
		case "dsseEnvelope":
			return b.envelope.from(r)
		}
		return r.unknown("the bundle", key)
	})
	if err != nil {
		return err
	}
	return r.end()
}

func (m *material) from(r *reader) error {
	return r.object(func(key []byte) error {
		switch string(key) {
		case "publicKey":
			m.key = true
			whole := false
			err := r.object(func(key []byte) error {
				if string(key) == "hint" {
					return r.text(&m.hint)
				}
				whole = whole || string(key) == "rawBytes" // before v1.1; the key that counts is the caller's
				return r.skip()
			})
			if err == nil && m.hint == "" && !whole {
				return errf(Malformed, "", "publicKey has neither hint nor rawBytes")
			}
			return err
		case "x509CertificateChain":
			m.chain = true
			return r.object(func(key []byte) error {
				if string(key) != "certificates" {
					return r.skip()
				}
				return r.array(func() error { return m.certificateFrom(r) })
			})
		case "certificate":
			m.keyless = true
		}
		return r.skip() // tlogEntries and timestamps, for the method sigstore
	})
}

func (m *material) certificateFrom(r *reader) error {
	if len(m.certs) == maxChain {
		return errf(TooLarge, "", "more than %d certificates in the chain", maxChain)
	}
	var der []byte
	err := r.object(func(key []byte) error {
		if string(key) == "rawBytes" {
			return r.base64(&der)
		}
		return r.skip()
	})
	m.certs = append(m.certs, der)
	return err
}

func (e *envelope) from(r *reader) error {
	return r.object(func(key []byte) error {
		switch string(key) {
		case "payload":
			return r.base64(&e.payload)
		case "payloadType":
			return r.text(&e.payloadType)
		case "signatures":
			return r.array(func() error { return e.signatureFrom(r) })
		}
		return r.unknown("the envelope", key)
	})
}

func (e *envelope) signatureFrom(r *reader) error {
	e.signatures++
	var sig []byte
	err := r.object(func(key []byte) error {
		switch string(key) {
		case "sig":
			return r.base64(&sig)
		case "keyid": // text or null, informative: accepted, never used
			if r.word("null") {
				return nil
			}
			var id string
			return r.text(&id)
		}
		return r.unknown("a signature", key)
	})
	if e.signatures == 1 {
		e.sig = sig
	}
	return err
}

// Hint is the fingerprint of the key that the bundle claims, or "" when it was
// signed by certificate. It is a claim, for messages.
func (b *Bundle) Hint() string { return b.material.hint }

// Certificates is the chain in a bundle signed by certificate, the leaf first,
// or nil. It is a claim until [Bundle.VerifyCertificate] says otherwise.
func (b *Bundle) Certificates() []*x509.Certificate { return b.certs }

// Accept lets the bundle be of another hash than SHA-256, of those given.
func (b *Bundle) Accept(hashes ...HashType) { b.hashes = append(b.hashes, hashes...) }

// Keyless reports whether the bundle is of the method sigstore, which this
// package reads and does not verify.
func (b *Bundle) Keyless() bool { return b.material.keyless }

// Payload is the statement's bytes as they were signed. They are a claim, for
// whoever verifies the method sigstore by other means.
func (b *Bundle) Payload() []byte { return b.envelope.payload }

// method names how the bundle was signed.
func (b *Bundle) method() string {
	switch {
	case b.material.keyless:
		return "sigstore (keyless)"
	case b.material.chain:
		return "certificate"
	}
	return "key"
}

// VerifyKey returns what the bundle says if one of the keys signed it.
func (b *Bundle) VerifyKey(pubs ...*ecdsa.PublicKey) (Manifest, error) {
	if !b.material.key {
		return Manifest{}, errf(Unsupported, "", "signed by the method %s, not by key", b.method())
	}
	for _, pub := range pubs {
		from, ok, err := b.signedBy(pub)
		if err != nil {
			return Manifest{}, err
		}
		if ok {
			return parseStatement(b.envelope.payload, from, b.hashes...)
		}
	}
	return Manifest{}, errf(Signature, "", "none of %d trusted keys signed it; it names key %.12s", len(pubs), b.Hint())
}

// VerifyCertificate returns what the bundle says if its chain leads to one of
// the roots at the time now, for code signing, and the leaf signed it. Unlike
// the reference implementation it does not move the clock to the leaf's
// beginning: an expired certificate is expired, be it leaf, root or between.
func (b *Bundle) VerifyCertificate(roots *x509.CertPool, now time.Time) (Manifest, error) {
	if len(b.certs) == 0 {
		return Manifest{}, errf(Unsupported, "", "signed by the method %s, not by certificate", b.method())
	}
	pub, err := checkChain(b.certs, roots, now)
	if err != nil {
		return Manifest{}, err
	}
	from, ok, err := b.signedBy(pub)
	if err != nil {
		return Manifest{}, err
	}
	if !ok {
		return Manifest{}, errf(Signature, "", "the certificate's key did not sign it")
	}
	return parseStatement(b.envelope.payload, from, b.hashes...)
}

// Unverified returns what the bundle says without asking who signed it: for
// listing, and for whoever just made it. Never act on it.
func (b *Bundle) Unverified() (Manifest, error) {
	return parseStatement(b.envelope.payload, b.era, b.hashes...)
}

// signedBy reports whether pub signed the payload, and as a statement of when.
func (b *Bundle) signedBy(pub *ecdsa.PublicKey) (from era, ok bool, err error) {
	h, err := hashFor(pub)
	if err != nil {
		return 0, false, err
	}
	if ecdsa.VerifyASN1(pub, signedDigest(h, b.envelope.payload), b.envelope.sig) {
		return b.era, true, nil
	}
	return before1, b.era == historical && b.signedBefore1(pub), nil
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
	return 0, errf(Unsupported, "", "curve %s, want P-256, P-384 or P-521", pub.Curve.Params().Name)
}

// signedDigest is the digest of DSSE's pre-authentication encoding of a payload.
func signedDigest(h crypto.Hash, payload []byte) []byte {
	w := h.New()
	fmt.Fprintf(w, "DSSEv1 %d %s %d ", len(payloadType), payloadType, len(payload))
	w.Write(payload)
	return w.Sum(nil)
}
