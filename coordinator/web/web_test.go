package web_test

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/web"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

// desk is a dashboard under test and a browser without JavaScript before it.
type desk struct {
	t      *testing.T
	url    string
	client *http.Client
}

func open(t *testing.T, source web.Source) *desk {
	t.Helper()
	h, err := web.New(web.Options{Source: source, Key: []byte("a key that outlives the process.."), Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	jar, _ := cookiejar.New(nil)
	return &desk{t: t, url: srv.URL, client: &http.Client{Jar: jar}}
}

// signIn signs in and returns the desk.
func (d *desk) signIn(token string) *desk {
	d.t.Helper()
	if status, body := d.post("/login", url.Values{"token": {token}}); status != http.StatusOK {
		d.t.Fatalf("sign in: %d\n%s", status, body)
	}
	return d
}

func (d *desk) get(path string) (int, string) {
	d.t.Helper()
	resp, err := d.client.Get(d.url + path)
	return d.answer(resp, err)
}

// post sends a form as a page of the session would: with its secret.
func (d *desk) post(path string, form url.Values) (int, string) {
	d.t.Helper()
	if form == nil {
		form = url.Values{}
	}
	if form.Get("form") == "" && path != "/login" {
		_, body := d.get("/rollouts")
		form.Set("form", formSecret.FindStringSubmatch(body)[1])
	}
	resp, err := d.client.PostForm(d.url+path, form)
	return d.answer(resp, err)
}

func (d *desk) answer(resp *http.Response, err error) (int, string) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// shows fails unless the page has every text, tags and spacing aside.
func (d *desk) shows(path string, texts ...string) {
	d.t.Helper()
	status, body := d.get(path)
	if status != http.StatusOK {
		d.t.Errorf("%s: status %d", path, status)
	}
	plain := textOf(body)
	for _, want := range texts {
		if !strings.Contains(plain, want) {
			d.t.Errorf("%s does not say %q; it says:\n%s", path, want, plain)
		}
	}
}

var formSecret = regexp.MustCompile(`name="form" value="([0-9a-f]{64})"`)

var tags, spaces = regexp.MustCompile(`<[^>]*>`), regexp.MustCompile(`\s+`)

func textOf(body string) string {
	return spaces.ReplaceAllString(strings.NewReplacer("&#34;", `"`, "&#39;", "'", "&gt;", ">", "&amp;", "&", "&#43;", "+").Replace(tags.ReplaceAllString(body, " ")), " ")
}

func TestPagesSayWhatMatters(t *testing.T) {
	d := open(t, busyFleet()).signIn(adminToken)
	d.shows("/", "orchard", "48 devices, 4 functions", "#17", "scorer@1.4.0", "stage quarter is soaking; no gate objects", "13 exposed", "Needs a look", "stale", "aachen", "functions")
	d.shows("/rollouts", "scorer@1.4.0", "Ended", "scorer@1.3.0", "rolled back", "3 of 52")
	d.shows("/rollouts/scorer-3", "gate errors failed in stage lab", "Exposed against control", "self-alarms: 3 of 3 exposed, 0 of 49 control", "214", "What was decided", "rollout.verdict")
	d.shows("/members", "aachen-01", "ring=lab", "downloading", "1 to 52 of 52")
	d.shows("/members", "Waiting for approval", "cork-99", "1f0c2a9b-77d10e35-c2a7f0aa-90be41d2", "modelfleet members approve")
	d.shows("/members/aachen-06", "scorer@1.2.0", "In quarantine here", "Why", "directive #17")
	d.shows("/releases", "1.4.0", "accuracy 0.962", "delisted", "17.5 MiB")
	d.shows("/audit", "gate errors failed: E 214", "coordinator", "rollout.started")
}

func TestEmptyFleetSaysWhatToDoNext(t *testing.T) {
	d := open(t, &recorded{info: api.FleetInfo{Name: "orchard", Group: "default"}}).signIn(viewerToken)
	d.shows("/", "modelfleet token create", "No rollout is under way", "Nobody has joined yet", "nothing was signed yet")
	d.shows("/rollouts", "modelfleet rollout start")
	d.shows("/members", "modelfleet-agent -join TOKEN")
	d.shows("/releases", "modelfleet publish DIR MODEL@VERSION")
	d.shows("/audit", "Nothing was decided yet")
}

func TestACopiedIdentityIsSeen(t *testing.T) {
	f := busyFleet()
	f.members[0].Locked = "certificate 1f0c2a9b77d1 of generation 3 was shown after 90be41d2c2a7 of generation 4 was in use: the identity was copied"
	d, id := open(t, f).signIn(adminToken), string(f.members[0].Facts.ID)
	d.shows("/members/"+id, "locked", "90be41d2c2a7 of generation 4", "modelfleet members unlock "+id+" --certificate NAME")
	d.shows("/", "its identity is locked")
	d.shows("/members", "locked "+f.members[0].Models[0].Phase.String())
}

func TestMembersAreFilteredBySelector(t *testing.T) {
	d := open(t, busyFleet()).signIn(viewerToken)
	d.shows("/members?selector="+url.QueryEscape("ring=lab"), "1 to 3 of 3", "bremen-01")
	d.shows("/members?selector="+url.QueryEscape("ring=("), "not a label value", "All members are shown")
	d.shows("/members?selector=ring%3Dnone", "No member fits")
	d.shows("/members?show=attention", "aachen-06", "1 to 5 of 5")
	d.shows("/members?from=9999", "52 to 52 of 52")
}

func TestPagesAreForOperatorsOnly(t *testing.T) {
	d := open(t, busyFleet())
	d.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for _, path := range []string{"/", "/members", "/members/aachen-01", "/rollouts", "/rollouts/scorer-4", "/releases", "/audit", "/events", "/nothing"} {
		if status, body := d.get(path); status != http.StatusSeeOther || strings.Contains(body, "orchard") {
			t.Errorf("%s without signing in: %d", path, status)
		}
	}
	if status, body := d.post("/login", url.Values{"token": {"wrong"}}); status != http.StatusForbidden || !strings.Contains(body, "no operator has that token") {
		t.Errorf("a wrong token: %d\n%s", status, body)
	}
}

func TestSignInLeadsBackToThePageAskedForAndNowhereElse(t *testing.T) {
	for next, want := range map[string]string{
		"/rollouts/scorer-4": "/rollouts/scorer-4", "//evil.example/": "/", "https://evil.example/": "/", `/\evil.example`: "/", "": "/",
	} {
		d := open(t, busyFleet())
		d.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		resp, err := d.client.PostForm(d.url+"/login", url.Values{"token": {viewerToken}, "next": {next}})
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("Location"); got != want {
			t.Errorf("next=%q leads to %q, want %q", next, got, want)
		}
		c := resp.Cookies()[0]
		if !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Domain != "" || c.Path != "/" || strings.Contains(c.Value, viewerToken) {
			t.Errorf("cookie %+v: want HttpOnly, SameSite=Lax, this host alone, and no token to read", c)
		}
	}
}

func TestCommandsNeedARole(t *testing.T) {
	f := busyFleet()
	d := open(t, f).signIn(adminToken)
	d.shows("/rollouts/scorer-4", "Commands", "Roll back", "Pause")
	if status, _ := d.post("/rollouts/scorer-4/rollback", url.Values{"reason": {"drill"}}); status != http.StatusOK {
		t.Errorf("rollback: %d", status)
	}
	if want := "ana rollback scorer-4: drill"; len(f.commands) != 1 || f.commands[0] != want {
		t.Errorf("commands %q, want %q", f.commands, want)
	}

	v := open(t, f).signIn(viewerToken)
	if _, body := v.get("/rollouts/scorer-4"); strings.Contains(body, "Commands") {
		t.Error("a viewer is shown commands")
	}
	if status, _ := v.post("/rollouts/scorer-4/abort", nil); status != http.StatusForbidden {
		t.Errorf("a viewer's command: %d", status)
	}
	if len(f.commands) != 1 {
		t.Errorf("commands %q: the refused ones arrived", f.commands)
	}
}

func TestProblemsBecomePagesWithANextMove(t *testing.T) {
	f := busyFleet()
	d := open(t, f).signIn(viewerToken)
	for path, want := range map[string]string{
		"/members/nobody":   "modelfleet members list",
		"/rollouts/none-1":  "there is none of that id",
		"/members/NOT%20ID": "not a name",
		"/nothing":          "no page of that name",
	} {
		status, body := d.get(path)
		if status < 400 || status > 404 || !strings.Contains(textOf(body), want) {
			t.Errorf("%s: %d, want %q in\n%s", path, status, want, textOf(body))
		}
	}
	f.down = fault.Newf(fault.Transient, "read store", "", "the disk is away")
	if status, body := d.get("/rollouts"); status != http.StatusServiceUnavailable || !strings.Contains(body, "the disk is away") {
		t.Errorf("a coordinator that cannot read: %d\n%s", status, body)
	}
}

func TestEveryAnswerForbidsForeignContent(t *testing.T) {
	d := open(t, busyFleet()).signIn(viewerToken)
	for _, path := range []string{"/", "/login", "/static/style.css", "/static/live.js", "/rollouts/scorer-4"} {
		resp, err := d.client.Get(d.url + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: policy %q", path, csp)
		}
		if strings.Contains(string(body), ` style="`) || strings.Contains(string(body), "<script>") {
			t.Errorf("%s has inline style or script, which its own policy forbids", path)
		}
	}
}

func TestHostileTextStaysText(t *testing.T) {
	f := busyFleet()
	f.members[0].Models[0].FailureCode = `<script>alert(1)</script>`
	f.members[0].Models[0].Running = `"><img src=x onerror=alert(1)>`
	f.rollouts[0].Reason = `<b>bold</b>`
	f.rollouts[0].Stages[1].Name = `"><svg onload=alert(1)>`
	d := open(t, f).signIn(viewerToken)
	for _, path := range []string{"/", "/members", "/members/" + string(f.members[0].Facts.ID), "/rollouts", "/rollouts/scorer-4"} {
		_, body := d.get(path)
		for _, bad := range []string{"<script>alert", "<img src=x", "<b>bold", "<svg onload"} {
			if strings.Contains(body, bad) {
				t.Errorf("%s carries %s unescaped", path, bad)
			}
		}
	}
}

func TestEventsReachTheBrowser(t *testing.T) {
	f := busyFleet()
	d := open(t, f).signIn(viewerToken)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, d.url+"/events", nil)
	f.events <- api.Event{At: now, Kind: "rollout", Subject: "scorer-4", Text: "stage ten passed"}
	resp, err := d.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "data: ") || !strings.Contains(line, "stage ten passed") {
		t.Errorf("first line %q, %v", line, err)
	}
}

