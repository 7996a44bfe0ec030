package web_test

import (
	"context"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/modelfleet/modelfleet/coordinator/oidc/oidctest"
	"github.com/modelfleet/modelfleet/pkg/api"
)

// browser is a real headless Chromium that remembers what pages complain of.
type browser struct {
	t    *testing.T
	ctx  context.Context
	dir  string // where screenshots are kept
	mu   sync.Mutex
	said []string
}

// startBrowser starts Chromium, or skips aloud where there is none. Screenshots
// go to MODELFLEET_SCREENSHOTS when it is set, else to the test's artefacts.
func startBrowser(t *testing.T) *browser {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		t.Skip("SKIPPED: no chromium, chromium-browser or google-chrome on PATH; the pages were not looked at in a browser")
	}
	b := &browser{t: t, dir: os.Getenv("MODELFLEET_SCREENSHOTS")}
	if b.dir == "" {
		b.dir = t.ArtifactDir()
	} else if err := os.MkdirAll(b.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()),
		chromedp.NoSandbox, chromedp.DisableGPU, chromedp.Flag("ignore-certificate-errors", true), chromedp.Flag("disable-quic", true), chromedp.NoFirstRun,
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true))
	alive, cancel := context.WithTimeout(t.Context(), 3*time.Minute) // a page that never shows what is waited for
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewExecAllocator(alive, opts...)
	t.Cleanup(cancel)
	b.ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	messages := chromedp.Console(b.ctx)
	go func() {
		for m, err := range messages {
			if err != nil {
				return // the browser was closed
			}
			if m.IsException() || m.Type == chromedp.ConsoleError || m.Type == chromedp.ConsoleWarning {
				b.mu.Lock()
				b.said = append(b.said, m.String()+" "+m.URL)
				b.mu.Unlock()
			}
		}
	}()
	return b
}

// complaints returns and forgets what the browser complained of: console errors,
// uncaught exceptions, refused content, failed loads.
func (b *browser) complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	said := b.said
	b.said = nil
	return said
}

// do performs steps, each a matter of seconds.
func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		page, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](`location.href + "\n" + document.documentElement.innerText`))
		b.t.Fatalf("%v, at %s", err, page)
	}
}

// ask performs an action that has an answer.
func ask[T any](b *browser, a chromedp.Action[T]) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, a)
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

// look opens a page at a size and scheme, keeps a picture, and returns its text.
func (b *browser) look(url, name, scheme string, width int64) string {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(width, 900))
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	}); err != nil {
		b.t.Fatal(err)
	}
	b.do(chromedp.Navigate(url), chromedp.WaitVisible(chromedp.CSS("main")))
	text := ask(b, chromedp.Text(chromedp.CSS("main")))
	wide := ask(b, chromedp.Evaluate[string](`document.documentElement.scrollWidth <= window.innerWidth ? "" :
		[...document.querySelectorAll("main *")].filter((e) => e.getBoundingClientRect().right > window.innerWidth && !e.closest(".scroll")).map((e) => e.tagName + "." + e.className).slice(0, 4).join(", ")`))
	if spilt := ask(b, chromedp.Evaluate[string](`[...document.querySelectorAll("main figure, main .tiles, main .scroll td")].filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.innerText).slice(0, 4).join(", ")`)); spilt != "" {
		b.t.Errorf("%s at %d pixels: more than fits in %q", name, width, spilt)
	}
	picture := ask(b, chromedp.FullScreenshot(100))
	if wide != "" {
		b.t.Errorf("%s at %d pixels: the page is wider than the window, at %s", name, width, wide)
	}
	if err := os.WriteFile(filepath.Join(b.dir, name+".png"), picture, 0o644); err != nil {
		b.t.Fatal(err)
	}
	return text
}

