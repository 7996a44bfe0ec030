package standby_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/standby"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

const key = "packs/default.pack.zst"

// place is a device's folder, a coordinator that hands out URLs, and a bucket that
// takes some of them.
type place struct {
	t      *testing.T
	o      standby.Options
	now    time.Time
	asked  int
	life   time.Duration
	fails  error // of the coordinator
	bucket *httptest.Server
	good   map[string]bool // signatures
	status int             // of an answer to any other
	log    bytes.Buffer
}

func newPlace(t *testing.T) *place {
	p := &place{t: t, now: time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC), life: registry.MaxURLLife, good: map[string]bool{}, status: http.StatusForbidden}
	p.bucket = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		switch {
		case !p.good[r.URL.Query().Get("sig")]:
			w.WriteHeader(p.status)
		case r.Header.Get("If-None-Match") == `"1"`:
			w.WriteHeader(http.StatusNotModified)
		default:
			w.Write([]byte("pack of " + r.URL.Path))
		}
	}))
	t.Cleanup(p.bucket.Close)
	p.o = standby.Options{
		Path: filepath.Join(t.TempDir(), "pack-url.json"), Root: fleet.Digest{1}, Key: key,
		Ask: p.ask, Now: func() time.Time { return p.now }, Logger: slog.New(slog.NewTextHandler(&p.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	return p
}

func (p *place) ask(context.Context) (api.PackURL, error) {
	p.asked++
	if p.fails != nil {
		return api.PackURL{}, p.fails
	}
	sig := "secret" + strings.Repeat("x", p.asked)
	p.good[sig] = true
	return api.PackURL{URL: p.bucket.URL + "/" + key + "?sig=" + sig, Life: fleet.Duration(p.life)}, nil
}

func (p *place) open() *standby.Standby {
	p.t.Helper()
	s, err := standby.Open(p.o)
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

// reads says whether the pack can be had.
func (p *place) reads(s *standby.Standby) bool {
	p.t.Helper()
	pack, _, err := s.Get(p.t.Context(), "")
	if err == nil && string(pack) != "pack of /"+key {
		p.t.Errorf("it reads %q", pack)
	}
	return err == nil
}

func TestAURLIsAskedForWhenItIsHalfOver(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := p.open()
	if _, _, err := s.Get(t.Context(), ""); !fault.Is(err, fault.NotFound) || fault.Hint(err) == "" || s.View() != (standby.View{}) {
		t.Errorf("before the coordinator was heard: %v, %+v", err, s.View())
	}
	for hour := range 15 * 24 { // heard each hour for 15 days
		s.Heard(t.Context())
		if left := s.View().Until.Sub(p.now); left < p.life/2 {
			t.Fatalf("after %d h it is good for %s", hour, left)
		}
		p.now = p.now.Add(time.Hour)
	}
	if p.asked != 5 || !p.reads(s) {
		t.Errorf("asked %d times in 15 days", p.asked)
	}
	if _, tag, err := s.Get(t.Context(), `"1"`); !errors.Is(err, registry.ErrNotModified) || tag != `"1"` {
		t.Errorf("asked with its tag: %q, %v", tag, err)
	}
	// A session's credentials, which end at a time: each answer is good for less.
	p.life = 6 * time.Hour
	end := p.now.Add(7*24*time.Hour + p.life)
	p.now = end.Add(-p.life)
	s.Heard(t.Context())
	for asked := p.asked; p.now.Before(end.Add(-5 * time.Minute)); p.now = p.now.Add(time.Minute) {
		p.life = end.Sub(p.now)
		s.Heard(t.Context())
		if p.asked-asked > 8 {
			t.Fatal("it asks again and again")
		}
	}
}

func TestItOutlivesARestart(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.open().Heard(t.Context())
	if info, err := os.Stat(p.o.Path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	p.fails = fault.Newf(fault.Transient, "dial", "", "connection refused")
	again := p.open()
	if !p.reads(again) || again.View().Trouble != "" {
		t.Errorf("after a start: %+v", again.View())
	}
	// It is asked for anew at a start, but not at each sign of life when that fails.
	for range 100 {
		again.Heard(t.Context())
	}
	if p.asked != 2 || !strings.Contains(again.View().Trouble, "connection refused") || !p.reads(again) {
		t.Errorf("asked %d times: %+v", p.asked, again.View())
	}
	p.fails, p.now = nil, p.now.Add(time.Hour)
	again.Heard(t.Context())
	if p.asked != 3 || again.View().Trouble != "" {
		t.Errorf("asked %d times: %+v", p.asked, again.View())
	}
	// That of another fleet, or of another group's pack, is none.
	for name, edit := range map[string]func(*standby.Options){
		"another root":  func(o *standby.Options) { o.Root = fleet.Digest{2} },
		"another group": func(o *standby.Options) { o.Key = "packs/lab.pack.zst" },
	} {
		q := *p
		edit(&q.o)
		if q.reads(q.open()) {
			t.Errorf("%s: it is used", name)
		}
	}
	for name, content := range map[string]string{
		"torn": `{"schema":1,"root":"01`, "of a later version": `{"schema":2}`, "with another URL": `{"schema":1,"root":"` + p.o.Root.String() + `","key":"` + key + `","url":"file:///etc/shadow","since":"2026-06-01T12:00:00Z","life":"1h"}`,
	} {
		if err := os.WriteFile(p.o.Path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		p.log.Reset()
		s := p.open()
		if p.reads(s) || !strings.Contains(p.log.String(), p.o.Path) || strings.Contains(p.log.String(), "shadow") {
			t.Errorf("%s: %s", name, p.log.String())
		}
		if s.Heard(t.Context()); !p.reads(s) {
			t.Errorf("%s: it is not put right", name)
		}
	}
}

func TestAURLThatTheBucketRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		later  time.Duration
		says   string
	}{
		"it ended":                       {http.StatusForbidden, 8 * 24 * time.Hour, "it ended; "},
		"the signer's session ended":     {http.StatusBadRequest, 8 * 24 * time.Hour, "it ended; "},
		"the signer's key was withdrawn": {http.StatusForbidden, time.Hour, "before its time"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			p.status = c.status
			s := p.open()
			s.Heard(t.Context())
			p.now = p.now.Add(c.later)
			clear(p.good)
			for range 100 {
				if p.reads(s) {
					t.Fatal("it reads what the bucket refuses")
				}
			}
			if v := s.View(); !strings.Contains(v.Trouble, c.says) || !strings.Contains(v.Trouble, "modelfleet pack export") {
				t.Errorf("%+v", v)
			}
			if n := strings.Count(p.log.String(), "level=WARN"); n != 1 {
				t.Errorf("%d lines: %s", n, p.log.String())
			}
			s.Heard(t.Context())
			if !p.reads(s) || s.View().Trouble != "" {
				t.Errorf("with the coordinator's next: %+v", s.View())
			}
			if strings.Contains(p.log.String(), "secret") {
				t.Errorf("the log has the URL: %s", p.log.String())
			}
		})
	}
}

// A clock that is years ahead makes nobody give up a URL that the bucket takes.
func TestTheBucketDecidesWhetherItIsGood(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	s := p.open()
	s.Heard(t.Context())
	p.now = p.now.AddDate(10, 0, 0)
	if !p.reads(s) {
		t.Error("it is given up by the clock")
	}
	p.now = p.now.AddDate(-20, 0, 0)
	if s.Heard(t.Context()); p.asked != 2 {
		t.Errorf("a clock that was put back: asked %d times", p.asked)
	}
	if s.Heard(t.Context()); p.asked != 2 {
		t.Errorf("and again: %d times", p.asked)
	}
}

func TestAnswersThatAreNoURL(t *testing.T) {
	t.Parallel()
	good := "https://bucket.example/" + key + "?sig=secret"
	for name, u := range map[string]api.PackURL{
		"a path":            {URL: "/etc/secret", Life: fleet.Duration(time.Hour)},
		"another scheme":    {URL: "ftp://secret/x", Life: fleet.Duration(time.Hour)},
		"no URL":            {URL: "https://secret\x7f", Life: fleet.Duration(time.Hour)},
		"far too long":      {URL: good + strings.Repeat("x", 8<<10), Life: fleet.Duration(time.Hour)},
		"no life":           {URL: good},
		"longer than S3's":  {URL: good, Life: fleet.Duration(registry.MaxURLLife + time.Second)},
		"a life of decades": {URL: good, Life: fleet.Duration(1 << 62)},
	} {
		p := newPlace(t)
		p.o.Ask = func(context.Context) (api.PackURL, error) { p.asked++; return u, nil }
		s := p.open()
		s.Heard(t.Context())
		s.Heard(t.Context())
		if v := s.View(); !v.Until.IsZero() || v.Trouble == "" || strings.Contains(v.Trouble+p.log.String(), "secret") || p.asked != 1 {
			t.Errorf("%s: asked %d times, %+v, %s", name, p.asked, v, p.log.String())
		}
		if _, err := os.Stat(p.o.Path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: it was written", name)
		}
	}
}

func TestADiskThatTakesNothing(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	full := true
	p.o.Write = func(path string, data []byte, perm fs.FileMode) error {
		if full {
			return fault.Newf(fault.Exhausted, "write file", path, "no space left on device")
		}
		return cas.WriteFile(path, data, perm)
	}
	s := p.open()
	s.Heard(t.Context())
	if v := s.View(); !p.reads(s) || !strings.Contains(v.Trouble, "no space left") {
		t.Errorf("%+v", v)
	}
	full, p.now = false, p.now.Add(4*24*time.Hour)
	s.Heard(t.Context())
	if v := s.View(); v.Trouble != "" || !p.reads(p.open()) {
		t.Errorf("with room: %+v", v)
	}
}

// Whatever lies in the file, opening it harms nothing, and what is used is a URL.
func FuzzOpen(f *testing.F) {
	root := fleet.Digest{1}
	f.Add([]byte(`{"schema":1,"root":"` + root.String() + `","key":"` + key + `","url":"https://b.example/k?sig=s","since":"2026-06-01T12:00:00Z","life":"168h"}`))
	f.Add([]byte(`{"schema":1}`))
	f.Add([]byte(`{`))
	path := filepath.Join(f.TempDir(), "pack-url.json")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := standby.Open(standby.Options{Path: path, Root: root, Key: key, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if v := s.View(); !v.Until.IsZero() && !bytes.Contains(data, []byte("http")) {
			t.Errorf("%s is taken: %+v", data, v)
		}
	})
}
