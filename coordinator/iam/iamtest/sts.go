// Package iamtest is an AWS STS for tests: it knows some credentials, and checks the
// Signature Version 4 of a GetCallerIdentity request by signing it anew with AWS's
// own library.
package iamtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Credentials are one caller's.
type Credentials struct {
	KeyID, Secret, Session string
	ARN                    string // of the caller
}

// STS answers for every host of STS that a [STS.Client] asks.
type STS struct {
	server *httptest.Server
	known  []Credentials
	asked  atomic.Int32
	Status atomic.Int32 // when set, the answer to everything
}

// New starts one.
func New(t testing.TB, known ...Credentials) *STS {
	s := &STS{known: known}
	s.server = httptest.NewTLSServer(http.HandlerFunc(s.answer))
	t.Cleanup(s.server.Close)
	return s
}

// Client is a client that reaches it under any name.
func (s *STS) Client() *http.Client {
	c := s.server.Client()
	rt := c.Transport
	c.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		r = r.Clone(r.Context())
		r.Host, r.URL.Host = r.URL.Host, s.server.Listener.Addr().String()
		return rt.RoundTrip(r)
	})
	return c
}

// Asked is how often it was.
func (s *STS) Asked() int { return int(s.asked.Load()) }

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (s *STS) answer(w http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	if code := s.Status.Load(); code != 0 {
		w.WriteHeader(int(code))
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	arn, err := s.verify(r, body)
	if err != nil {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>SignatureDoesNotMatch</Code><Message>%s</Message></Error></ErrorResponse>`, err)
		return
	}
	fmt.Fprintf(w, `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult><Arn>%s</Arn><UserId>AROA:x</UserId><Account>123456789012</Account></GetCallerIdentityResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></GetCallerIdentityResponse>`, arn)
}

// verify signs what came, with the headers that the signature names, and compares.
func (s *STS) verify(r *http.Request, body []byte) (string, error) {
	auth := r.Header.Get("Authorization")
	id, rest, ok := strings.Cut(strings.TrimPrefix(auth, "AWS4-HMAC-SHA256 Credential="), "/")
	parts := strings.Split(rest, "/")
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if !ok || len(parts) < 4 || err != nil {
		return "", fmt.Errorf("no signature")
	}
	if age := time.Since(at); age > 15*time.Minute || age < -15*time.Minute {
		return "", fmt.Errorf("signature expired")
	}
	for _, c := range s.known {
		if c.KeyID != id || c.Session != r.Header.Get("X-Amz-Security-Token") {
			continue
		}
		again, err := http.NewRequest(r.Method, "https://"+r.Host+"/", nil)
		if err != nil {
			return "", err
		}
		_, list, _ := strings.Cut(auth, "SignedHeaders=")
		list, _, _ = strings.Cut(list, ",")
		for name := range strings.SplitSeq(list, ";") {
			if v := r.Header.Get(name); v != "" && name != "host" {
				again.Header.Set(name, v)
			}
		}
		sum := sha256.Sum256(body)
		err = v4.NewSigner().SignHTTP(context.Background(), aws.Credentials{AccessKeyID: c.KeyID, SecretAccessKey: c.Secret, SessionToken: c.Session},
			again, hex.EncodeToString(sum[:]), "sts", parts[1], at)
		if err == nil && again.Header.Get("Authorization") == auth {
			return c.ARN, nil
		}
		return "", fmt.Errorf("the signature is not that of the request: %v", err)
	}
	return "", fmt.Errorf("the security token is invalid")
}
