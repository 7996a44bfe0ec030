package e2e_test

import (
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/modelfleet/modelfleet/coordinator/web/webtest"
)

// TestTheDashboardOfARealFleetInARealBrowser looks at every page of a coordinator
// whose agents had a good release, a bad one that was taken back, and have a
// better one on its way.
func TestTheDashboardOfARealFleetInARealBrowser(t *testing.T) {
	t.Parallel()
	b := webtest.Start(t)
	f := startFleet(t)
	f.publish(t, "v1", "1.0.0")
	f.settle(t, "1.0.0", everyone, "Succeeded")
	f.publish(t, "v3", "3.0.0")
	bad := f.settle(t, "3.0.0", staged, "RolledBack")
	f.publish(t, "v2", "2.0.0")
	better := f.run(t, "rollout", "start", "service-needed@2.0.0", "-f", f.file(t, "slow.yaml", slow))
	f.until(t, "stages.1.state=Soaking", "rollout", "status", better)
	f.until(t, "stages.1.verdict.gates.gate=errors", "rollout", "status", better)
	ill := f.first(t, "facts.id", "members", "list", "-l", "ring=lab")

	if text := b.Look(f.url, webtest.Views("login")[0]); !strings.Contains(text, "Sign in") {
		t.Fatalf("a stranger sees:\n%s", text)
	}
	b.Do(chromedp.SendKeys(chromedp.CSS("#token"), f.token), chromedp.Click(chromedp.CSS("form button.primary")), chromedp.WaitVisible(chromedp.CSS("#live.on")))
	b.Tour(f.url, []webtest.Page{
		{Name: "fleet", Path: "/", Says: "What members run"},
		{Name: "rollouts", Path: "/rollouts", Says: "Ended"},
		{Name: "rollout-running", Path: "/rollouts/" + better, Says: "Exposed against control"},
		{Name: "rollout-bad", Path: "/rollouts/" + bad, Says: "every member that answers runs something else"},
		{Name: "members", Path: "/members", Says: "hall-2-cam-02"},
		{Name: "member", Path: "/members/" + ill, Says: "exposed to service-needed@2.0.0 by rollout " + better},
		{Name: "releases", Path: "/releases", Says: "2.0.0"},
		{Name: "audit", Path: "/audit", Says: "rollout.verdict"},
	})
}
