// Package oidctest is an OpenID Connect issuer for tests: discovery, keys,
// authorisation with PKCE, token and device endpoints over real HTTP, signed as
// real ones sign. It can also misbehave, in the ways an attacker or a bad day
// would have it.
package oidctest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Client is the one client that the issuer knows.
const (
	ClientID     = "modelfleet"
	ClientSecret = "the client's secret"
)

// Issuer is a running issuer. Its exported fields say who signs in next and how
// it misbehaves; set them through [Issuer.Set].
type Issuer struct {
	URL string

	// Claims are those of whoever signs in next, beside the protocol's own.
	Claims map[string]any
	// Bend changes the claims of an ID token before it is signed; nil: nothing.
	Bend func(claims map[string]any)
	// Sign signs an ID token in place of the issuer; nil: the issuer does.
	Sign func(i *Issuer, payload []byte) string
	// Down answers everything with 503.
	Down bool
	// Ask shows a page to sign in on, as issuers do, rather than sending the
	// browser straight back.
	Ask bool
	// NoDevice leaves the device endpoint out of the discovery.
	NoDevice bool

	t      *testing.T
	mu     sync.Mutex
	key    *ecdsa.PrivateKey
	kid    int
	codes  map[string]grant
	device map[string]bool // device code: allowed
	asked  int             // token requests
}

type grant struct {
	redirect, nonce, challenge string
	claims                     map[string]any
}

// Start starts an issuer that lives as long as the test.
func Start(t *testing.T) *Issuer {
	i := &Issuer{t: t, codes: map[string]grant{}, device: map[string]bool{}, Claims: Person("ana", "ana@example.com", "ml")}
	i.Rotate()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", i.discovery)
	mux.HandleFunc("GET /keys", i.keys)
	mux.HandleFunc("GET /authorize", i.authorize)
	mux.HandleFunc("POST /authorize", i.authorize)
	mux.HandleFunc("POST /token", i.token)
	mux.HandleFunc("POST /device", i.deviceStart)
	mux.HandleFunc("GET /forge", forge)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		down := i.Down
		i.mu.Unlock()
		if down {
			http.Error(w, "out for lunch", http.StatusServiceUnavailable)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	i.URL = srv.URL
	return i
}

// Person are the claims of a person with a verified address.
func Person(sub, email string, groups ...string) map[string]any {
	return map[string]any{"sub": sub, "email": email, "email_verified": true, "groups": groups}
}

// Set changes the issuer while it runs.
func (i *Issuer) Set(change func(*Issuer)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change(i)
}

// Rotate replaces the key; the old one is withdrawn at once.
func (i *Issuer) Rotate() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.key, i.kid = key, i.kid+1
}

// AllowDevice has the person behind a user code say yes.
func (i *Issuer) AllowDevice() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for code := range i.device {
		i.device[code] = true
	}
}

// Asked is how many token requests came.
func (i *Issuer) Asked() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func (i *Issuer) discovery(w http.ResponseWriter, _ *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	d := map[string]any{
		"issuer": i.URL, "authorization_endpoint": i.URL + "/authorize", "token_endpoint": i.URL + "/token", "jwks_uri": i.URL + "/keys",
		"id_token_signing_alg_values_supported": []string{"ES256", "HS256", "none"}, // more than the client may take
		"response_types_supported":              []string{"code"}, "subject_types_supported": []string{"public"},
	}
	if !i.NoDevice {
		d["device_authorization_endpoint"] = i.URL + "/device"
	}
	answer(w, http.StatusOK, d)
}

func (i *Issuer) keys(w http.ResponseWriter, _ *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	answer(w, http.StatusOK, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{i.public()}})
}

func (i *Issuer) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: i.key.Public(), KeyID: fmt.Sprint("key-", i.kid), Algorithm: "ES256", Use: "sig"}
}

var page = template.Must(template.New("").Parse(`<!doctype html><title>Issuer</title><link rel="icon" href="data:,"><h1>Issuer</h1>
<form method="post" action="/authorize?{{.}}"><button id="allow">Sign in as ana</button></form>`))

func (i *Issuer) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	i.mu.Lock()
	defer i.mu.Unlock()
	if q.Get("client_id") != ClientID || q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" || !strings.Contains(q.Get("scope"), "openid") {
		http.Error(w, "not a request of this client with PKCE", http.StatusBadRequest)
		return
	}
	if i.Ask && r.Method == http.MethodGet {
		w.Header().Set("Content-Type", "text/html")
		page.Execute(w, template.URL(r.URL.RawQuery))
		return
	}
	code := rand.Text()
	i.codes[code] = grant{q.Get("redirect_uri"), q.Get("nonce"), q.Get("code_challenge"), i.Claims}
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+url.Values{"code": {code}, "state": {q.Get("state")}}.Encode(), http.StatusSeeOther)
}

