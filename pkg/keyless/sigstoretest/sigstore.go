//go:build keyless

// Package sigstoretest is a small Sigstore for tests: a certificate authority
// that answers as Fulcio does and a transparency log that answers as Rekor does,
// over HTTP, with the trusted root that vouches for both. It checks what real
// ones check of a request: that the asker holds the key, that the entry is
// signed; identity tokens it takes at their word.
package sigstoretest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-openapi/runtime"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	_ "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1" // the kind of entry that is logged
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
)

// Sigstore is a running instance.
type Sigstore struct {
	URL  string // of both services
	Root []byte // trusted_root.json

	// Down makes both services answer 503.
	Down atomic.Bool
	// Backdate is how long ago certificates and entries of the log are made.
	Backdate time.Duration
	// Delay is how long after its certificate an entry is made. Certificates live
	// ten minutes.
	Delay time.Duration

	authority *x509.Certificate
	key       *ecdsa.PrivateKey
	log       *ca.VirtualSigstore
	logID     [32]byte
}

// Start starts one; it ends with the test.
func Start(t testing.TB) *Sigstore {
	t.Helper()
	s := &Sigstore{}
	top, topKey, err := certify("root", nil, nil)
	must(t, err)
	s.authority, s.key, err = certify("authority", top, topKey)
	must(t, err)
	s.log, err = ca.NewVirtualSigstore()
	must(t, err)
	must(t, s.trust(top))
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v2/signingCert", s.serve(s.grant))
	mux.HandleFunc("POST /api/v1/log/entries", s.serve(s.enter))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	s.URL = server.URL
	return s
}

