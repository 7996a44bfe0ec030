package s3_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/infra/devs3"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/registrytest"
	"github.com/modelfleet/modelfleet/pkg/registry/s3"
	"github.com/modelfleet/modelfleet/pkg/registry/web"
)

// TestMain lets the test program be the S3 server as well: a process of its own.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == devs3.Arg {
		os.Exit(devs3.Main(os.Args[2:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func server(t *testing.T) *devs3.Process {
	t.Helper()
	p, err := devs3.Start(context.Background(), os.Args[0], devs3.Options{Dir: t.TempDir(), Bucket: "fleet-models"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Errorf("stop S3 server: %v", err)
		}
	})
	return p
}

func open(t *testing.T, p *devs3.Process, change func(*s3.Options)) *s3.Store {
	t.Helper()
	o := s3.Options{Bucket: p.Bucket, Endpoint: p.Endpoint, Region: p.Region, AccessKey: p.AccessKey, SecretKey: p.SecretKey}
	if change != nil {
		change(&o)
	}
	s, err := s3.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// partsWire is a network that is cut when so many more parts were begun.
type partsWire struct{ left, sent atomic.Int64 }

func (w *partsWire) RoundTrip(r *http.Request) (*http.Response, error) {
	part := r.Method == http.MethodPut && r.URL.Query().Has("partNumber")
	if part && w.left.Add(-1) < 0 {
		return nil, errors.New("cut")
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if part && err == nil && resp.StatusCode == http.StatusOK {
		w.sent.Add(1)
	}
	return resp, err
}

// One server, all of S3 and of reading it by presigned URLs.
func TestAgainstARealServer(t *testing.T) {
	t.Parallel()
	p := server(t)
	s := open(t, p, nil)
	t.Run("Check", func(t *testing.T) {
		if err := s.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("Suite", func(t *testing.T) { registrytest.Suite(t, s) })
	t.Run("SuiteBelowAPrefix", func(t *testing.T) {
		registrytest.ReaderSuite(t, open(t, p, func(o *s3.Options) { o.Prefix = "/team/fleet/" }), open(t, p, func(o *s3.Options) { o.Prefix = "team/fleet" }))
	})
	t.Run("WebByPresignedURLs", func(t *testing.T) {
		w, err := web.Open(web.Options{Sign: func(ctx context.Context, keys []string) ([]string, time.Time, error) {
			return s.Sign(ctx, keys, time.Hour)
		}})
		if err != nil {
			t.Fatal(err)
		}
		registrytest.ReaderSuite(t, w, s)
	})
	t.Run("PresignedURLsExpire", func(t *testing.T) {
		if _, err := s.Create(t.Context(), "signed", registry.BodyOf([]byte("x"))); err != nil {
			t.Fatal(err)
		}
		u, _, err := s.Presign(t.Context(), "signed", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			url  string
			want int
		}{{u, 200}, {strings.Replace(u, "X-Amz-Expires=3600", "X-Amz-Expires=3601", 1), 403}, {p.Endpoint + "/fleet-models/signed", 403}} {
			resp, err := http.Get(c.url)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != c.want {
				t.Errorf("status %d, want %d", resp.StatusCode, c.want)
			}
		}
	})
	t.Run("ALargeObjectGoesOnWhereItWasCut", func(t *testing.T) {
		var wire partsWire
		flaky := open(t, p, func(o *s3.Options) { o.Client, o.Attempts = &http.Client{Transport: &wire}, 1 })
		content := make([]byte, 100<<20) // seven parts
		for i := range content {
			content[i] = byte(i >> 12)
		}
		body := registry.BodyOf(content)
		wire.left.Store(4)
		if made, err := flaky.Create(t.Context(), "cut", body); made || !fault.Is(err, fault.Transient) {
			t.Fatalf("cut: made %v, %v", made, err)
		}
		if _, _, err := s.Get(t.Context(), "cut", ""); !fault.Is(err, fault.NotFound) {
			t.Fatalf("cut: it is there: %v", err)
		}
		there := wire.sent.Load()
		wire.left.Store(100)
		if made, err := flaky.Create(t.Context(), "cut", body); !made || err != nil {
			t.Fatalf("again: made %v, %v", made, err)
		}
		// Parts whose answer was cut off may be there as well.
		if again := wire.sent.Load() - there; again < 1 || again > 6 {
			t.Errorf("%d parts were sent before the cut, %d of 7 again", there, again)
		}
		r, err := s.Range(t.Context(), "cut", 60<<20, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content[60<<20:61<<20]) {
			t.Errorf("other bytes, %v", err)
		}
		// What was begun with other content is not gone on with.
		wire.left.Store(2)
		if _, err := flaky.Create(t.Context(), "other", body); !fault.Is(err, fault.Transient) {
			t.Fatal(err)
		}
		for i := range content {
			content[i]++
		}
		other := registry.BodyOf(content)
		wire.left.Store(100)
		if made, err := flaky.Create(t.Context(), "other", other); !made || err != nil {
			t.Fatalf("other content: made %v, %v", made, err)
		}
		if made, err := s.Create(t.Context(), "other", other); made || err != nil {
			t.Errorf("it is not what was sent: made %v, %v", made, err)
		}
	})
	t.Run("NoSuchBucket", func(t *testing.T) {
		other := open(t, p, func(o *s3.Options) { o.Bucket = "not-there" })
		_, _, err := other.Get(t.Context(), "x", "")
		_, serr := other.Swap(t.Context(), "x", []byte("x"), "")
		for _, err := range []error{other.Check(t.Context()), err, serr} {
			if !fault.Is(err, fault.NotFound) || !strings.Contains(fault.Hint(err), `"not-there"`) {
				t.Errorf("error is %v, hint %q", err, fault.Hint(err))
			}
		}
	})
	t.Run("WrongSecretIsDenied", func(t *testing.T) {
		other := open(t, p, func(o *s3.Options) { o.SecretKey = "wrong" })
		if _, _, err := other.Get(t.Context(), "x", ""); !fault.Is(err, fault.Denied) {
			t.Errorf("error is %v", err)
		}
	})
}

func TestAnswersMapToKinds(t *testing.T) {
	t.Parallel()
	registrytest.AnswerSuite(t, func(t *testing.T, url string) registry.Reader {
		s, err := s3.Open(t.Context(), s3.Options{Bucket: "bucket", Endpoint: url, AccessKey: "a", SecretKey: "b", Attempts: 1})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

// An error tells what the server said, in a few words, not how it was asked.
func TestErrorsAreShort(t *testing.T) {
	t.Parallel()
	for status, kind := range map[int]fault.Kind{403: fault.Denied, 409: fault.Conflict, 412: fault.Conflict, 507: fault.Exhausted} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "<Error><Code>SomeCode</Code><Message>no</Message></Error>")
		}))
		defer srv.Close()
		s, err := s3.Open(t.Context(), s3.Options{Bucket: "bucket", Endpoint: srv.URL, AccessKey: "a", SecretKey: "b", Attempts: 1})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Range(t.Context(), "key", 0, 1)
		if !fault.Is(err, kind) || err.Error() != "read range key: SomeCode: no" {
			t.Errorf("%d: %v (%v)", status, err, fault.KindOf(err))
		}
	}
}

func TestAServerThatIsGoneIsTransient(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.NotFoundHandler())
	srv.Close()
	s, err := s3.Open(t.Context(), s3.Options{Bucket: "bucket", Endpoint: srv.URL, AccessKey: "a", SecretKey: "b", Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Get(t.Context(), "key", ""); !fault.Is(err, fault.Transient) {
		t.Errorf("error is %v (%v)", err, fault.KindOf(err))
	}
}
