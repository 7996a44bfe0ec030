package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/guard"
	"github.com/modelfleet/modelfleet/pkg/strict"
)

const (
	maxBody         = 1 << 20 // bytes of a request
	maxObservations = 10_000  // in one request
	heartbeat       = 15 * time.Second
)

// Options says how to serve applications.
type Options struct {
	Socket string        // path of the unix socket
	Mode   os.FileMode   // of the socket; default 0660
	TTL    time.Duration // of leases; default 1 minute
	Host   Host
	Logger *slog.Logger
}

// Server is the local API. Make one with [New].
type Server struct {
	o      Options
	leases leases

	mu       sync.Mutex
	watchers map[chan struct{}]bool // under mu; each holds at most one wake-up
}

// New returns a server that does not yet listen.
func New(o Options) *Server {
	if o.TTL <= 0 {
		o.TTL = time.Minute
	}
	if o.Mode == 0 {
		o.Mode = 0o660
	}
	return &Server{
		o:        o,
		leases:   leases{ttl: o.TTL, byID: map[string]*lease{}},
		watchers: map[chan struct{}]bool{},
	}
}

// InUse is the folders of the releases that applications hold. They must stay.
func (s *Server) InUse() []string { return s.leases.paths() }

// Changed wakes everyone who watches; the agent calls it when a model moved.
func (s *Server) Changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		select {
		case w <- struct{}{}:
		default: // one is waiting already
		}
	}
}

// Listen takes the socket. A socket left over by an agent that is gone is
// replaced; one that another process answers on is a Conflict.
func (s *Server) Listen() (net.Listener, error) {
	path := s.o.Socket
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fault.New(fault.Invalid, "listen on socket", path, err).
			WithHint("create %s for %s, or choose another -socket", filepath.Dir(path), whoami())
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fault.Newf(fault.Conflict, "listen on socket", path, "another process answers on it").
			WithHint("stop the other agent, or give this one its own -socket and -state")
	}
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode().Type() != os.ModeSocket {
			return nil, fault.Newf(fault.Conflict, "listen on socket", path, "there is a file that is no socket").
				WithHint("remove it or choose another -socket")
		}
		if err := os.Remove(path); err != nil {
			return nil, fault.New(fault.Denied, "listen on socket", path, err).
				WithHint("give its folder to %s, or choose another -socket", whoami())
		}
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fault.New(fault.Invalid, "listen on socket", path, err).
			WithHint("a socket's path may have at most 107 bytes; the folder must be writable")
	}
	if err := os.Chmod(path, s.o.Mode); err != nil {
		ln.Close()
		return nil, fault.New(fault.Denied, "listen on socket", path, err).
			WithHint("choose a -socket on a file system that keeps permissions, such as /run")
	}
	return ln, nil
}

// whoami names the user that the agent runs as, for hints.
func whoami() string { return fmt.Sprintf("user %d", os.Geteuid()) }

// Serve answers applications on ln until ctx ends, and closes it.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	serve, stop := context.WithCancel(ctx)
	defer stop()
	hs := &http.Server{
		Handler:           s.handler(func() bool { return serve.Err() != nil }),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return serve },
		ConnContext:       withPeer,
		ErrorLog:          slog.NewLogLogger(s.o.Logger.Handler(), slog.LevelDebug),
	}
	var wg sync.WaitGroup
	wg.Go(func() { s.expireLoop(serve) })
	wg.Go(func() {
		<-serve.Done()
		hs.Close()
	})
	err := hs.Serve(ln)
	stop()
	wg.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fault.New(fault.Internal, "serve applications", s.o.Socket, err)
}

func (s *Server) expireLoop(ctx context.Context) {
	t := time.NewTicker(max(s.o.TTL/4, 10*time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			for _, l := range s.leases.expire(now) {
				s.lost(l, fmt.Sprintf("%s was not heard of for %s", l.app, s.o.TTL), false)
			}
		}
	}
}

func (s *Server) lost(l lease, why string, fatal bool) {
	s.o.Host.Lost(Loss{Model: l.model, Root: l.root, App: l.app, Why: why, Fatal: fatal})
}

