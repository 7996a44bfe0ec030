package web

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/oidc"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// signIn is a sign-in under way at the issuer. It travels in a sealed cookie, so
// that only the browser that began it can end it and nothing is kept here of
// those that never come back.
type signIn struct {
	oidc.Flow
	Next    string    `json:"next"`
	Expires time.Time `json:"expires"`
}

// sealer encrypts and authenticates cookies.
type sealer struct{ aead cipher.AEAD }

func newSealer(secret []byte) (sealer, error) {
	if len(secret) == 0 {
		secret = make([]byte, 32)
		rand.Read(secret) // never fails
	}
	// The caller's secret may serve elsewhere too: derive a key of our own.
	key := sha256.Sum256(append([]byte("modelfleet/web-sign-in/v1\x00"), secret...))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return sealer{}, fault.New(fault.Internal, "make cookie key", "", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return sealer{}, fault.New(fault.Internal, "make cookie key", "", err)
	}
	return sealer{aead}, nil
}

// lock is the cookie's text for a sign-in.
func (s sealer) lock(v signIn) (string, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(s.aead.Seal(nil, nil, plain, nil)), nil
}

// open is the sign-in of a cookie's text; false for one that is over or not ours.
func (s sealer) open(text string, now time.Time) (v signIn, ok bool) {
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return v, false
	}
	plain, err := s.aead.Open(nil, nil, sealed, nil)
	if err != nil || json.Unmarshal(plain, &v) != nil {
		return signIn{}, false
	}
	return v, now.Before(v.Expires)
}