var forged = template.Must(template.New("").Parse(`<!doctype html><title>Prize</title><link rel="icon" href="data:,"><form method="post" action="{{.}}"><button id="go">Take your prize</button></form>`))

// forge is a page that has nothing to do with signing in: another site's, with a
// form that posts to "to".
func forge(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	forged.Execute(w, template.URL(r.FormValue("to")))
}

func (i *Issuer) token(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked++
	refuse := func(status int, code string) { answer(w, status, map[string]string{"error": code}) }
	id, secret, ok := r.BasicAuth()
	if !ok {
		id, secret = r.FormValue("client_id"), r.FormValue("client_secret")
	}
	if s, err := url.QueryUnescape(secret); err == nil {
		secret = s
	}
	if id != ClientID || secret != ClientSecret {
		refuse(http.StatusUnauthorized, "invalid_client")
		return
	}
	if r.FormValue("grant_type") == "urn:ietf:params:oauth:grant-type:device_code" {
		allowed, known := i.device[r.FormValue("device_code")]
		switch {
		case !known:
			refuse(http.StatusBadRequest, "expired_token")
		case !allowed:
			refuse(http.StatusBadRequest, "authorization_pending")
		default:
			delete(i.device, r.FormValue("device_code"))
			i.give(w, grant{claims: i.Claims})
		}
		return
	}
	g, known := i.codes[r.FormValue("code")]
	delete(i.codes, r.FormValue("code"))
	sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
	if !known || g.redirect != r.FormValue("redirect_uri") || g.challenge != base64.RawURLEncoding.EncodeToString(sum[:]) {
		refuse(http.StatusBadRequest, "invalid_grant")
		return
	}
	i.give(w, g)
}

// give answers with an ID token.
func (i *Issuer) give(w http.ResponseWriter, g grant) {
	now := time.Now()
	claims := maps.Clone(g.claims)
	maps.Copy(claims, map[string]any{"iss": i.URL, "aud": ClientID, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()})
	if g.nonce != "" {
		claims["nonce"] = g.nonce
	}
	if i.Bend != nil {
		i.Bend(claims)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		i.t.Error(err)
	}
	sign := i.Sign
	if sign == nil {
		sign = Honest
	}
	answer(w, http.StatusOK, map[string]any{"access_token": rand.Text(), "token_type": "Bearer", "expires_in": 3600, "id_token": sign(i, payload)})
}

func (i *Issuer) deviceStart(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	code := rand.Text()
	i.device[code] = false
	answer(w, http.StatusOK, map[string]any{
		"device_code": code, "user_code": "WDJB-MJHT", "verification_uri": i.URL + "/activate", "expires_in": 600, "interval": 1,
	})
}

// Honest signs with the issuer's key.
func Honest(i *Issuer, payload []byte) string {
	return i.jws(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: fmt.Sprint("key-", i.kid)}}, payload)
}

// Stranger signs with a key that is not the issuer's, under its key's name.
func Stranger(i *Issuer, payload []byte) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Error(err)
	}
	return i.jws(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: fmt.Sprint("key-", i.kid)}}, payload)
}

// Unsigned is a token with the algorithm none.
func Unsigned(_ *Issuer, payload []byte) string {
	return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(payload) + "."
}

// Confused is signed by HS256 with the issuer's public key as the secret: what
// takes any algorithm for any key falls for it.
func Confused(i *Issuer, payload []byte) string {
	der, err := x509.MarshalPKIXPublicKey(crypto.PublicKey(i.key.Public()))
	if err != nil {
		i.t.Error(err)
	}
	secret := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	return i.jws(jose.SigningKey{Algorithm: jose.HS256, Key: secret}, payload)
}

// Secret is signed by HS256 with the client's secret, as OpenID Connect allows
// and this client must not.
func Secret(i *Issuer, payload []byte) string {
	return i.jws(jose.SigningKey{Algorithm: jose.HS256, Key: []byte(ClientSecret + strings.Repeat(" ", 32))}, payload)
}

func (i *Issuer) jws(key jose.SigningKey, payload []byte) string {
	signer, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		i.t.Error(err)
		return ""
	}
	sig, err := signer.Sign(payload)
	if err != nil {
		i.t.Error(err)
		return ""
	}
	text, err := sig.CompactSerialize()
	if err != nil {
		i.t.Error(err)
	}
	return text
}

// Keep is a signer with the key as it is now, for after it was replaced.
func (i *Issuer) Keep() func(*Issuer, []byte) string {
	key, kid := i.key, i.kid
	return func(i *Issuer, payload []byte) string {
		return i.jws(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: fmt.Sprint("key-", kid)}}, payload)
	}
}