func (s *Server) handler(stopping func() bool) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(w http.ResponseWriter, r *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			if err := guard.Do(s.o.Logger, "answer application", r.URL.Path, func() error { return f(w, r) }); err != nil {
				api.WriteProblem(w, err)
			}
		})
	}
	handle("GET /v1/models", s.list)
	handle("GET /v1/models/{model}", s.describe)
	handle("POST /v1/models/{model}/load", s.load)
	handle("POST /v1/models/{model}/unload", s.unload)
	handle("POST /v1/models/{model}/observe", s.observe)
	handle("POST /v1/models/{model}/lift", s.lift)
	handle("GET /v1/watch", func(w http.ResponseWriter, r *http.Request) error { return s.watch(w, r, stopping) })
	return mux
}

func (s *Server) list(w http.ResponseWriter, _ *http.Request) error {
	return reply(w, s.o.Host.Listing())
}

func (s *Server) model(name string) (Model, error) {
	for _, m := range s.o.Host.Listing().Models {
		if string(m.Name) == name {
			return m, nil
		}
	}
	return Model{}, fault.Newf(fault.NotFound, "find model", name, "no directive has named it").
		WithHint("GET /v1/models lists the models of this device")
}

func (s *Server) describe(w http.ResponseWriter, r *http.Request) error {
	m, err := s.model(r.PathValue("model"))
	if err != nil {
		return err
	}
	return reply(w, m)
}

func (s *Server) load(w http.ResponseWriter, r *http.Request) error {
	var req LoadRequest
	if err := body(r, &req); err != nil {
		return err
	}
	if req.App == "" || len(req.App) > 128 {
		return fault.Newf(fault.Invalid, "load model", r.PathValue("model"), "app has %d bytes", len(req.App)).
			WithHint("name the application in app, 1 to 128 bytes")
	}
	m, err := s.model(r.PathValue("model"))
	if err != nil {
		return err
	}
	if m.Serving == nil {
		return fault.Newf(fault.NotFound, "load model", string(m.Name), "nothing to serve yet: %s", m.Phase).
			WithHint("watch GET /v1/watch?model=%s and load when it serves", m.Name)
	}
	l, reloaded, err := s.leases.take(req.App, m.Name, *m.Serving, time.Now())
	if err != nil {
		return err
	}
	if reloaded {
		s.lost(l, req.App+" loaded the same release again without unloading it", false)
	}
	return reply(w, Loaded{Release: *m.Serving, Model: m.Name, Lease: l.id, TTL: fleet.Duration(s.o.TTL)})
}

func (s *Server) unload(w http.ResponseWriter, r *http.Request) error {
	var req UnloadRequest
	if err := body(r, &req); err != nil {
		return err
	}
	l, ok := s.leases.give(req.Lease)
	if !ok {
		return noLease(req.Lease)
	}
	if req.Failed != "" {
		s.lost(l, fmt.Sprintf("%s could not load it: %.300s", l.app, req.Failed), true)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func noLease(id string) error {
	return fault.Newf(fault.NotFound, "find lease", id, "it was given back, lost or never given").
		WithHint("load the model again")
}

func (s *Server) observe(w http.ResponseWriter, r *http.Request) error {
	var req ObserveRequest
	if err := body(r, &req); err != nil {
		return err
	}
	switch {
	case len(req.Observations) > maxObservations:
		return fault.Newf(fault.Invalid, "take observations", r.PathValue("model"), "%d in one request, limit %d", len(req.Observations), maxObservations)
	case req.Root.IsZero():
		return fault.Newf(fault.Invalid, "take observations", r.PathValue("model"), "no root").
			WithHint("send the root that load gave")
	}
	m, err := s.model(r.PathValue("model"))
	if err != nil {
		return err
	}
	if req.Lease != "" && !s.leases.touch(req.Lease, time.Now()) {
		return noLease(req.Lease)
	}
	s.o.Host.Observe(m.Name, req.Root, req.Observations)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func body(r *http.Request, v any) error {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return fault.New(fault.Invalid, "read request", r.URL.Path, err)
	}
	if err := strict.Decode(data, v); err != nil {
		return fault.New(fault.Invalid, "read request", r.URL.Path, err)
	}
	return nil
}

func reply(w http.ResponseWriter, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fault.New(fault.Internal, "encode reply", "", err)
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(append(data, '\n'))
	if err != nil {
		return nil // the reader is gone; there is nobody to tell
	}
	return nil
}
