// Package webtest looks at the dashboard's pages in a real headless Chromium: at
// several sizes and colour schemes, and for whatever the browser complains of.
// Tests of the pages alone and of a whole fleet share it.
package webtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// patience is how long one step may take. It is long because the machine may be
// loaded; a test that passes never waits for it.
const patience = 3 * time.Minute

// Browser is a real headless Chromium that remembers what pages complain of.
type Browser struct {
	t    *testing.T
	ctx  context.Context
	dir  string // where screenshots are kept
	mu   sync.Mutex
	said []string
}

// Start starts Chromium until the test ends, or skips aloud where there is none.
// Screenshots go to MODELFLEET_SCREENSHOTS when it is set, else to the test's
// artefacts.
func Start(t *testing.T) *Browser {
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
	b := &Browser{t: t, dir: os.Getenv("MODELFLEET_SCREENSHOTS")}
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
	go func() { // ends with the browser
		for m, err := range messages {
			if err != nil {
				return
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

// Complaints returns and forgets what the browser complained of: console errors,
// uncaught exceptions, refused content, failed loads.
func (b *Browser) Complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	said := b.said
	b.said = nil
	return said
}

// Do performs steps, each a matter of seconds.
func (b *Browser) Do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		page, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](`location.href + "\n" + document.documentElement.innerText`)) // may have none
		b.t.Fatalf("%v, at %s", err, page)
	}
}

// Ask performs an action that has an answer.
func Ask[T any](b *Browser, a chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

// View is how a page is looked at.
type View struct {
	Name   string // of its picture
	Scheme string // light or dark
	Width  int64  // in pixels
}

// Views are those that every page must be good in, the usual one first.
func Views(page string) []View {
	return []View{{page, "light", 1280}, {page + "-dark", "dark", 1280}, {page + "-phone", "light", 390}}
}

// Page is a page, and a text that must be on it.
type Page struct{ Name, Path, Says string }

// Tour looks at pages in every view. None may lack its text, overflow, or have the
// browser complain.
func (b *Browser) Tour(base string, pages []Page) {
	b.t.Helper()
	for _, p := range pages {
		for _, v := range Views(p.Name) {
			text := b.Look(base+p.Path, v)
			if !strings.Contains(text, p.Says) {
				b.t.Errorf("%s does not say %q:\n%s", v.Name, p.Says, text)
			}
			for _, said := range b.Complaints() {
				b.t.Errorf("%s: the browser complains: %s", v.Name, said)
			}
		}
	}
}

// Look opens a page, keeps a picture of it, and returns its text. Nothing may be
// wider than what it is in.
func (b *Browser) Look(url string, v View) string {
	b.t.Helper()
	b.Do(chromedp.EmulateViewport(v.Width, 900))
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: v.Scheme}},
	}); err != nil {
		b.t.Fatal(err)
	}
	b.Do(chromedp.Navigate(url), chromedp.WaitVisible(chromedp.CSS("main")))
	text := Ask(b, chromedp.Text(chromedp.CSS("main")))
	wide := Ask(b, chromedp.Evaluate[string](`document.documentElement.scrollWidth <= window.innerWidth ? "" :
		[...document.querySelectorAll("main *")].filter((e) => e.getBoundingClientRect().right > window.innerWidth && !e.closest(".scroll")).map((e) => e.tagName + "." + e.className).slice(0, 4).join(", ")`))
	if wide != "" {
		b.t.Errorf("%s at %d pixels: the page is wider than the window, at %s", v.Name, v.Width, wide)
	}
	if spilt := Ask(b, chromedp.Evaluate[string](`[...document.querySelectorAll("main figure, main .tiles, main .scroll td")].filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.innerText).slice(0, 4).join(", ")`)); spilt != "" {
		b.t.Errorf("%s at %d pixels: more than fits in %q", v.Name, v.Width, spilt)
	}
	picture := Ask(b, chromedp.FullScreenshot(100))
	if err := os.WriteFile(filepath.Join(b.dir, v.Name+".png"), picture, 0o644); err != nil {
		b.t.Fatal(err)
	}
	return text
}
