package oidc_test

import (
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/oidc"
	"github.com/modelfleet/modelfleet/coordinator/oidc/oidctest"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

const redirect = "http://127.0.0.1:7777/"

func config(t *testing.T, i *oidctest.Issuer) oidc.Config {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(oidctest.ClientSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	eu, err := fleet.ParseSelector("region=eu")
	if err != nil {
		t.Fatal(err)
	}
	return oidc.Config{
		Issuer: i.URL, ClientID: oidctest.ClientID, ClientSecretFile: secret,
		Roles: []oidc.Grant{
			{Email: "root@example.com", Role: api.Admin},
			{Email: "boss@example.com", Role: api.Admin},
			{Subject: "s-42", Role: api.Approver},
			{Group: "eu", Role: api.Operator, Scope: api.Scope{Members: eu, Models: []string{"vision/*"}}},
			{Group: "ml", Role: api.Viewer},
		},
	}
}

// world is an issuer, its client and a clock.
type world struct {
	t      *testing.T
	issuer *oidctest.Issuer
	client *oidc.Issuer
	now    time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, issuer: oidctest.Start(t), now: time.Now()}
	c, err := oidc.New(oidc.Options{Config: config(t, w.issuer), Now: func() time.Time { return w.now }})
	if err != nil {
		t.Fatal(err)
	}
	w.client = c
	return w
}

// code signs in at the issuer as a browser would.
func (w *world) code(f oidc.Flow) string {
	w.t.Helper()
	at, err := w.client.AuthURL(w.t.Context(), f)
	if err != nil {
		w.t.Fatal(err)
	}
	browser := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := browser.Get(at)
	if err != nil {
		w.t.Fatal(err)
	}
	resp.Body.Close()
	back, err := url.Parse(resp.Header.Get("Location"))
	if err != nil || !strings.HasPrefix(back.String(), redirect) || back.Query().Get("state") != f.State {
		w.t.Fatalf("the issuer sends the browser to %q (%v)", back, err)
	}
	return back.Query().Get("code")
}

func (w *world) signIn() (store.Person, error) {
	f := oidc.NewFlow(redirect)
	return w.client.Exchange(w.t.Context(), f, w.code(f))
}

func TestTheFirstMatchingLineIsAPersonsRole(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		claims map[string]any
		role   api.Role
		scope  string
		named  string
	}{
		"by group":       {oidctest.Person("ana", "ana@example.com", "ml"), api.Viewer, "", "ana@example.com"},
		"the first wins": {oidctest.Person("bo", "bo@example.com", "ml", "eu"), api.Operator, "region=eu; models vision/*", "bo@example.com"},
		"by email":       {oidctest.Person("r", "Root@example.com"), api.Admin, "", "Root@example.com"},
		"by subject":     {map[string]any{"sub": "s-42"}, api.Approver, "", "s-42@" + strings.TrimPrefix(w.issuer.URL, "http://")},
		"a single group": {map[string]any{"sub": "x", "groups": "ml"}, api.Viewer, "", "x@" + strings.TrimPrefix(w.issuer.URL, "http://")},
		"a subject that looks like another's address": {map[string]any{"sub": "ana@example.com", "groups": "ml"}, api.Viewer, "", "ana@example.com@" + strings.TrimPrefix(w.issuer.URL, "http://")},
	} {
		w.issuer.Set(func(i *oidctest.Issuer) { i.Claims = c.claims })
		p, err := w.signIn()
		if err != nil || p.Role != c.role || p.Scope.String() != c.scope || p.Name != c.named || p.Identity() != w.issuer.URL+"#"+c.claims["sub"].(string) {
			t.Errorf("%s: got %+v (%v)", name, p, err)
		}
	}
}

func TestWhoHasNoRoleIsToldWhatTheIssuerSaid(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		claims map[string]any
		hint   string
	}{
		"other groups":                       {oidctest.Person("e", "eve@example.com", "sales", "hr"), "sales, hr"},
		"no groups":                          {map[string]any{"sub": "e"}, `no claim "groups"`},
		"too many groups":                    {map[string]any{"sub": "e", "_claim_names": map[string]string{"groups": "src1"}, "_claim_sources": map[string]any{"src1": map[string]string{"endpoint": "https://graph.example"}}}, "more groups than"},
		"a letter that folds to the admin's": {oidctest.Person("e", "bo\u017fs@example.com"), "no claim"},
		"an unverified name":                 {map[string]any{"sub": "e", "email": "root@example.com", "email_verified": false}, "verify it"},
	} {
		w.issuer.Set(func(i *oidctest.Issuer) { i.Claims = c.claims })
		if _, err := w.signIn(); !fault.Is(err, fault.Denied) || !strings.Contains(fault.Hint(err), c.hint) {
			t.Errorf("%s: %v, hint %q", name, err, fault.Hint(err))
		}
	}
}