func TestPagesInARealBrowser(t *testing.T) {
	f := busyFleet()
	d := open(t, f) // first, so that it is closed last: its stream ends with the browser
	b := startBrowser(t)

	if text := b.look(d.url+"/rollouts/scorer-3", "login", "light", 1280); !strings.Contains(text, "Sign in") {
		t.Fatalf("a stranger sees:\n%s", text)
	}
	b.do(chromedp.SendKeys(chromedp.CSS("#token"), adminToken), chromedp.Click(chromedp.CSS("form button.primary")), chromedp.WaitVisible(chromedp.CSS("figure")))

	pages := []struct{ name, path, says string }{
		{"fleet", "/", "What members run"},
		{"rollouts", "/rollouts", "Ended"},
		{"rollout-good", "/rollouts/scorer-4", "2 members download: 7.0 MiB of 35.1 MiB"},
		{"rollout-bad", "/rollouts/scorer-3", "gate errors failed in stage lab"},
		{"members", "/members", "39.9 % · 1.3 MiB/s · 8s left"},
		{"member", "/members/aachen-06", "In quarantine here"},
		{"member-downloads", "/members/bremen-05", "7.0 MiB of 17.5 MiB (39.9 %), 1.3 MiB/s, 8s left"},
		{"member-stuck", "/members/cork-08", "It cannot fetch: network, since 2026-11-24 09:29:00Z (12m0s)"},
		{"releases", "/releases", "accuracy"},
		{"audit", "/audit", "rollout.verdict"},
	}
	for _, p := range pages {
		for _, mode := range []struct {
			name, scheme string
			width        int64
		}{{"", "light", 1280}, {"-dark", "dark", 1280}, {"-phone", "light", 390}} {
			text := b.look(d.url+p.path, p.name+mode.name, mode.scheme, mode.width)
			if !strings.Contains(text, p.says) {
				t.Errorf("%s%s does not say %q:\n%s", p.name, mode.name, p.says, text)
			}
			for _, said := range b.complaints() {
				t.Errorf("%s%s: the browser complains: %s", p.name, mode.name, said)
			}
		}
	}
}

func TestAnEventRefreshesThePageOnTheScreen(t *testing.T) {
	f := busyFleet()
	d := open(t, f) // first, so that it is closed last: its stream ends with the browser
	b := startBrowser(t)
	b.do(chromedp.Navigate(d.url+"/login"), chromedp.SendKeys(chromedp.CSS("#token"), viewerToken), chromedp.Click(chromedp.CSS("form button.primary")),
		chromedp.WaitVisible(chromedp.CSS("#live.on")))
	f.rollouts[0].Reason = "stage quarter passed"
	f.events <- api.Event{At: now, Kind: "rollout", Subject: "scorer-4", Text: "stage quarter passed"}
	b.do(chromedp.WaitVisible(`//p[@class="reason" and contains(., "stage quarter passed")]`))
	for _, said := range b.complaints() {
		t.Errorf("the browser complains: %s", said)
	}
}

func TestSigningInAndOutInARealBrowser(t *testing.T) {
	i := oidctest.Start(t)
	i.Set(func(i *oidctest.Issuer) { i.Ask = true })
	f := busyFleet()
	d := openTLS(t, f, i)
	b := startBrowser(t)
	in := func() {
		b.do(chromedp.Navigate(d.url+"/rollouts/scorer-4"), chromedp.Click(chromedp.CSS("#issuer")), // a stranger, sent to the issuer
			chromedp.WaitVisible(chromedp.CSS("#allow")), chromedp.Click(chromedp.CSS("#allow")),
			chromedp.WaitVisible(chromedp.CSS("figure")), chromedp.WaitVisible(chromedp.CSS("#live.on")))
	}
	in()
	if who := ask(b, chromedp.Text(chromedp.CSS("form.who"))); !strings.Contains(who, "ana@example.com") {
		t.Errorf("signed in as %q", who)
	}
	if seen := ask(b, chromedp.Evaluate[string](`document.cookie`)); seen != "" {
		t.Errorf("scripts see the cookie %q", seen)
	}
	for _, said := range b.complaints() {
		t.Errorf("the browser complains: %s", said)
	}

	// Another site posts a form with the cookie's browser; the issuer's host will do.
	b.do(chromedp.Navigate(i.URL+"/forge?to="+url.QueryEscape(d.url+"/rollouts/scorer-4/rollback")), chromedp.WaitVisible(chromedp.CSS("#go")), chromedp.Click(chromedp.CSS("#go")))
	b.do(chromedp.WaitVisible(`//*[contains(., "cross-origin") or contains(., "sign in") or contains(., "Sign in") or contains(., "not of a page")]`))
	if len(f.commands) > 0 {
		t.Errorf("a form of another site did %q", f.commands)
	}
	b.complaints() // it complains of the refused post, as it should

	// The session ends while the page is open: the next look leads to the sign-in page.
	f.endAll()
	b.do(chromedp.Navigate(d.url+"/members"), chromedp.WaitVisible(chromedp.CSS("#issuer")))
	if text := ask(b, chromedp.Text(chromedp.CSS("main"))); !strings.Contains(text, "signed out") {
		t.Errorf("an ended session is told %q", text)
	}
	in()
	b.do(chromedp.Click(`//form[@class="who"]/button[1]`), chromedp.WaitVisible(chromedp.CSS("#issuer")))
	if n := len(f.sessions); n != 0 {
		t.Errorf("%d sessions after signing out", n)
	}
}
