package api_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// server is a transport that answers without a socket.
type server func(*http.Request) (*http.Response, error)

func (s server) RoundTrip(r *http.Request) (*http.Response, error) { return s(r) }

func answer(status int, body string, header ...string) *http.Response {
	h := http.Header{}
	for i := 0; i+1 < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Header: h, Body: io.NopCloser(strings.NewReader(body))}
}

func problem(err error) *http.Response {
	w := httptest.NewRecorder()
	api.WriteProblem(w, err)
	return w.Result()
}

func client(t *testing.T, s server) *api.Client {
	t.Helper()
	c, err := api.NewClient(api.Options{URL: "https://coordinator.test/", Token: "secret", Transport: s})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestKindsSurviveTheWire(t *testing.T) {
	for k := fault.Internal; k <= fault.Canceled; k++ {
		sent := fault.Newf(k, "do", "it", "because").WithHint("do 100%% else")
		got := api.ReadProblem(problem(sent), "ask", "them")
		if !fault.Is(got, k) {
			t.Errorf("%v arrived as %v", k, fault.KindOf(got))
		}
		leaks := strings.Contains(got.Error(), "because")
		if k == fault.Internal && leaks {
			t.Errorf("an internal error's text went out: %v", got)
		}
		if k != fault.Internal && (!leaks || fault.Hint(got) != "do 100% else") {
			t.Errorf("%v arrived as %v, hint %q", sent, got, fault.Hint(got))
		}
	}
}

func TestWhatBothSidesCallTheSameIsSaidOnce(t *testing.T) {
	sent := fault.Newf(fault.Denied, "enrol", "cam-2", "the join token is spent")
	for op, want := range map[string]string{
		"enrol":  "enrol cam-2: the join token is spent",
		"return": "return cam-2: the join token is spent",
	} {
		if got := api.ReadProblem(problem(sent), op, "cam-2"); got.Error() != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestAnswersOfOthersAreClassifiedByStatus(t *testing.T) {
	for status, kind := range map[int]fault.Kind{401: fault.Denied, 403: fault.Denied, 404: fault.NotFound, 409: fault.Conflict, 412: fault.Conflict, 400: fault.Invalid, 429: fault.Transient, 502: fault.Transient, 302: fault.Internal} {
		if err := api.ReadProblem(answer(status, "<html>nginx</html>"), "ask", ""); !fault.Is(err, kind) {
			t.Errorf("%d became %v, want %v", status, fault.KindOf(err), kind)
		}
	}
}

func TestWhatMayBeRepeatedIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, tc := range map[string]struct {
			err   error
			call  func(*api.Client) error
			tries int
		}{
			"a read in trouble":  {fault.Newf(fault.Transient, "x", "", "busy"), func(c *api.Client) error { _, err := c.Fleet(t.Context()); return err }, 4},
			"rows in trouble":    {errors.New("connection reset"), func(c *api.Client) error { _, err := c.SendRows(t.Context(), "a/0", nil, ""); return err }, 4},
			"a refusal":          {fault.Newf(fault.Denied, "x", "", "no"), func(c *api.Client) error { _, err := c.Fleet(t.Context()); return err }, 1},
			"a start in trouble": {fault.Newf(fault.Transient, "x", "", "busy"), func(c *api.Client) error { _, err := c.StartRollout(t.Context(), api.RolloutRequest{}); return err }, 1},
		} {
			tries := 0
			c := client(t, func(r *http.Request) (*http.Response, error) {
				tries++
				if f, ok := errors.AsType[*fault.Error](tc.err); ok {
					return problem(f), nil
				}
				return nil, tc.err
			})
			if err := tc.call(c); err == nil || tries != tc.tries {
				t.Errorf("%s: %d tries, want %d (%v)", name, tries, tc.tries, err)
			}
		}
	})
}

func TestTheServerSaysHowLongToWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun, tries := time.Now(), 0
		c := client(t, func(*http.Request) (*http.Response, error) {
			if tries++; tries == 1 {
				return answer(503, "", "Retry-After", "7"), nil
			}
			return answer(200, `{"name": "plant"}`), nil
		})
		f, err := c.Fleet(t.Context())
		if waited := time.Since(begun); err != nil || f.Name != "plant" || waited < 7*time.Second || waited > 11*time.Second {
			t.Errorf("got %+v, %v after %s", f, err, waited)
		}
	})
}

