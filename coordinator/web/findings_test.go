package web_test

import (
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/modelfleet/modelfleet/coordinator/web/webtest"
	"github.com/modelfleet/modelfleet/pkg/api"
)

// troubled is a fleet whose keys need a look.
func troubled() *recorded {
	f := busyFleet()
	f.health = api.Health{At: now, Findings: []api.Finding{
		{Severity: api.Urgent, Code: "expiry", Subject: "pub-vision", What: "expires in 27 days, on 2026-12-21", When: now.Add(27 * 24 * time.Hour), Remedy: "publish something, or sign it anew: `modelfleet releases renew --team vision --dir FOLDER`"},
		{Severity: api.Notice, Code: "expiry", Subject: "policy", What: "expires in 88 days, on 2027-02-20", When: now.Add(88 * 24 * time.Hour), Remedy: "sign it anew with the policy's key: `modelfleet key renew policy`"},
		{Severity: api.Advice, Code: "signers", Subject: "root", What: "is signed by 1 of 1 keys", Remedy: "share it"},
	}}
	return f
}

func TestWhatRunsOutIsABannerOnEveryPage(t *testing.T) {
	d := open(t, troubled()).signIn(viewerToken)
	for _, page := range []string{"/", "/members", "/releases"} {
		d.shows(page, "pub-vision expires in 27 days, on 2026-12-21", "modelfleet releases renew --team vision", "and 1 more", "policy expires in 88 days")
		if _, body := d.get(page); strings.Contains(body, "1 of 1 keys") {
			t.Errorf("%s: mere advice is in the banner", page)
		}
	}
	if _, body := open(t, troubled()).get("/login"); strings.Contains(body, "pub-vision") {
		t.Error("a stranger is told of the fleet's keys")
	}
	f := busyFleet()
	f.health.Findings = []api.Finding{{Severity: api.Bad, Subject: "<script>", What: "is `<b>` wrong", Remedy: "`<i>`"}}
	_, body := open(t, f).signIn(viewerToken).get("/")
	if strings.Contains(body, "<b>") || strings.Contains(body, "<i>") || strings.Contains(body, "<strong><script>") {
		t.Error("what a finding says is taken for markup")
	}
	if _, body := open(t, busyFleet()).signIn(viewerToken).get("/"); strings.Contains(body, "findings") {
		t.Error("a banner without findings")
	}
}

func TestTheBannerInARealBrowser(t *testing.T) {
	d := open(t, troubled()) // first, so that it is closed last
	b := webtest.Start(t)
	b.Do(chromedp.Navigate(d.url+"/login"), chromedp.SendKeys(chromedp.CSS("#token"), viewerToken), chromedp.Click(chromedp.CSS("form button.primary")), chromedp.WaitVisible(chromedp.CSS(".findings")))
	for _, v := range webtest.Views("findings") {
		if text := b.Look(d.url+"/", v); !strings.Contains(text, "expires in 27 days") || strings.Contains(text, "expires in 88 days") {
			t.Errorf("%s: the banner has the first finding alone:\n%s", v.Name, text)
		}
	}
	b.Do(chromedp.Click(chromedp.CSS(".findings summary")), chromedp.WaitVisible(chromedp.CSS(".findings details p")))
	for _, said := range b.Complaints() {
		t.Errorf("the browser complains: %s", said)
	}
}
