package web_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/modelfleet/modelfleet/coordinator/oidc/oidctest"
	"github.com/modelfleet/modelfleet/coordinator/web/webtest"
	"github.com/modelfleet/modelfleet/pkg/api"
)

func TestPagesInARealBrowser(t *testing.T) {
	f := busyFleet()
	d := open(t, f) // first, so that it is closed last: its stream ends with the browser
	b := webtest.Start(t)

	if text := b.Look(d.url+"/rollouts/scorer-3", webtest.Views("login")[0]); !strings.Contains(text, "Sign in") {
		t.Fatalf("a stranger sees:\n%s", text)
	}
	b.Do(chromedp.SendKeys(chromedp.CSS("#token"), adminToken), chromedp.Click(chromedp.CSS("form button.primary")), chromedp.WaitVisible(chromedp.CSS("figure")))

	b.Tour(d.url, []webtest.Page{
		{Name: "fleet", Path: "/", Says: "What members run"},
		{Name: "rollouts", Path: "/rollouts", Says: "Ended"},
		{Name: "rollout-good", Path: "/rollouts/scorer-4", Says: "2 members download: 7.0 MiB of 35.1 MiB"},
		{Name: "rollout-bad", Path: "/rollouts/scorer-3", Says: "gate errors failed in stage lab"},
		{Name: "members", Path: "/members", Says: "39.9 % · 1.3 MiB/s · 8s left"},
		{Name: "member", Path: "/members/aachen-06", Says: "In quarantine here"},
		{Name: "member-downloads", Path: "/members/bremen-05", Says: "7.0 MiB of 17.5 MiB (39.9 %), 1.3 MiB/s, 8s left"},
		{Name: "member-stuck", Path: "/members/cork-08", Says: "It cannot fetch: network, since 2026-11-24 09:29:00Z (12m0s)"},
		{Name: "releases", Path: "/releases", Says: "accuracy"},
		{Name: "audit", Path: "/audit", Says: "rollout.verdict"},
	})
}

func TestAnEventRefreshesThePageOnTheScreen(t *testing.T) {
	f := busyFleet()
	d := open(t, f) // first, so that it is closed last: its stream ends with the browser
	b := webtest.Start(t)
	b.Do(chromedp.Navigate(d.url+"/login"), chromedp.SendKeys(chromedp.CSS("#token"), viewerToken), chromedp.Click(chromedp.CSS("form button.primary")),
		chromedp.WaitVisible(chromedp.CSS("#live.on")))
	f.rollouts[0].Reason = "stage quarter passed"
	f.events <- api.Event{At: now, Kind: "rollout", Subject: "scorer-4", Text: "stage quarter passed"}
	b.Do(chromedp.WaitVisible(`//p[@class="reason" and contains(., "stage quarter passed")]`))
	for _, said := range b.Complaints() {
		t.Errorf("the browser complains: %s", said)
	}
}

func TestSigningInAndOutInARealBrowser(t *testing.T) {
	i := oidctest.Start(t)
	i.Set(func(i *oidctest.Issuer) { i.Ask = true })
	f := busyFleet()
	d := openTLS(t, f, i)
	b := webtest.Start(t)
	in := func() {
		b.Do(chromedp.Navigate(d.url+"/rollouts/scorer-4"), chromedp.Click(chromedp.CSS("#issuer")), // a stranger, sent to the issuer
			chromedp.WaitVisible(chromedp.CSS("#allow")), chromedp.Click(chromedp.CSS("#allow")),
			chromedp.WaitVisible(chromedp.CSS("figure")), chromedp.WaitVisible(chromedp.CSS("#live.on")))
	}
	in()
	if who := webtest.Ask(b, chromedp.Text(chromedp.CSS("form.who"))); !strings.Contains(who, "ana@example.com") {
		t.Errorf("signed in as %q", who)
	}
	if seen := webtest.Ask(b, chromedp.Evaluate[string](`document.cookie`)); seen != "" {
		t.Errorf("scripts see the cookie %q", seen)
	}
	for _, said := range b.Complaints() {
		t.Errorf("the browser complains: %s", said)
	}

	// Another site posts a form with the cookie's browser; the issuer's host will do.
	b.Do(chromedp.Navigate(i.URL+"/forge?to="+url.QueryEscape(d.url+"/rollouts/scorer-4/rollback")), chromedp.WaitVisible(chromedp.CSS("#go")), chromedp.Click(chromedp.CSS("#go")))
	b.Do(chromedp.WaitVisible(`//*[contains(., "cross-origin") or contains(., "sign in") or contains(., "Sign in") or contains(., "not of a page")]`))
	if len(f.commands) > 0 {
		t.Errorf("a form of another site did %q", f.commands)
	}
	b.Complaints() // it complains of the refused post, as it should

	// The session ends while the page is open: the next look leads to the sign-in page.
	f.endAll()
	b.Do(chromedp.Navigate(d.url+"/members"), chromedp.WaitVisible(chromedp.CSS("#issuer")))
	if text := webtest.Ask(b, chromedp.Text(chromedp.CSS("main"))); !strings.Contains(text, "signed out") {
		t.Errorf("an ended session is told %q", text)
	}
	in()
	b.Do(chromedp.Click(`//form[@class="who"]/button[1]`), chromedp.WaitVisible(chromedp.CSS("#issuer")))
	if n := len(f.sessions); n != 0 {
		t.Errorf("%d sessions after signing out", n)
	}
}
