package share

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/guard"
)

// What neighbours may have open at once.
const (
	maxConns     = 256
	maxQuestions = 128
	maxPerGuest  = 8
	idleConn     = time.Minute
)

// Serve answers neighbours on ln, which it closes, until ctx ends, and returns
// when nothing of it runs any more. It is called once.
func (s *Site) Serve(ctx context.Context, ln net.Listener, fetch Fetch) error {
	mux := http.NewServeMux()
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		err := guard.Do(s.o.Logger, "answer neighbour", r.RemoteAddr, func() error { return s.answer(ctx, fetch, w, r) })
		if err != nil {
			s.o.Logger.Debug("neighbour not served", "from", r.RemoteAddr, "kind", fault.KindOf(err).String(), "err", err)
		}
	})
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	srv := &http.Server{
		Handler: mux, TLSConfig: s.serverTLS(), Protocols: protocols, ReadHeaderTimeout: s.o.Timing.Head, IdleTimeout: idleConn,
		MaxHeaderBytes: 4 << 10, ErrorLog: slog.NewLogLogger(s.o.Logger.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.ServeTLS(&limited{Listener: ln, left: maxConns}, "", "") }()
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	var err error
	for err == nil && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case err = <-ended:
		case now := <-tick.C:
			s.cache.trim(now)
		}
	}
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	closed := srv.Close()
	s.work.Wait()
	if ctx.Err() == nil {
		return fault.New(fault.Internal, "serve neighbours", ln.Addr().String(), err)
	}
	if closed != nil {
		s.o.Logger.Debug("neighbours' listener not closed in good order", "err", closed)
	}
	return nil
}

// answer answers one question. The error says why it was not given what it
// asked for.
func (s *Site) answer(life context.Context, fetch Fetch, w http.ResponseWriter, r *http.Request) (err error) {
	if r.ContentLength != 0 { // nothing of a body is waited for
		w.Header().Set("Connection", "close")
		return s.refuse(w, fault.Newf(fault.Invalid, "read question", "", "it has a body"), http.NewResponseController(w).SetReadDeadline(time.Now()))
	}
	guest, err := s.guest(r.TLS)
	if err != nil {
		s.count.refused.Add(1)
		return s.refuse(w, err)
	}
	leave, err := s.admit(guest)
	if err != nil {
		s.count.busy.Add(1)
		return s.refuse(w, err)
	}
	defer leave()
	q, err := questionOf(r)
	if err != nil {
		return s.refuse(w, err)
	}
	frame, err := s.look(q, w, r)
	if err != nil {
		s.count.refused.Add(1)
		return s.refuse(w, err)
	}
	body, err := s.find(life, fetch, frame, q.hop, w, r)
	if err != nil {
		return s.refuse(w, err)
	}
	defer func() { err = errors.Join(err, body.Close()) }() // also when sending panics: it may hold a token
	return s.send(w, r, body, frame.Length)
}

// patience has what is written next be taken within a while.
func (s *Site) patience(w http.ResponseWriter) error {
	return http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.o.Timing.Stall))
}

// maxKnown is how many releases' manifests are kept in memory.
const maxKnown = 4

// look finds what is asked for in what the trust pack backs now, or in a moment:
// a pack takes some time to reach all of a cell.
func (s *Site) look(q question, w http.ResponseWriter, r *http.Request) (wanted, error) {
	limit := time.NewTimer(s.o.Timing.News)
	defer limit.Stop()
	path, ok := "", false
	for waiting := true; ; {
		s.mu.Lock()
		news := s.news
		s.mu.Unlock()
		if path, ok = s.o.Backed(q.release); ok {
			break
		}
		if !waiting {
			return wanted{}, fault.Newf(fault.Denied, "look up release", q.release.Short(), "no trust pack backs it")
		}
		over, err := s.await(news, limit.C, w, r)
		if err != nil {
			return wanted{}, err
		}
		waiting = !over
	}
	s.mu.Lock()
	i := slices.IndexFunc(s.known, func(w delivery.Want) bool { return w.Key == q.release })
	if i >= 0 {
		want := s.known[i]
		s.mu.Unlock()
		return q.in(want)
	}
	s.mu.Unlock()
	want, err := s.o.Want(r.Context(), path, q.release)
	if err != nil {
		return wanted{}, err
	}
	s.mu.Lock()
	if s.known = append(s.known, want); len(s.known) > maxKnown {
		s.known = s.known[1:]
	}
	s.mu.Unlock()
	return q.in(want)
}

