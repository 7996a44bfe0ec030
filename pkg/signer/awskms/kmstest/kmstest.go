// Package kmstest is a small AWS KMS for tests: DescribeKey, GetPublicKey and
// Sign over HTTP, with keys that really sign. It holds each request to what KMS
// asks of it (a SigV4 signature over the target, the algorithm, a digest of the
// right length) and answers with KMS's own errors, the ones a key's policy or
// state cause as well as those a test asks for.
//
//	k := kmstest.New(t)
//	ref := k.Key("alias/orchard/coordinator")
//	t.Setenv("AWS_ENDPOINT_URL_KMS", k.URL)         // or k.Env(), for a process
package kmstest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// Server is a KMS. It is safe for concurrent use.
type Server struct {
	URL    string
	server *httptest.Server

	mu     sync.Mutex // guards the following
	keys   map[string]*Key
	fail   string   // error code of the next answers, or ""
	left   int      // how many answers fail
	Calls  []string // operations, in order
	Broken []string // what was wrong with requests
}

// Key is a key of the server. Change it with [Server.Change].
type Key struct {
	Private crypto.Signer
	Spec    string // ECC_NIST_P256
	Usage   string // SIGN_VERIFY
	State   string // Enabled
	Denied  bool   // the caller may not use it
}

// New starts a KMS that ends with the test, which fails when a request was not
// as KMS wants it.
func New(t testing.TB) *Server {
	t.Helper()
	s := Start()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Start starts a KMS that ends with [Server.Close].
func Start() *Server {
	s := &Server{keys: map[string]*Key{}}
	s.server = httptest.NewServer(s)
	s.URL = s.server.URL
	return s
}

// Close ends the server. It fails when a request was not as KMS wants it.
func (s *Server) Close() error {
	s.server.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	var bad []error
	for _, b := range s.Broken {
		bad = append(bad, fmt.Errorf("a request that KMS would refuse: %s", b))
	}
	return errors.Join(bad...)
}

// Env is the environment of a process that uses the server.
func (s *Server) Env() []string {
	return []string{"AWS_ENDPOINT_URL_KMS=" + s.URL, "AWS_REGION=eu-west-1", "AWS_ACCESS_KEY_ID=AKIDTEST", "AWS_SECRET_ACCESS_KEY=secret", "AWS_EC2_METADATA_DISABLED=true"}
}

// Use points this process at the server, for the test's time.
func (s *Server) Use(t *testing.T) {
	t.Helper()
	for _, v := range s.Env() {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
}

// Key makes a P-256 key under an id (alias/x, a UUID, an ARN), and returns its reference.
func (s *Server) Key(id string) (ref string) {
	return s.Add(id, Key{Private: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), Spec: "ECC_NIST_P256", Usage: "SIGN_VERIFY", State: "Enabled"})
}

// P384 makes a key that a fleet cannot use.
func (s *Server) P384(id string) (ref string) {
	return s.Add(id, Key{Private: must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)), Spec: "ECC_NIST_P384", Usage: "SIGN_VERIFY", State: "Enabled"})
}

// RSA makes a key that a fleet cannot use.
func (s *Server) RSA(id string) (ref string) {
	return s.Add(id, Key{Private: must(rsa.GenerateKey(rand.Reader, 2048)), Spec: "RSA_2048", Usage: "SIGN_VERIFY", State: "Enabled"})
}

// Add puts a key under an id, in place of the one there may be.
func (s *Server) Add(id string, k Key) (ref string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys[id] = &k
	return "awskms:///" + id
}

// Change changes a key.
func (s *Server) Change(id string, change func(*Key)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s.keys[id])
}

// Fail has the next n answers be an error of this code.
func (s *Server) Fail(n int, code string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left, s.fail = n, code
}

// Signatures is how often something was signed.
func (s *Server) Signatures() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.Calls {
		if c == "Sign" {
			n++
		}
	}
	return n
}