// certify makes the certificate of an authority that has been there for hours.
func certify(name string, above *x509.Certificate, aboveKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{Organization: []string{"sigstore.test"}, CommonName: name},
		NotBefore: time.Now().Add(-5 * time.Hour), NotAfter: time.Now().Add(5 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, BasicConstraintsValid: true, IsCA: true,
	}
	if above == nil {
		above, aboveKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, above, key.Public(), aboveKey)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

// trust makes the trusted root.
func (s *Sigstore) trust(top *x509.Certificate) error {
	logs := map[string]*root.TransparencyLog{}
	for _, l := range s.log.RekorLogs() {
		der, err := x509.MarshalPKIXPublicKey(l.PublicKey)
		if err != nil {
			return err
		}
		s.logID = sha256.Sum256(der)
		l.ID = s.logID[:]
		logs[hex.EncodeToString(l.ID)] = l
	}
	authority := &root.FulcioCertificateAuthority{
		Root: top, Intermediates: []*x509.Certificate{s.authority}, URI: "https://fulcio.localhost",
		ValidityPeriodStart: time.Now().Add(-5 * time.Hour), ValidityPeriodEnd: time.Now().Add(time.Hour),
	}
	trusted, err := root.NewTrustedRoot(root.TrustedRootMediaType01, []root.CertificateAuthority{authority}, nil, nil, logs)
	if err != nil {
		return err
	}
	s.Root, err = trusted.MarshalJSON()
	return err
}

// Token is an identity token, as an OpenID provider gives it to a build.
func Token(issuer, subject string) string {
	part := func(v any) string {
		b, _ := json.Marshal(v) // strings only
		return base64.RawURLEncoding.EncodeToString(b)
	}
	return part(map[string]string{"alg": "none"}) + "." + part(map[string]string{"iss": issuer, "sub": subject, "aud": "sigstore"}) + "."
}

func (s *Sigstore) serve(do func(r *http.Request) (status int, header http.Header, answer any, err error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.Down.Load() {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		status, header, answer, err := do(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for k, v := range header {
			w.Header()[k] = v
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(answer) // a client that left is no matter
	}
}

// grant is Fulcio's: a certificate for the token's identity on the asker's key.
func (s *Sigstore) grant(r *http.Request) (int, http.Header, any, error) {
	var q struct {
		PublicKeyRequest struct {
			PublicKey struct {
				Content string `json:"content"`
			} `json:"publicKey"`
			ProofOfPossession []byte `json:"proofOfPossession"`
		} `json:"publicKeyRequest"`
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		return 0, nil, nil, err
	}
	var claims struct {
		Issuer  string `json:"iss"`
		Subject string `json:"sub"`
	}
	parts := strings.Split(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), ".")
	if len(parts) != 3 {
		return 0, nil, nil, fmt.Errorf("no token")
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return 0, nil, nil, err
	}
	if err := json.Unmarshal(text, &claims); err != nil {
		return 0, nil, nil, err
	}
	block, _ := pem.Decode([]byte(q.PublicKeyRequest.PublicKey.Content))
	if block == nil {
		return 0, nil, nil, fmt.Errorf("no key")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return 0, nil, nil, err
	}
	pub, ok := key.(*ecdsa.PublicKey)
	proof := sha256.Sum256([]byte(claims.Subject))
	if !ok || pub.Curve != elliptic.P256() || !ecdsa.VerifyASN1(pub, proof[:], q.PublicKeyRequest.ProofOfPossession) {
		return 0, nil, nil, fmt.Errorf("the asker does not hold the key")
	}
	leaf, err := s.issue(pub, claims.Issuer, claims.Subject)
	if err != nil {
		return 0, nil, nil, err
	}
	encode := func(der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	chain := map[string]any{"chain": map[string]any{"certificates": []string{encode(leaf), encode(s.authority.Raw)}}}
	return http.StatusOK, nil, map[string]any{"signedCertificateEmbeddedSct": chain}, nil
}

func (s *Sigstore) issue(pub *ecdsa.PublicKey, issuer, subject string) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	name, err := url.Parse(subject)
	if err != nil {
		return nil, err
	}
	value, err := asn1.MarshalWithParams(issuer, "utf8")
	if err != nil {
		return nil, err
	}
	begin := time.Now().Add(-s.Backdate)
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: begin.Add(-time.Minute), NotAfter: begin.Add(10 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		URIs: []*url.URL{name},
		// Fulcio's issuer, version 2: docs/oid-info.md of sigstore/fulcio.
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: value}},
	}
	return x509.CreateCertificate(rand.Reader, template, s.authority, pub, crypto.Signer(s.key))
}

// enter is Rekor's: the entry, checked and put into canonical form, with the
// log's promise and a proof of inclusion.
func (s *Sigstore) enter(r *http.Request) (int, http.Header, any, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, nil, nil, err
	}
	proposed, err := models.UnmarshalProposedEntry(bytes.NewReader(body), runtime.JSONConsumer())
	if err != nil {
		return 0, nil, nil, err
	}
	entry, err := types.CreateVersionedEntry(proposed)
	if err != nil {
		return 0, nil, nil, err
	}
	canonical, err := types.CanonicalizeEntry(r.Context(), entry)
	if err != nil {
		return 0, nil, nil, err
	}
	at, index := time.Now().Add(s.Delay-s.Backdate).Unix(), int64(0)
	id := hex.EncodeToString(s.logID[:])
	promise, err := s.log.RekorSignPayload(tlog.RekorPayload{
		Body: base64.StdEncoding.EncodeToString(canonical), IntegratedTime: at, LogIndex: index, LogID: id,
	})
	if err != nil {
		return 0, nil, nil, err
	}
	proof, err := s.log.GetInclusionProof(canonical)
	if err != nil {
		return 0, nil, nil, err
	}
	uuid := hex.EncodeToString(make([]byte, 32))
	answer := models.LogEntry{uuid: models.LogEntryAnon{
		Body: base64.StdEncoding.EncodeToString(canonical), IntegratedTime: &at, LogIndex: &index, LogID: &id,
		Verification: &models.LogEntryAnonVerification{SignedEntryTimestamp: promise, InclusionProof: proof},
	}}
	header := http.Header{"Etag": {uuid}, "Location": {"/api/v1/log/entries/" + uuid}}
	return http.StatusCreated, header, answer, nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
