package web_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
	"github.com/modelfleet/modelfleet/pkg/registry/registrytest"
	"github.com/modelfleet/modelfleet/pkg/registry/web"
)

// A folder behind an ordinary web server is a registry.
func TestBaseURLConforms(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	w, err := dir.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	// Any web server gives an ETag; Go's file server leaves it to us.
	files := http.FileServer(http.Dir(folder))
	srv := httptest.NewServer(http.StripPrefix("/models", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if b, _, err := w.Get(r.Context(), strings.TrimPrefix(r.URL.Path, "/"), ""); err == nil {
			rw.Header().Set("ETag", fmt.Sprintf("%q", fmt.Sprintf("%x", registry.BodyOf(b).SHA256)))
		}
		files.ServeHTTP(rw, r)
	})))
	defer srv.Close()
	r, err := web.Open(web.Options{BaseURL: srv.URL + "/models"})
	if err != nil {
		t.Fatal(err)
	}
	registrytest.ReaderSuite(t, r, w)
}

// roundTrip is a server without a network.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(status int, body string) (*http.Response, error) {
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body)), Header: http.Header{}, ContentLength: int64(len(body))}, nil
}

// signer counts what it signs, and fails while down.
type signer struct {
	mu    sync.Mutex
	calls int
	keys  int
	down  error
	ttl   time.Duration
}

func (s *signer) sign(_ context.Context, keys []string) ([]string, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return nil, time.Time{}, s.down
	}
	s.calls++
	s.keys += len(keys)
	urls := make([]string, len(keys))
	for i, k := range keys {
		urls[i] = fmt.Sprintf("https://bucket.example/%s?sig=%d", k, s.calls)
	}
	return urls, time.Now().Add(s.ttl), nil
}

func TestURLsAreKeptUntilTheyExpire(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &signer{ttl: 10 * time.Minute}
		r, err := web.Open(web.Options{Sign: s.sign, Client: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) { return answer(200, "x") })}})
		if err != nil {
			t.Fatal(err)
		}
		get := func() error {
			_, _, err := r.Get(t.Context(), "key", "")
			return err
		}
		for range 3 {
			if err := get(); err != nil {
				t.Fatal(err)
			}
		}
		if s.calls != 1 {
			t.Fatalf("signed %d times for one key", s.calls)
		}
		// In the last minute a new one is asked for; a coordinator that is down does not matter yet.
		s.down = errors.New("coordinator is down")
		time.Sleep(9*time.Minute + 30*time.Second)
		if err := get(); err != nil {
			t.Fatalf("a URL that is still good was not used: %v", err)
		}
		time.Sleep(time.Minute)
		if err := get(); err == nil {
			t.Fatal("an expired URL was used")
		}
		s.down = nil
		if err := get(); err != nil || s.calls != 2 {
			t.Fatalf("after it returned: %v, signed %d times", err, s.calls)
		}
	})
}

func TestARefusedURLIsSignedAnewOnce(t *testing.T) {
	t.Parallel()
	s := &signer{ttl: time.Hour}
	var seen []string
	revoked := map[string]bool{}
	r, err := web.Open(web.Options{Sign: s.sign, Client: &http.Client{Transport: roundTrip(func(req *http.Request) (*http.Response, error) {
		seen = append(seen, req.URL.RawQuery)
		if revoked[req.URL.RawQuery] || revoked["all"] {
			return answer(403, "")
		}
		return answer(200, "x")
	})}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Get(t.Context(), "key", ""); err != nil {
		t.Fatal(err)
	}
	revoked["sig=1"] = true
	if _, _, err := r.Get(t.Context(), "key", ""); err != nil {
		t.Fatalf("a fresh URL was not tried: %v", err)
	}
	revoked["all"] = true
	_, _, err = r.Get(t.Context(), "key", "")
	if !fault.Is(err, fault.Denied) {
		t.Fatalf("error is %v", err)
	}
	if got := strings.Join(seen, " "); got != "sig=1 sig=1 sig=2 sig=2 sig=3" {
		t.Fatalf("requests were %s", got)
	}
}

func TestPrepareSignsInBatches(t *testing.T) {
	t.Parallel()
	s := &signer{ttl: time.Hour}
	r, err := web.Open(web.Options{Sign: s.sign, Client: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) { return answer(200, "x") })}})
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for i := range 300 {
		keys = append(keys, fmt.Sprint("k", i))
	}
	for range 2 {
		if err := r.Prepare(t.Context(), keys); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := r.Get(t.Context(), "k299", ""); err != nil {
		t.Fatal(err)
	}
	if s.calls != 2 || s.keys != 300 {
		t.Fatalf("signed %d keys in %d calls", s.keys, s.calls)
	}
}

func TestAnswersMapToKinds(t *testing.T) {
	t.Parallel()
	registrytest.AnswerSuite(t, func(t *testing.T, url string) registry.Reader {
		r, err := web.Open(web.Options{BaseURL: url})
		if err != nil {
			t.Fatal(err)
		}
		return r
	})
}

// A server that does not do ranges, or does others, must not be taken for one that does.
func TestWrongRangesAreInvalid(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		header string
	}{
		"ignored": {200, ""}, "other start": {206, "bytes 5-8/100"}, "other end": {206, "bytes 4-8/100"}, "no header": {206, ""}, "nonsense": {206, "bytes 8-4/100"},
	} {
		r, err := web.Open(web.Options{BaseURL: "https://x.example", Client: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
			resp, err := answer(c.status, "four")
			resp.Header.Set("Content-Range", c.header)
			return resp, err
		})}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Range(t.Context(), "key", 4, 4); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

// The signature of a URL is a credential: no error may carry it.
func TestErrorsDoNotShowTheSignature(t *testing.T) {
	t.Parallel()
	s := &signer{ttl: time.Hour}
	r, err := web.Open(web.Options{Sign: s.sign, Client: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
		return nil, errors.New("connection refused")
	})}})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = r.Get(t.Context(), "key", "")
	if !fault.Is(err, fault.Transient) || strings.Contains(err.Error(), "sig=") {
		t.Fatalf("error is %v", err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	for _, o := range []web.Options{{}, {BaseURL: "ftp://x"}, {BaseURL: "models"}, {BaseURL: "https://x", Sign: (&signer{}).sign}} {
		if _, err := web.Open(o); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: error is %v", o.BaseURL, err)
		}
	}
}

// Where a bucket redirects to does not learn the presigned URL.
func TestARedirectTellsNoURL(t *testing.T) {
	t.Parallel()
	var referer string
	there := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		referer = r.Referer()
		_, _ = io.WriteString(w, "body")
	}))
	defer there.Close()
	bucket := httptest.NewServer(http.RedirectHandler(there.URL, http.StatusTemporaryRedirect))
	defer bucket.Close()
	r, err := web.Open(web.Options{Sign: func(context.Context, []string) ([]string, time.Time, error) {
		return []string{bucket.URL + "/pack?X-Amz-Signature=secret"}, time.Now().Add(time.Hour), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if b, _, err := r.Get(t.Context(), "pack", ""); err != nil || string(b) != "body" || referer != "" {
		t.Errorf("%q, %v; told %q", b, err, referer)
	}
}
