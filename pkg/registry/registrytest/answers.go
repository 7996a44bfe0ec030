package registrytest

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
)

// half begins an answer of more bytes than it sends.
func half(w http.ResponseWriter, status int) {
	w.Header().Set("Content-Length", "8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, "half")
	panic(http.ErrAbortHandler) // the connection ends here
}

func partial(w http.ResponseWriter, span, body string) {
	w.Header().Set("Content-Range", span)
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(http.StatusPartialContent)
	_, _ = io.WriteString(w, body)
}

// AnswerSuite checks what a reader makes of a server that misbehaves: one error,
// of a kind that says what to do next, and never bytes of another place. open
// returns a reader of the server at url that does not try again by itself.
func AnswerSuite(t *testing.T, open func(t *testing.T, url string) registry.Reader) {
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(code)
			_, _ = io.WriteString(w, "<Error><Code>SomeCode</Code><Message>no</Message></Error>")
		}
	}
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		get    fault.Kind // Internal: no error
		read   fault.Kind // of 8 bytes from 8 on
	}{
		{"401", status(401), fault.Denied, fault.Denied},
		{"403", status(403), fault.Denied, fault.Denied},
		{"404", status(404), fault.NotFound, fault.NotFound},
		{"408", status(408), fault.Transient, fault.Transient},
		{"416", status(416), fault.Invalid, fault.Invalid},
		{"429", status(429), fault.Transient, fault.Transient},
		{"500", status(500), fault.Transient, fault.Transient},
		{"502", status(502), fault.Transient, fault.Transient},
		{"503", status(503), fault.Transient, fault.Transient},
		{"no answer", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, fault.Transient, fault.Transient},
		{"half a body", func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") == "" {
				half(w, http.StatusOK)
			}
			w.Header().Set("Content-Range", "bytes 8-15/100")
			half(w, http.StatusPartialContent)
		}, fault.Transient, fault.Transient},
		{"ranges are ignored", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 100)) }, fault.Internal, fault.Invalid},
		{"ranges are ignored, and the object is as long", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "12345678") }, fault.Internal, fault.Invalid},
		{"another range", func(w http.ResponseWriter, _ *http.Request) { partial(w, "bytes 0-7/100", "12345678") }, fault.Transient, fault.Invalid},
		{"a shorter range", func(w http.ResponseWriter, _ *http.Request) { partial(w, "bytes 8-11/12", "1234") }, fault.Transient, fault.Invalid},
		{"a range of no place", func(w http.ResponseWriter, _ *http.Request) { partial(w, "", "12345678") }, fault.Transient, fault.Invalid},
		{"more than is bearable", func(w http.ResponseWriter, _ *http.Request) {
			piece := make([]byte, 1<<20)
			for range registry.MaxObject>>20 + 1 {
				if _, err := w.Write(piece); err != nil {
					return
				}
			}
		}, fault.Exhausted, fault.Invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(c.answer)
			defer srv.Close()
			r := open(t, srv.URL)
			_, _, err := r.Get(t.Context(), "files/ab/raw", "")
			judge(t, c.name, err, c.get)
			body, err := r.Range(t.Context(), "files/ab/raw", 8, 8)
			if err == nil {
				// A stream that ends early is the caller's to notice: it must be able to.
				if _, err := io.ReadFull(body, make([]byte, 8)); err == nil {
					t.Error("the range was read")
				}
				if c.name != "half a body" {
					t.Error("the range was opened")
				}
				_ = body.Close()
				return
			}
			judge(t, c.name, err, c.read)
		})
	}
}

func judge(t *testing.T, name string, err error, kind fault.Kind) {
	t.Helper()
	if kind == fault.Internal {
		ok(t, err)
		return
	}
	want(t, err, kind)
	if after, asked := registry.RetryAfter(err); kind == fault.Transient && strings.HasPrefix(name, "5") && (!asked || after != 7*time.Second) {
		t.Errorf("it asked to wait 7s, heard %v", after)
	}
	if strings.Contains(err.Error(), "127.0.0.1") && kind != fault.Transient {
		t.Errorf("the message tells of addresses: %v", err)
	}
}
