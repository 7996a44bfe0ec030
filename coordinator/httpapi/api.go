// Package httpapi is the coordinator's front door: the members' API, where who
// asks is said by a certificate of the fleet's own CA, and the operators' API,
// where it is said by a bearer token. docs/formats/http.md lists every call;
// pkg/api has the types and the client.
//
// Handlers are thin: they find out who asks, read the question strictly and
// within bounds, and hand it to the inventory, the intake or the desk. Errors go
// out as problem+json by their kind; those of our own making are logged here,
// where they stop travelling.
package httpapi

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/ca"
	"github.com/modelfleet/modelfleet/coordinator/desk"
	"github.com/modelfleet/modelfleet/coordinator/intake"
	"github.com/modelfleet/modelfleet/coordinator/inventory"
	"github.com/modelfleet/modelfleet/coordinator/oidc"
	"github.com/modelfleet/modelfleet/coordinator/publish"
	"github.com/modelfleet/modelfleet/coordinator/throttle"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/strict"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// Presigner makes URLs that read objects without credentials, and says how long
// they really are good, at most ttl; registry/s3 is one.
type Presigner interface {
	Sign(ctx context.Context, keys []string, ttl time.Duration) (urls []string, expires time.Time, err error)
}

// Options are what the API serves.
type Options struct {
	Desk      *desk.Desk
	Inventory *inventory.Inventory
	Intake    *intake.Intake
	Publisher *publish.Publisher
	Audit     Audit
	CA        *ca.CA
	Pins      []string      // of the listener's TLS key and of the next, in hex
	Presigner Presigner     // nil: devices have to be given a source of their own
	PackURLs  time.Duration // how long the URL of a pack is good, at most; default [registry.MaxURLLife]
	Dashboard http.Handler
	Logger    *slog.Logger
	Now       func() time.Time // default time.Now
	// Ready says why the coordinator cannot do its work; nil when it can.
	Ready func() error
	// Stopping ends long polls and event streams, so that the server can stop.
	Stopping <-chan struct{}
	// MetricsOpen serves /metrics to whoever asks; else it takes a viewer's token.
	MetricsOpen bool
	// Issuer signs people in; nil: by token only.
	Issuer *oidc.Issuer
	// Throttle slows down who guesses; one of its own by default.
	Throttle *throttle.Throttle
}

const (
	maxJSON  = 1 << 20
	maxBatch = telemetry.MaxBatch
	maxWait  = 50 * time.Second
	urlTTL   = time.Hour
	maxKeys  = 256
)

// server is the handlers' common state.
type server struct {
	Options
	codec     *telemetry.Codec
	clockwork clockwork
	metrics   *metrics
	rules     map[string]Rule
	lawless   []string // patterns without a rule
	key       [32]byte // of device sign-ins under way
	streams   *room    // of events, by person
	waits     *room    // of long polls by who shows no certificate, by address
}

// New returns the handler of everything the coordinator serves.
func New(o Options) (http.Handler, error) {
	codec, err := telemetry.NewCodec()
	if err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Ready == nil {
		o.Ready = func() error { return nil }
	}
	if o.Throttle == nil {
		o.Throttle = throttle.New(throttle.Options{Now: o.Now})
	}
	s := &server{
		Options: o, codec: codec, clockwork: newClockwork(), rules: Rules(),
		streams: newRoom(maxStreams, 0), waits: newRoom(maxWaitsOne, maxWaits),
	}
	rand.Read(s.key[:]) // never fails
	s.metrics = newMetrics(o)
	mux := http.NewServeMux()
	s.memberRoutes(mux)
	s.operatorRoutes(mux)
	s.auditRoutes(mux)
	s.loginRoutes(mux)
	s.handle(mux, "GET /metrics", func(w http.ResponseWriter, r *http.Request) error {
		if _, err := s.operator(r); err != nil && !s.MetricsOpen {
			return err
		}
		s.metrics.handler.ServeHTTP(w, r)
		return nil
	})
	s.handle(mux, "GET /healthz", func(w http.ResponseWriter, _ *http.Request) error {
		_, err := io.WriteString(w, "ok\n")
		return err
	})
	s.handle(mux, "GET /readyz", func(w http.ResponseWriter, r *http.Request) error {
		if err := s.Ready(); err != nil {
			return err
		}
		_, err := io.WriteString(w, "ready\n")
		return err
	})
	s.handle(mux, "/v1/", func(_ http.ResponseWriter, r *http.Request) error {
		return fault.Newf(fault.NotFound, "serve", r.URL.Path, "there is no such call").WithHint("see docs/formats/http.md")
	})
	if o.Dashboard != nil {
		mux.Handle("/", o.Dashboard)
	}
	if len(s.lawless) > 0 {
		return nil, fault.Newf(fault.Internal, "make API", strings.Join(s.lawless, ", "), "no rule says who may call it").
			WithHint("add it to Rules")
	}
	return mux, nil
}

// handle serves a pattern, turns errors into problems and counts.
func (s *server) handle(mux *http.ServeMux, pattern string, fn func(http.ResponseWriter, *http.Request) error) {
	if _, ok := s.rules[pattern]; !ok {
		s.lawless = append(s.lawless, pattern)
	}
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		rec := &recorder{ResponseWriter: w, status: http.StatusOK}
		if s.rules[pattern].Who == People {
			s.notice(rec.Header())
		}
		if err := fn(rec, r); err != nil {
			if fault.Is(err, fault.Denied) {
				rec.Header().Del(api.NoticeHeader) // it is for operators
			}
			s.fail(rec, r, pattern, err)
		}
		s.metrics.observe(pattern, rec.status, time.Since(begun))
	})
}

// fail answers with a problem, unless the answer has begun or nobody waits.
func (s *server) fail(w *recorder, r *http.Request, pattern string, err error) {
	if fault.KindOf(err) == fault.Internal && r.Context().Err() == nil {
		s.Logger.Error("request failed", "call", pattern, "err", err)
	}
	if !w.wrote {
		api.WriteProblem(w, err)
	}
}

// recorder remembers the status, for the metrics.
type recorder struct {
	http.ResponseWriter
	status int
	wrote  bool
}

func (w *recorder) WriteHeader(status int) {
	w.status, w.wrote = status, true
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	w.wrote = true
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController through.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// read decodes a request's JSON strictly; an empty body is the zero value.
func read[T any](w http.ResponseWriter, r *http.Request) (T, error) {
	var v T
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxJSON))
	if err != nil {
		return v, bodyError(err)
	}
	if len(body) == 0 {
		return v, nil
	}
	if err := strict.Decode(body, &v); err != nil {
		return v, fault.New(fault.Invalid, "read request", r.URL.Path, err)
	}
	return v, nil
}

func bodyError(err error) error {
	if big, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return fault.Newf(fault.Invalid, "read request", "", "the body is larger than %d bytes", big.Limit)
	}
	return fault.New(fault.Transient, "read request", "", err)
}

// answer sends v as JSON.
func answer(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fault.New(fault.Internal, "write answer", "", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, err = w.Write(append(b, '\n'))
	if err != nil {
		return fault.New(fault.Transient, "write answer", "", err)
	}
	return nil
}

// bearer is the token of the Authorization header, or "".
func bearer(r *http.Request) string {
	t, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return ""
	}
	return strings.TrimSpace(t)
}
