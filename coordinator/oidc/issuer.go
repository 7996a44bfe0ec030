// Package oidc signs people in at an OpenID Connect issuer and says what role
// they have by it.
//
// The coordinator alone speaks to the issuer's token endpoint: a browser or a
// command brings a code, the coordinator fetches the ID token for it directly and
// believes nothing it was not told there. An ID token counts only if it is signed
// by a key of the issuer with an asymmetric algorithm that the configuration
// allows, names this client as audience and as authorised party, carries the
// nonce of the flow it ends, and has not expired. An email counts only if the
// issuer says that it has verified it.
//
// The issuer may be away when the coordinator starts, and at any time later: a
// sign-in then fails as Transient and says why, and sessions go on. What is known
// of the issuer, its keys too, is read anew every hour, so that a key it has
// withdrawn is good no longer than that.
package oidc

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

const (
	callTimeout = 10 * time.Second
	maxAnswer   = 1 << 20
	freshFor    = time.Hour
)

// Options are what an issuer's client needs.
type Options struct {
	Config Config
	Path   string           // of the file that Config is of, for [Issuer.Reread]
	Now    func() time.Time // default time.Now
}

// Issuer is an issuer that people sign in at. It is safe for concurrent use.
type Issuer struct {
	c      Config // its roles are those of the start
	path   string
	secret string
	client *http.Client
	now    func() time.Time

	asking sync.Mutex // guards known; held while the issuer is asked
	known  *provider

	mu      sync.Mutex // guards the following
	roles   []Grant    // of now
	trouble error
}

// provider is what the issuer said of itself.
type provider struct {
	at     time.Time
	oauth  oauth2.Config
	verify *oidc.IDTokenVerifier
}

// New returns an issuer's client. It asks the issuer nothing yet.
func New(o Options) (*Issuer, error) {
	c, err := o.Config.complete()
	if err != nil {
		return nil, err
	}
	i := &Issuer{c: c, path: o.Path, now: o.Now, roles: c.Roles}
	if i.now == nil {
		i.now = time.Now
	}
	if c.ClientSecretFile != "" {
		b, err := os.ReadFile(c.ClientSecretFile)
		if err != nil {
			return nil, fault.New(fault.Invalid, "read client secret", c.ClientSecretFile, err)
		}
		if i.secret = string(bytes.TrimSpace(b)); i.secret == "" {
			return nil, fault.Newf(fault.Invalid, "read client secret", c.ClientSecretFile, "the file is empty")
		}
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fault.New(fault.Invalid, "read issuer's authorities", c.CAFile, err)
		}
		if conf.RootCAs = x509.NewCertPool(); !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fault.Newf(fault.Invalid, "read issuer's authorities", c.CAFile, "it holds no PEM certificate")
		}
	}
	i.client = &http.Client{Timeout: callTimeout, Transport: limited{&http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: conf, ForceAttemptHTTP2: true}}}
	return i, nil
}

// limited bounds every answer: the libraries read them whole.
type limited struct{ http.RoundTripper }

// RoundTrip performs a request.
func (l limited) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}

// Host names the issuer for people.
func (i *Issuer) Host() string {
	u, err := url.Parse(i.c.Issuer)
	if err != nil {
		return i.c.Issuer
	}
	return u.Host
}

// provider asks the issuer about itself, or remembers what it said.
func (i *Issuer) provider(ctx context.Context) (*provider, error) {
	i.asking.Lock()
	defer i.asking.Unlock()
	now := i.now()
	if i.known != nil && now.Sub(i.known.at) < freshFor && !now.Before(i.known.at) {
		return i.known, nil
	}
	// The key set goes on using this context's client, so it must outlive ctx.
	p, err := oidc.NewProvider(oidc.ClientContext(context.WithoutCancel(ctx), i.client), i.c.Issuer)
	if err != nil {
		return nil, fault.New(fault.Transient, "ask issuer", i.c.Issuer, err).
			WithHint("is the issuer up, and its URL right in the coordinator's -oidc file? Who is signed in stays so")
	}
	i.known = &provider{
		at: now,
		oauth: oauth2.Config{
			ClientID: i.c.ClientID, ClientSecret: i.secret, Endpoint: p.Endpoint(),
			Scopes: append([]string{oidc.ScopeOpenID}, i.c.Scopes...),
		},
		verify: p.Verifier(&oidc.Config{ClientID: i.c.ClientID, SupportedSigningAlgs: i.c.Algorithms, Now: i.now}),
	}
	return i.known, nil
}

// Flow is a sign-in under way: what whoever began it keeps to itself until a code
// comes back.
type Flow struct {
	Redirect string `json:"redirect"`
	State    string `json:"state"`    // comes back with the code: it is this browser that began
	Nonce    string `json:"nonce"`    // comes back in the ID token: it was made for this flow
	Verifier string `json:"verifier"` // PKCE: a stolen code is worth nothing without it
}

// NewFlow begins a sign-in.
func NewFlow(redirect string) Flow {
	return Flow{Redirect: redirect, State: rand.Text(), Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier()}
}