func TestTokensThatDoNotHoldAreRefused(t *testing.T) {
	w := newWorld(t)
	bend := func(key string, v any) func(*oidctest.Issuer) {
		return func(i *oidctest.Issuer) { i.Bend = func(c map[string]any) { c[key] = v } }
	}
	for name, misbehave := range map[string]func(*oidctest.Issuer){
		"another nonce":                   bend("nonce", "of another sign-in"),
		"no nonce":                        func(i *oidctest.Issuer) { i.Bend = func(c map[string]any) { delete(c, "nonce") } },
		"another audience":                bend("aud", "another client"),
		"two audiences, no party":         bend("aud", []string{oidctest.ClientID, "other"}),
		"another party":                   bend("azp", "another client"),
		"another issuer":                  bend("iss", "https://elsewhere.example"),
		"expired":                         bend("exp", time.Now().Add(-time.Minute).Unix()),
		"not yet valid":                   bend("nbf", time.Now().Add(time.Hour).Unix()),
		"no subject":                      bend("sub", ""),
		"unsigned":                        func(i *oidctest.Issuer) { i.Sign = oidctest.Unsigned },
		"HS256 with the public key":       func(i *oidctest.Issuer) { i.Sign = oidctest.Confused },
		"HS256 with the client's secret":  func(i *oidctest.Issuer) { i.Sign = oidctest.Secret },
		"a stranger's key under its name": func(i *oidctest.Issuer) { i.Sign = oidctest.Stranger },
		"groups of a wrong kind":          bend("groups", map[string]any{"ml": true}),
	} {
		w.issuer.Set(misbehave)
		p, err := w.signIn()
		if !fault.Is(err, fault.Untrusted) || p.Name != "" {
			t.Errorf("%s: got %+v, %v", name, p, err)
		}
		w.issuer.Set(func(i *oidctest.Issuer) { i.Bend, i.Sign = nil, nil })
	}
	w.issuer.Set(func(i *oidctest.Issuer) {
		i.Bend = func(c map[string]any) { c["aud"], c["azp"] = []string{oidctest.ClientID, "other"}, oidctest.ClientID }
	})
	if _, err := w.signIn(); err != nil {
		t.Errorf("two audiences and us as the party: %v", err)
	}
}

func TestACodeIsGoodOnceAndForItsOwnFlow(t *testing.T) {
	w := newWorld(t)
	f := oidc.NewFlow(redirect)
	code := w.code(f)
	thief := oidc.NewFlow(redirect) // who stole a code has not its verifier
	if _, err := w.client.Exchange(t.Context(), thief, code); !fault.Is(err, fault.Denied) {
		t.Errorf("a stolen code: %v", err)
	}
	code = w.code(f)
	if _, err := w.client.Exchange(t.Context(), f, code); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.Exchange(t.Context(), f, code); !fault.Is(err, fault.Denied) || fault.Hint(err) == "" {
		t.Errorf("a code used twice: %v", err)
	}
}

// go-oidc lets who comes while a fetch of keys ends share what it brought, so that
// in the very moment of a rotation a sign-in may fail; the next one does not.
func TestTheIssuerRotatesItsKey(t *testing.T) {
	w := newWorld(t)
	for range 3 {
		_, err := w.signIn()
		for tries := 0; fault.Is(err, fault.Untrusted) && tries < 10; tries++ {
			_, err = w.signIn()
		}
		if err != nil {
			t.Fatal(err)
		}
		w.issuer.Rotate()
	}
}

func TestAWithdrawnKeyIsGoodForAnHourAtMost(t *testing.T) {
	w := newWorld(t)
	if _, err := w.signIn(); err != nil {
		t.Fatal(err)
	}
	var old func(*oidctest.Issuer, []byte) string
	w.issuer.Set(func(i *oidctest.Issuer) { old = i.Keep() })
	w.issuer.Rotate()
	w.issuer.Set(func(i *oidctest.Issuer) { i.Sign = old })
	w.now = w.now.Add(61 * time.Minute)
	w.issuer.Set(func(i *oidctest.Issuer) {
		i.Bend = func(c map[string]any) { c["exp"] = w.now.Add(time.Hour).Unix() }
	})
	if _, err := w.signIn(); !fault.Is(err, fault.Untrusted) {
		t.Errorf("a key that was withdrawn an hour ago: %v", err)
	}
}