func TestAuditPages(t *testing.T) {
	f := busyFleet()
	for i := range 250 {
		e := ledger.Entry{At: now, Actor: "coordinator", Action: "directive.issued", Subject: "default", Reason: "#" + strings.Repeat("i", i%3)}
		f.audit = append(f.audit, api.AuditEntry{Index: uint64(len(f.audit) + 1), Entry: e})
	}
	d := open(t, f).signIn(viewerToken)
	_, body := d.get("/audit")
	if !strings.Contains(body, "/audit?to=163") || strings.Contains(body, "Newer") {
		t.Errorf("the newest page of 263 entries should lead to 163:\n%s", textOf(body))
	}
	_, body = d.get("/audit?to=163")
	if !strings.Contains(body, "/audit?to=63") || !strings.Contains(body, "/audit?to=263") {
		t.Error("the middle page should lead both ways")
	}
	d.shows("/audit?to=63", "ana", "scorer@1.3.0")
	f.splits = []api.AuditSplit{{Found: now, Member: "cork-03", Why: "it was shown a log of 9 entries, ours has 7"}}
	d.shows("/audit", "another history", "cork-03", "ours has 7")
	if _, body = d.get("/audit?to=63"); strings.Contains(body, "Older") {
		t.Error("the oldest page should lead to newer ones only")
	}
}

// The whole recorded fleet is a Source.
var _ web.Source = (*recorded)(nil)
