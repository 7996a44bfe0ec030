package web_test

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/oidc"
	"github.com/modelfleet/modelfleet/coordinator/oidc/oidctest"
	"github.com/modelfleet/modelfleet/coordinator/throttle"
	"github.com/modelfleet/modelfleet/coordinator/web"
	"github.com/modelfleet/modelfleet/pkg/api"
)

// stay has the client show redirects rather than follow them.
func (d *desk) stay() *desk {
	d.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return d
}

// send does a request and returns its answer, the body closed.
func (d *desk) send(method, path string, form url.Values, header ...string) *http.Response {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.t.Context(), method, d.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		d.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := d.client.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	resp.Body.Close()
	return resp
}

// openTLS is a dashboard as it is served, with an issuer if there is one.
func openTLS(t *testing.T, source web.Source, issuer *oidctest.Issuer) *desk {
	t.Helper()
	o := web.Options{Source: source, Key: []byte("a key that outlives the process.."), Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }}
	if issuer != nil {
		secret := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(secret, []byte(oidctest.ClientSecret), 0o600); err != nil {
			t.Fatal(err)
		}
		i, err := oidc.New(oidc.Options{Config: oidc.Config{
			Issuer: issuer.URL, ClientID: oidctest.ClientID, ClientSecretFile: secret, Roles: []oidc.Grant{{Group: "ml", Role: api.Admin}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		o.Issuer = i
	}
	h, err := web.New(o)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewTLSServer(h)
	t.Cleanup(srv.Close)
	jar, _ := cookiejar.New(nil)
	return &desk{t: t, url: srv.URL, client: &http.Client{Jar: jar, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}}
}

func TestTheCookieIsOfThisHostAlone(t *testing.T) {
	d := openTLS(t, busyFleet(), nil).stay()
	resp := d.send("POST", "/login", url.Values{"token": {viewerToken}})
	c := resp.Cookies()[0]
	if !strings.HasPrefix(c.Name, "__Host-") || !c.Secure || !c.HttpOnly || c.Path != "/" || c.Domain != "" || c.SameSite != http.SameSiteLaxMode || c.MaxAge <= 0 {
		t.Errorf("cookie %+v", c)
	}
	// One that a neighbour in the domain planted, without the prefix, is not seen.
	bare := openTLS(t, busyFleet(), nil).stay()
	if resp := bare.send("GET", "/", nil, "Cookie", "modelfleet_session="+c.Value); resp.StatusCode != http.StatusSeeOther {
		t.Errorf("a cookie without the prefix: %d", resp.StatusCode)
	}
}

func TestSigningInBeginsANewSessionAndEndsTheOld(t *testing.T) {
	f := busyFleet()
	d := open(t, f).signIn(viewerToken)
	u, _ := url.Parse(d.url)
	first := d.client.Jar.Cookies(u)[0].Value
	d.signIn(adminToken)
	second := d.client.Jar.Cookies(u)[0].Value
	if first == second {
		t.Error("the session is the same before and after signing in: whoever planted it is signed in too")
	}
	if _, ok := f.sessions[first]; ok {
		t.Error("the session before goes on")
	}
}

func TestSigningOutEndsTheSessionAndEverywhereAllOfThem(t *testing.T) {
	f := busyFleet()
	here, there, other := open(t, f).signIn(adminToken), open(t, f).signIn(adminToken), open(t, f).signIn(viewerToken)
	u, _ := url.Parse(here.url)
	stolen := here.client.Jar.Cookies(u)[0]
	here.post("/logout", nil)
	here.stay()
	if resp := here.send("GET", "/", nil, "Cookie", stolen.Name+"="+stolen.Value); resp.StatusCode != http.StatusSeeOther {
		t.Errorf("a copied cookie after signing out: %d", resp.StatusCode)
	}
	if status, _ := there.get("/"); status != http.StatusOK {
		t.Errorf("the other browser: %d", status)
	}
	again := open(t, f).signIn(adminToken)
	again.post("/logout", url.Values{"all": {"1"}})
	if resp := there.stay().send("GET", "/", nil); resp.StatusCode != http.StatusSeeOther || !strings.Contains(resp.Header.Get("Location"), "over=1") {
		t.Errorf("the other browser, signed out everywhere: %d %s", resp.StatusCode, resp.Header.Get("Location"))
	}
	if status, _ := other.get("/"); status != http.StatusOK {
		t.Errorf("somebody else: %d", status)
	}
}

func TestFormsOfElsewhereAreRefused(t *testing.T) {
	f := busyFleet()
	d, other := open(t, f).signIn(adminToken), open(t, f).signIn(adminToken)
	_, body := d.get("/rollouts/scorer-4")
	_, foreign := other.get("/rollouts/scorer-4")
	good, wrong := formSecret.FindStringSubmatch(body)[1], formSecret.FindStringSubmatch(foreign)[1]
	d.stay()
	for name, c := range map[string]struct {
		form   url.Values
		header []string
		want   int
	}{
		"from another site":               {url.Values{"form": {good}}, []string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
		"from another site, old browser":  {url.Values{"form": {good}}, []string{"Origin", "https://evil.example"}, http.StatusForbidden},
		"from a neighbouring host":        {url.Values{"form": {good}}, []string{"Sec-Fetch-Site", "same-site"}, http.StatusForbidden},
		"without the secret":              {url.Values{"reason": {"x"}}, nil, http.StatusForbidden},
		"with another session's secret":   {url.Values{"form": {wrong}}, nil, http.StatusForbidden},
		"of a page of the session itself": {url.Values{"form": {good}}, []string{"Sec-Fetch-Site", "same-origin"}, http.StatusSeeOther},
	} {
		if resp := d.send("POST", "/rollouts/scorer-4/pause", c.form, c.header...); resp.StatusCode != c.want {
			t.Errorf("%s: %d, want %d", name, resp.StatusCode, c.want)
		}
	}
	if len(f.commands) != 1 {
		t.Errorf("commands %q: want the last one alone", f.commands)
	}
	if resp := d.send("POST", "/logout", url.Values{}); resp.StatusCode != http.StatusForbidden {
		t.Errorf("signed out by a foreign form: %d", resp.StatusCode)
	}
}

func TestAPageThatRefreshesItselfIsNobodyAtWork(t *testing.T) {
	f := busyFleet()
	d := open(t, f).signIn(viewerToken)
	f.active = 0
	d.send("GET", "/", nil, "Sec-Fetch-Mode", "cors")
	if f.active != 0 {
		t.Error("a refresh kept the session awake")
	}
	d.send("GET", "/", nil, "Sec-Fetch-Mode", "navigate")
	if f.active != 1 {
		t.Error("a person did not")
	}
}

func TestGuessingIsSlowedDown(t *testing.T) {
	f := busyFleet()
	h, err := web.New(web.Options{Source: f, Logger: slog.New(slog.DiscardHandler), Throttle: throttle.New(throttle.Options{PerAddress: 5})})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	jar, _ := cookiejar.New(nil)
	d := &desk{t: t, url: srv.URL, client: &http.Client{Jar: jar}}
	var got []int
	for range 6 {
		status, _ := d.post("/login", url.Values{"token": {"mfo1.guess"}})
		got = append(got, status)
	}
	if want := []int{403, 403, 403, 403, 403, 503}; !slices.Equal(got, want) {
		t.Errorf("six guesses: %v, want %v", got, want)
	}
	if status, body := d.post("/login", url.Values{"token": {adminToken}}); status != http.StatusServiceUnavailable || !strings.Contains(body, "wait 1m0s") {
		t.Errorf("the seventh, a right one: %d\n%s", status, body)
	}
}

func TestSigningInAtTheIssuer(t *testing.T) {
	i := oidctest.Start(t)
	d := openTLS(t, busyFleet(), i)
	status, body := d.get("/login?next=/rollouts/scorer-4")
	if status != http.StatusOK || !strings.Contains(textOf(body), "Sign in at "+strings.TrimPrefix(i.URL, "http://")) {
		t.Fatalf("the sign-in page: %d\n%s", status, textOf(body))
	}
	status, body = d.get("/login/issuer?next=/rollouts/scorer-4") // there, back, and to the page
	if status != http.StatusOK || !strings.Contains(textOf(body), "Exposed against control") || !strings.Contains(body, "ana@example.com") {
		t.Fatalf("signed in: %d\n%s", status, textOf(body))
	}
	for name, misbehave := range map[string]func(*oidctest.Issuer){
		"another nonce": func(i *oidctest.Issuer) { i.Bend = func(c map[string]any) { c["nonce"] = "x" } },
		"unsigned":      func(i *oidctest.Issuer) { i.Sign = oidctest.Unsigned },
		"no group":      func(i *oidctest.Issuer) { i.Claims = oidctest.Person("eve", "eve@example.com") },
		"away":          func(i *oidctest.Issuer) { i.Down = true },
	} {
		i.Set(misbehave)
		v := openTLS(t, busyFleet(), i)
		if status, body := v.get("/login/issuer"); status < 400 || strings.Contains(body, "What members run") || !strings.Contains(body, `role="alert"`) {
			t.Errorf("%s: %d\n%s", name, status, textOf(body))
		}
		i.Set(func(i *oidctest.Issuer) {
			i.Bend, i.Sign, i.Down, i.Claims = nil, nil, false, oidctest.Person("ana", "ana@example.com", "ml")
		})
	}
	if status, _ := d.get("/"); status != http.StatusOK {
		t.Errorf("who was signed in meanwhile: %d", status)
	}
}

func TestASignInBelongsToTheBrowserThatBeganIt(t *testing.T) {
	i := oidctest.Start(t)
	mine, theirs := openTLS(t, busyFleet(), i).stay(), openTLS(t, busyFleet(), i).stay()
	theirs.url = mine.url // two browsers at one dashboard
	begin := func(d *desk) string {
		at := d.send("GET", "/login/issuer", nil).Header.Get("Location")
		resp, err := (&http.Client{CheckRedirect: d.client.CheckRedirect}).Get(at)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		back, _ := url.Parse(resp.Header.Get("Location"))
		return back.RequestURI()
	}
	attackers := begin(theirs)
	if resp := mine.send("GET", attackers, nil); resp.StatusCode != http.StatusForbidden {
		t.Errorf("signed in as the attacker, without having begun: %d", resp.StatusCode)
	}
	begin(mine)
	if resp := mine.send("GET", attackers, nil); resp.StatusCode != http.StatusForbidden {
		t.Errorf("signed in as the attacker, by the state of another sign-in: %d", resp.StatusCode)
	}
	own := begin(mine)
	if resp := mine.send("GET", own, nil); resp.StatusCode != http.StatusSeeOther {
		t.Errorf("one's own: %d", resp.StatusCode)
	}
	if resp := mine.send("GET", own, nil); resp.StatusCode != http.StatusForbidden {
		t.Errorf("one's own, played again: %d", resp.StatusCode)
	}
}