func TestAnIssuerThatIsAwayIsSaidSo(t *testing.T) {
	w := newWorld(t)
	w.issuer.Set(func(i *oidctest.Issuer) { i.Down = true })
	if _, err := w.client.AuthURL(t.Context(), oidc.NewFlow(redirect)); !fault.Is(err, fault.Transient) || !strings.Contains(fault.Hint(err), "issuer up") {
		t.Errorf("before it was ever seen: %v", err)
	}
	w.issuer.Set(func(i *oidctest.Issuer) { i.Down = false })
	f := oidc.NewFlow(redirect)
	code := w.code(f)
	w.issuer.Set(func(i *oidctest.Issuer) { i.Down = true })
	if _, err := w.client.Exchange(t.Context(), f, code); !fault.Is(err, fault.Transient) {
		t.Errorf("in the middle: %v", err)
	}
}

func TestADevicePollsUntilItsPersonIsDone(t *testing.T) {
	w := newWorld(t)
	d, err := w.client.BeginDevice(t.Context())
	if err != nil || d.UserCode == "" || d.Code == "" || d.URL == "" {
		t.Fatalf("got %+v, %v", d, err)
	}
	if _, err := w.client.PollDevice(t.Context(), d.Code); !errors.Is(err, oidc.ErrPending) {
		t.Errorf("before: %v", err)
	}
	w.issuer.AllowDevice()
	if p, err := w.client.PollDevice(t.Context(), d.Code); err != nil || p.Name != "ana@example.com" {
		t.Errorf("after: %+v, %v", p, err)
	}
	if _, err := w.client.PollDevice(t.Context(), d.Code); !fault.Is(err, fault.Denied) {
		t.Errorf("again: %v", err)
	}
	bare := newWorld(t)
	bare.issuer.Set(func(i *oidctest.Issuer) { i.NoDevice = true })
	if _, err := bare.client.BeginDevice(t.Context()); !fault.Is(err, fault.Invalid) || !strings.Contains(fault.Hint(err), "--paste") {
		t.Errorf("an issuer without it: %v", err)
	}
}

func TestConfigurationsThatWouldLetAnyoneInAreRefused(t *testing.T) {
	i := oidctest.Start(t)
	for name, change := range map[string]func(*oidc.Config){
		"plain http":         func(c *oidc.Config) { c.Issuer = "http://login.example" },
		"no client":          func(c *oidc.Config) { c.ClientID = "" },
		"alg none":           func(c *oidc.Config) { c.Algorithms = []string{"none"} },
		"alg HS256":          func(c *oidc.Config) { c.Algorithms = []string{"ES256", "HS256"} },
		"no roles":           func(c *oidc.Config) { c.Roles = nil },
		"a role for anybody": func(c *oidc.Config) { c.Roles = []oidc.Grant{{Role: api.Viewer}} },
		"two matches":        func(c *oidc.Config) { c.Roles = []oidc.Grant{{Group: "a", Email: "b@c", Role: api.Viewer}} },
		"no such role":       func(c *oidc.Config) { c.Roles = []oidc.Grant{{Group: "a", Role: "boss"}} },
		"an admin of a part": func(c *oidc.Config) {
			c.Roles = []oidc.Grant{{Group: "a", Role: api.Admin, Scope: api.Scope{Models: []string{"vision/*"}}}}
		},
		"a pattern that is none": func(c *oidc.Config) {
			c.Roles = []oidc.Grant{{Group: "a", Role: api.Viewer, Scope: api.Scope{Models: []string{"vision"}}}}
		},
		"an empty secret": func(c *oidc.Config) {
			c.ClientSecretFile = filepath.Join(t.TempDir(), "empty")
			os.WriteFile(c.ClientSecretFile, nil, 0o600)
		},
	} {
		c := config(t, i)
		change(&c)
		if _, err := oidc.New(oidc.Options{Config: c}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	path := filepath.Join(t.TempDir(), "oidc.json")
	for text, want := range map[string]string{
		`{"issuer": "https://login.example", "clientId": "m", "roles": [{"group": "ml", "role": "viewer", "scope": {"members": "region=eu"}}]}`: "",
		`{"issuer": "https://login.example", "client": "m", "roles": []}`:                                                                       "client",
		`{"issuer": "https://login.example"}`: "clientId",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := oidc.LoadConfig(path)
		if want == "" && err != nil || want != "" && (!fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path)) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestCommandsAreSentBackToTheirOwnMachineOnly(t *testing.T) {
	for redirect, ok := range map[string]bool{
		"http://127.0.0.1:41234/": true, "http://localhost:1/": true, "http://[::1]:9/cb": true,
		"https://fleet.example/login/callback": false, "http://127.0.0.1.evil.example:80/": false, "http://127.0.0.1@evil.example:80/": false,
		"http://127.0.0.1/": false, "": false, "http://x:y@127.0.0.1:80/": false,
	} {
		if err := oidc.CheckLoopback(redirect); (err == nil) != ok {
			t.Errorf("%q: %v", redirect, err)
		}
	}
}