// AuthURL is where a browser begins.
func (i *Issuer) AuthURL(ctx context.Context, f Flow) (string, error) {
	p, err := i.provider(ctx)
	if err != nil {
		return "", err
	}
	conf := p.oauth
	conf.RedirectURL = f.Redirect
	return conf.AuthCodeURL(f.State, oidc.Nonce(f.Nonce), oauth2.S256ChallengeOption(f.Verifier)), nil
}

// Info is what a command needs to begin a flow of its own.
func (i *Issuer) Info(ctx context.Context) (api.LoginInfo, error) {
	p, err := i.provider(ctx)
	if err != nil {
		return api.LoginInfo{}, err
	}
	return api.LoginInfo{
		Issuer: i.c.Issuer, ClientID: i.c.ClientID, AuthURL: p.oauth.Endpoint.AuthURL, Scopes: p.oauth.Scopes,
		Device: p.oauth.Endpoint.DeviceAuthURL != "",
	}, nil
}

// Exchange says who came back with a code.
func (i *Issuer) Exchange(ctx context.Context, f Flow, code string) (store.Person, error) {
	p, err := i.provider(ctx)
	if err != nil {
		return store.Person{}, err
	}
	conf := p.oauth
	conf.RedirectURL = f.Redirect
	ctx = oidc.ClientContext(ctx, i.client)
	token, err := conf.Exchange(ctx, code, oauth2.VerifierOption(f.Verifier))
	if err != nil {
		return store.Person{}, i.refused("exchange code", err)
	}
	return i.person(ctx, p, token, f.Nonce)
}

// refused tells an issuer that says no from one that does not answer.
func (i *Issuer) refused(op string, err error) error {
	if r, ok := errors.AsType[*oauth2.RetrieveError](err); ok && r.Response.StatusCode/100 == 4 {
		why := r.ErrorCode
		if r.ErrorDescription != "" {
			why += ": " + r.ErrorDescription
		}
		if slices.Contains([]string{"invalid_client", "unauthorized_client"}, r.ErrorCode) {
			return fault.Newf(fault.Internal, op, i.c.Issuer, "the issuer does not take this coordinator: %s", why).
				WithHint("compare clientId and clientSecretFile with what the issuer has")
		}
		return fault.Newf(fault.Denied, op, i.c.Issuer, "the issuer refused: %s", why).WithHint("sign in again; a code is good once, and for a minute or so")
	}
	return fault.New(fault.Transient, op, i.c.Issuer, err).WithHint("is the issuer up? Who is signed in stays so")
}

// Device is a sign-in under way on another device.
type Device struct {
	api.DeviceLogin
	Code string // the coordinator's: it polls with it
}

// BeginDevice asks for a code that a person types in on another device.
func (i *Issuer) BeginDevice(ctx context.Context) (Device, error) {
	p, err := i.provider(ctx)
	if err != nil {
		return Device{}, err
	}
	if p.oauth.Endpoint.DeviceAuthURL == "" {
		return Device{}, fault.Newf(fault.Invalid, "sign in by device code", i.c.Issuer, "the issuer does not offer it").
			WithHint("use `modelfleet login --paste` where there is no browser")
	}
	a, err := p.oauth.DeviceAuth(oidc.ClientContext(ctx, i.client))
	if err != nil {
		return Device{}, i.refused("begin device sign-in", err)
	}
	return Device{Code: a.DeviceCode, DeviceLogin: api.DeviceLogin{
		UserCode: a.UserCode, URL: a.VerificationURI, CompleteURL: a.VerificationURIComplete,
		Interval: max(a.Interval, 1), Expires: a.Expiry.UTC(),
	}}, nil
}

// ErrPending is answered to a device that polls before its person is done.
var ErrPending = errors.New("the person has not signed in yet")

// PollDevice asks once whether the person is done; [ErrPending] if not. The flow
// has no nonce: the token comes straight from the issuer for a code that only the
// coordinator has seen.
func (i *Issuer) PollDevice(ctx context.Context, code string) (store.Person, error) {
	p, err := i.provider(ctx)
	if err != nil {
		return store.Person{}, err
	}
	ctx = oidc.ClientContext(ctx, i.client)
	token, err := poll(ctx, p.oauth, code)
	if r, ok := errors.AsType[*oauth2.RetrieveError](err); ok && (r.ErrorCode == "authorization_pending" || r.ErrorCode == "slow_down") {
		return store.Person{}, ErrPending
	}
	if err != nil {
		return store.Person{}, i.refused("poll device sign-in", err)
	}
	return i.person(ctx, p, token, "")
}

// poll asks once: the library's own call would ask until the end.
func poll(ctx context.Context, conf oauth2.Config, code string) (*oauth2.Token, error) {
	return conf.Exchange(ctx, "", oauth2.SetAuthURLParam("grant_type", "urn:ietf:params:oauth:grant-type:device_code"), oauth2.SetAuthURLParam("device_code", code))
}