// refuse tells by the status; what else there is to say is for this member's log.
func (s *Site) refuse(w http.ResponseWriter, err error, more ...error) error {
	more = append(more, s.patience(w))
	status := fault.KindOf(err).Status()
	if fault.KindOf(err).Retry() || fault.Is(err, fault.Canceled) {
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	}
	http.Error(w, http.StatusText(status), status)
	return errors.Join(append(more, err)...)
}

// admit counts a question in, within the limits.
func (s *Site) admit(guest fleet.MemberID) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	total := 0
	for _, n := range s.guests {
		total += n
	}
	if s.closed || total >= maxQuestions || s.guests[guest] >= maxPerGuest {
		return nil, fault.Newf(fault.Transient, "answer neighbour", string(guest), "too many questions at once")
	}
	s.guests[guest]++
	s.work.Add(1)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.guests[guest]--; s.guests[guest] == 0 {
			delete(s.guests, guest)
		}
		s.work.Done()
	}, nil
}

// find gets hold of a frame: from here, from a better owner, or out of the
// bucket, showing signs of life meanwhile.
func (s *Site) find(life context.Context, fetch Fetch, f wanted, hop int, w http.ResponseWriter, r *http.Request) (io.ReadCloser, error) {
	if body, err := s.open(f); err == nil {
		return body, nil
	}
	line := s.line(f.FrameRef, owners)
	if hop == 0 && len(line) > 0 && line[0] != s.o.Self {
		passed := s.fly(life, flightKey{f.Digest, true}, func() ([]byte, error) { return s.pass(life, line[0], f.FrameRef) })
		if body, err := s.arrival(passed, f, w, r); err == nil {
			return body, nil
		}
		line = s.line(f.FrameRef, owners)
	}
	if f.whole || !slices.Contains(line, s.o.Self) {
		return nil, fault.Newf(fault.NotFound, "find frame", f.Digest.Short(), "it is not here, and not this member's to fetch")
	}
	pulled := s.fly(life, flightKey{f.Digest, false}, func() ([]byte, error) { return s.pull(life, fetch, f) })
	return s.arrival(pulled, f, w, r)
}

// open gives a frame that is here: in an installed file, in one that is being
// installed, or kept for neighbours.
func (s *Site) open(f wanted) (io.ReadCloser, error) {
	for _, path := range []string{s.o.Store.FilePath(f.File), delivery.PartPath(s.o.Store.StagingDir(f.Release), f.File)} {
		if body, err := openFrame(path, f.offset, f.Digest, f.Length); err == nil {
			return body, nil
		}
	}
	return s.cache.open(f.Digest, f.Length)
}

// await waits until something is done or a time is over, telling the asker now
// and then that it goes on.
func (s *Site) await(done <-chan struct{}, limit <-chan time.Time, w http.ResponseWriter, r *http.Request) (over bool, err error) {
	pulse := time.NewTicker(s.o.Timing.Pulse)
	defer pulse.Stop()
	for {
		select {
		case <-done:
			return false, nil
		case <-limit:
			return true, nil
		case <-r.Context().Done():
			return false, r.Context().Err()
		case <-pulse.C:
			if err := s.patience(w); err != nil {
				return false, err
			}
			w.WriteHeader(http.StatusProcessing)
		}
	}
}

// send sends a frame at the member's rate, to an asker that takes it.
func (s *Site) send(w http.ResponseWriter, r *http.Request, body io.Reader, length int) error {
	ctx, cancel := context.WithTimeout(r.Context(), s.o.Timing.Queue)
	done, err := take(ctx, s.sends)
	cancel()
	if err != nil {
		s.count.busy.Add(1)
		return s.refuse(w, fault.New(fault.Transient, "answer neighbour", r.RemoteAddr, err))
	}
	defer done()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(length))
	ctl, end := http.NewResponseController(w), time.Now().Add(s.o.Timing.Age)
	buf := make([]byte, step(s.o.Rate))
	for {
		n, err := body.Read(buf)
		if n > 0 {
			if err := s.upload.WaitN(r.Context(), n); err != nil {
				return err
			}
			by := time.Now().Add(s.o.Timing.Stall)
			if by.After(end) {
				by = end
			}
			if err := ctl.SetWriteDeadline(by); err != nil {
				return err
			}
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			if err := ctl.Flush(); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			s.count.served.Add(1)
			return nil
		}
		if err != nil {
			return err // what was promised does not come: the connection is cut
		}
	}
}