func TestACallerThatGivesUpIsNotKept(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := client(t, func(r *http.Request) (*http.Response, error) {
		cancel()
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	if _, err := c.Fleet(ctx); !fault.Is(err, fault.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
}

func TestPacksAreAskedForByTag(t *testing.T) {
	c := client(t, func(r *http.Request) (*http.Response, error) {
		switch {
		case r.Header.Get("Authorization") != "Bearer secret":
			return answer(401, ""), nil
		case r.URL.Path != "/v1/packs/default":
			return answer(404, ""), nil
		case r.Header.Get("If-None-Match") == `"a"` && r.URL.Query().Get("wait") == "50s":
			return answer(304, ""), nil
		}
		return answer(200, "pack", "ETag", `"a"`), nil
	})
	got, err := c.Pack(t.Context(), "default", "", 0)
	if err != nil || string(got.Pack) != "pack" || got.NotModified {
		t.Fatalf("got %+v, %v", got, err)
	}
	if got, err = c.Pack(t.Context(), "default", got.ETag, 50*time.Second); err != nil || !got.NotModified || got.ETag != `"a"` {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestThePinDecides(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") }))
	defer s.Close()
	pin := api.PinOf(s.Certificate())
	other := strings.Repeat("ab", 32)
	for p, kind := range map[string]fault.Kind{pin: 255, other: fault.Untrusted, "": fault.Transient} {
		c, err := api.NewClient(api.Options{URL: s.URL, Pin: p, Attempts: 1, Certificate: func() (*tls.Certificate, error) { return nil, nil }})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Fleet(t.Context())
		if (err == nil) != (kind == 255) || (err != nil && !fault.Is(err, kind)) {
			t.Errorf("pin %q: %v", p, err)
		}
		c.Close()
	}
	if _, err := api.NewClient(api.Options{URL: s.URL, Pin: "short"}); !fault.Is(err, fault.Invalid) {
		t.Errorf("a short pin: %v, want Invalid", err)
	}
	if _, err := api.NewClient(api.Options{URL: "coordinator:8443"}); !fault.Is(err, fault.Invalid) || fault.Hint(err) == "" {
		t.Errorf("no scheme: %v, want Invalid with a hint", err)
	}
}

func TestJitterIsBounded(t *testing.T) {
	for n := 1; n < 100; n++ {
		if d := api.Jitter(n); d < 0 || d > 10*time.Second {
			t.Errorf("pause %d is %s", n, d)
		}
	}
}

func events() []api.Event {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	return []api.Event{{At: at, Kind: "member", Subject: "a", Text: "line\nbreak <&>"}, {At: at, Kind: "alarm", Subject: "b"}}
}

func TestEventsArriveAsTheyWereSent(t *testing.T) {
	var stream bytes.Buffer
	for _, e := range events() {
		if err := api.WriteEvent(&stream, e); err != nil {
			t.Fatal(err)
		}
		stream.WriteString(": still here\n\n")
	}
	c := client(t, func(*http.Request) (*http.Response, error) { return answer(200, stream.String()), nil })
	var got []api.Event
	err := c.Events(t.Context(), func(e api.Event) error { got = append(got, e); return nil })
	if !fault.Is(err, fault.Transient) {
		t.Errorf("the end of the stream is %v, want Transient", err)
	}
	if diff := cmp.Diff(events(), got); diff != "" {
		t.Errorf("events (-sent +got):\n%s", diff)
	}
	stop := errors.New("enough")
	if err := c.Events(t.Context(), func(api.Event) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v, want the reader's own error", err)
	}
}

func FuzzReadEvents(f *testing.F) {
	var stream bytes.Buffer
	for _, e := range events() {
		_ = api.WriteEvent(&stream, e)
	}
	f.Add(stream.Bytes())
	f.Add([]byte("data: {\"kind\":\"a\"}\ndata: \n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = api.ReadEvents(bytes.NewReader(b), func(e api.Event) error {
			var again bytes.Buffer
			if e.At.Year() < 0 || e.At.Year() > 9999 { // not JSON's to say
				return nil
			}
			if err := api.WriteEvent(&again, e); err != nil {
				t.Errorf("%+v was read and cannot be written: %v", e, err)
			}
			return nil
		})
	})
}
