package oms

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
)

// What is written. Reading is another matter: see the reader.
type (
	bundleJSON struct {
		MediaType string       `json:"mediaType"`
		Material  materialJSON `json:"verificationMaterial"`
		Envelope  envelopeJSON `json:"dsseEnvelope"`
	}
	materialJSON struct {
		PublicKey *publicKeyJSON `json:"publicKey,omitempty"`
		Chain     *chainJSON     `json:"x509CertificateChain,omitempty"`
		Tlog      []struct{}     `json:"tlogEntries"` // the reference's readers want it, empty
	}
	publicKeyJSON struct {
		Hint string `json:"hint"`
	}
	chainJSON struct {
		Certificates []certificateJSON `json:"certificates"`
	}
	certificateJSON struct {
		RawBytes []byte `json:"rawBytes"`
	}
	envelopeJSON struct {
		Payload     []byte          `json:"payload"`
		PayloadType string          `json:"payloadType"`
		Signatures  []signatureJSON `json:"signatures"`
	}
	signatureJSON struct {
		Sig   []byte `json:"sig"`
		KeyID string `json:"keyid"` // empty, as the reference writes it
	}
	statementJSON struct {
		Type          string        `json:"_type"`
		Subject       []subjectJSON `json:"subject"`
		PredicateType string        `json:"predicateType"`
		Predicate     predicateJSON `json:"predicate"`
	}
	subjectJSON struct {
		Name   string            `json:"name"`
		Digest map[string]string `json:"digest"`
	}
	predicateJSON struct {
		Serialization serializationJSON `json:"serialization"`
		Resources     []resourceJSON    `json:"resources"`
	}
	serializationJSON struct {
		Method        Method   `json:"method"`
		HashType      string   `json:"hash_type"`
		AllowSymlinks bool     `json:"allow_symlinks"`
		ShardSize     int64    `json:"shard_size,omitempty"`
		IgnorePaths   []string `json:"ignore_paths,omitempty"`
	}
	resourceJSON struct {
		Name      string `json:"name"`
		Digest    string `json:"digest"`
		Algorithm string `json:"algorithm"`
	}
)

// Sign signs a manifest by the method key: whoever verifies must know the
// public key. The key is ECDSA on P-256, P-384 or P-521.
func Sign(m Manifest, key crypto.Signer) ([]byte, error) {
	hint, err := Fingerprint(key.Public())
	if err != nil {
		return nil, err
	}
	return sign(m, key, materialJSON{PublicKey: &publicKeyJSON{Hint: hint}})
}

// SignCertificate signs a manifest by the method certificate. certs is the
// chain, the leaf for key first, the root left out.
func SignCertificate(m Manifest, key crypto.Signer, certs ...*x509.Certificate) ([]byte, error) {
	if len(certs) == 0 || len(certs) > maxChain {
		return nil, errf(Certificate, "", "%d certificates, want 1 to %d", len(certs), maxChain)
	}
	pub, ok := certs[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || !pub.Equal(key.Public()) {
		return nil, errf(Certificate, "", "the first certificate is not the key's")
	}
	c := &chainJSON{}
	for _, cert := range certs {
		c.Certificates = append(c.Certificates, certificateJSON{cert.Raw})
	}
	return sign(m, key, materialJSON{Chain: c})
}

func sign(m Manifest, key crypto.Signer, mat materialJSON) ([]byte, error) {
	pub, ok := key.Public().(*ecdsa.PublicKey)
	if !ok {
		return nil, errf(Unsupported, "", "a key of type %T: OMS wants ECDSA", key.Public())
	}
	h, err := hashFor(pub)
	if err != nil {
		return nil, err
	}
	payload, err := m.Statement()
	if err != nil {
		return nil, err
	}
	sig, err := key.Sign(rand.Reader, signedDigest(h, payload), h)
	if err != nil {
		return nil, errf(Signature, "", "sign: %w", err)
	}
	mat.Tlog = []struct{}{}
	return json.Marshal(bundleJSON{
		MediaType: mediaType,
		Material:  mat,
		Envelope:  envelopeJSON{Payload: payload, PayloadType: payloadType, Signatures: []signatureJSON{{Sig: sig}}},
	})
}

// Statement is the in-toto statement that says what m does, of media type
// application/vnd.in-toto+json: what is to be signed by a method that is not of
// this package. A statement that [Parse] would refuse is not made.
func (m Manifest) Statement() ([]byte, error) {
	payload, err := m.encode()
	if err != nil {
		return nil, errf(Malformed, "", "%w", err)
	}
	switch read, err := parseStatement(payload, current, m.hashType()); {
	case err != nil:
		return nil, err // never sign what we would refuse
	case !read.same(m):
		return nil, errf(Irregular, "", "a name that is not UTF-8, or a range of a whole file")
	}
	return payload, nil
}

// encode is the statement's bytes.
func (m Manifest) encode() ([]byte, error) {
	s := statementJSON{
		Type:          statementType,
		Subject:       []subjectJSON{{Name: m.Name, Digest: map[string]string{hashType: m.Root.String()}}},
		PredicateType: predicateType,
		Predicate: predicateJSON{
			Serialization: serializationJSON{Method: m.Method, HashType: m.hashType().Name, ShardSize: m.ShardSize, IgnorePaths: m.Ignored},
		},
	}
	for _, r := range m.named() {
		s.Predicate.Resources = append(s.Predicate.Resources, resourceJSON{Name: r.name, Digest: hex.EncodeToString(r.digest()), Algorithm: m.hashType().Name})
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}