// request is what the three operations ask with.
type request struct {
	KeyID            string `json:"KeyId"`
	Message          []byte `json:"Message"`
	MessageType      string `json:"MessageType"`
	SigningAlgorithm string `json:"SigningAlgorithm"`
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	op, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	if !ok {
		s.broken("X-Amz-Target %q", r.Header.Get("X-Amz-Target"))
	}
	auth := r.Header.Get("Authorization")
	if !strings.HasPrefix(auth, "AWS4-HMAC-SHA256 Credential=AKIDTEST/") || !strings.Contains(auth, "/kms/aws4_request") || !strings.Contains(auth, "x-amz-target") {
		s.broken("Authorization %q", auth)
		answer(w, http.StatusForbidden, map[string]string{"__type": "IncompleteSignatureException"})
		return
	}
	body, err := io.ReadAll(r.Body)
	var in request
	if err == nil {
		err = json.Unmarshal(body, &in)
	}
	if err != nil {
		s.broken("body: %v", err)
	}
	s.Calls = append(s.Calls, op)
	status, out := s.do(op, in)
	answer(w, status, out)
}

func (s *Server) broken(format string, args ...any) {
	s.Broken = append(s.Broken, fmt.Sprintf(format, args...))
}

// do is the three operations.
func (s *Server) do(op string, in request) (int, any) {
	refuse := func(code, text string) (int, any) {
		status := http.StatusBadRequest
		if strings.HasPrefix(code, "KMSInternal") || strings.HasPrefix(code, "KeyUnavailable") {
			status = http.StatusInternalServerError
		}
		return status, map[string]string{"__type": code, "message": text}
	}
	if s.left > 0 {
		s.left--
		return refuse(s.fail, "as the test asked")
	}
	k := s.keys[in.KeyID]
	switch {
	case k == nil:
		return refuse("NotFoundException", "Key '"+in.KeyID+"' does not exist")
	case k.Denied:
		return refuse("AccessDeniedException", "User: arn:aws:sts::111122223333:assumed-role/x is not authorized to perform: kms:"+op)
	case op == "DescribeKey":
		return http.StatusOK, map[string]any{"KeyMetadata": map[string]any{
			"KeyId": in.KeyID, "KeySpec": k.Spec, "CustomerMasterKeySpec": k.Spec, "KeyUsage": k.Usage, "KeyState": k.State,
			"SigningAlgorithms": k.algorithms(),
		}}
	case k.State != "Enabled":
		return refuse("DisabledException", in.KeyID+" is disabled")
	case op == "GetPublicKey":
		return http.StatusOK, map[string]any{"PublicKey": must(x509.MarshalPKIXPublicKey(k.Private.Public())), "KeySpec": k.Spec, "SigningAlgorithms": k.algorithms()}
	case op != "Sign":
		s.broken("operation %q", op)
		return refuse("UnknownOperationException", op)
	case in.SigningAlgorithm != "ECDSA_SHA_256", in.MessageType != "DIGEST", len(in.Message) != 32:
		s.broken("Sign with algorithm %q, message type %q, %d bytes", in.SigningAlgorithm, in.MessageType, len(in.Message))
		return refuse("ValidationException", "Digest is invalid length for algorithm ECDSA_SHA_256")
	}
	return http.StatusOK, map[string]any{"KeyId": in.KeyID, "Signature": must(k.Private.Sign(rand.Reader, in.Message, crypto.SHA256)), "SigningAlgorithm": in.SigningAlgorithm}
}

func (k *Key) algorithms() []string {
	if k.Usage != "SIGN_VERIFY" {
		return nil
	}
	return map[string][]string{"ECC_NIST_P256": {"ECDSA_SHA_256"}, "ECC_NIST_P384": {"ECDSA_SHA_384"}, "RSA_2048": {"RSASSA_PSS_SHA_256"}}[k.Spec]
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client went away
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // no randomness, or no key of the standard library's
	}
	return v
}
