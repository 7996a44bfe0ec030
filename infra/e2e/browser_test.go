package e2e_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
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
		chromedp.Flag("ignore-certificate-errors", true), // its key is pinned, by whoever has the context
		chromedp.NoSandbox, chromedp.DisableGPU, chromedp.Flag("disable-quic", true), chromedp.NoFirstRun,
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), opts...)
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
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.t.Fatal(err)
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

// TestTheDashboardOfARealFleetInARealBrowser looks at every page of a coordinator
// whose agents had a good release, a bad one that was taken back, and have a
// better one on its way.
func TestTheDashboardOfARealFleetInARealBrowser(t *testing.T) {
	t.Parallel()
	b := startBrowser(t)
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

	if text := b.look(f.url, "login", "light", 1280); !strings.Contains(text, "Sign in") {
		t.Fatalf("a stranger sees:\n%s", text)
	}
	b.do(chromedp.SendKeys(chromedp.CSS("#token"), f.token), chromedp.Click(chromedp.CSS("form button.primary")), chromedp.WaitVisible(chromedp.CSS("#live.on")))
	for _, p := range []struct{ name, path, says string }{
		{"fleet", "/", "What members run"},
		{"rollouts", "/rollouts", "Ended"},
		{"rollout-running", "/rollouts/" + better, "Exposed against control"},
		{"rollout-bad", "/rollouts/" + bad, "every member that answers runs something else"},
		{"members", "/members", "hall-2-cam-02"},
		{"member", "/members/" + ill, "exposed to service-needed@2.0.0 by rollout " + better},
		{"releases", "/releases", "2.0.0"},
		{"audit", "/audit", "rollout.verdict"},
	} {
		for _, mode := range []struct {
			name, scheme string
			width        int64
		}{{"", "light", 1280}, {"-dark", "dark", 1280}, {"-phone", "light", 390}} {
			text := b.look(f.url+p.path, p.name+mode.name, mode.scheme, mode.width)
			if !strings.Contains(text, p.says) {
				t.Errorf("%s%s does not say %q:\n%s", p.name, mode.name, p.says, text)
			}
			for _, said := range b.complaints() {
				t.Errorf("%s%s: the browser complains: %s", p.name, mode.name, said)
			}
		}
	}
}
