package share

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
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

// flight is one fetch that any number of neighbours wait for. As long as its
// frame is in memory it keeps its token: so that there are never more such frames
// than tokens.
type flight struct {
	begun atomic.Bool // it does not wait for its turn any more
	done  chan struct{}
	data  []byte // nil: the frame is on the disk
	err   error
	users int    // of data, the fetch itself among them; guarded by Site.mu
	land  func() // gives the token back; nil without one
}

// flightKey keeps what is fetched from what is asked of a better owner apart:
// two members that take each other for the better owner must not wait for each
// other.
type flightKey struct {
	frame  fleet.Digest
	passed bool
}

// fly begins a flight when it is its turn, or joins the one of its key. It ends by
// itself, whoever goes away. Who called it must leave it.
func (s *Site) fly(life context.Context, k flightKey, fetch func() ([]byte, error)) *flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.flights[k]
	if f == nil {
		f = &flight{done: make(chan struct{}), users: 1}
		s.flights[k] = f
		s.work.Go(func() { // a question is under way: work is not waited for yet
			f.err = guard.Do(s.o.Logger, "fetch for neighbour", k.frame.Short(), func() (err error) {
				if f.land, err = s.turn(life, k); err != nil {
					return err
				}
				f.begun.Store(true)
				f.data, err = fetch()
				return err
			})
			s.mu.Lock()
			delete(s.flights, k)
			s.mu.Unlock()
			if f.data == nil { // nothing is in memory, whoever still waits
				s.freed(f)
			}
			close(f.done)
			s.leave(f)
		})
	}
	f.users++
	return f
}

// turn waits for a flight's token. Who cannot be asked is soon done without; the
// bucket is waited for as long as an asker would.
func (s *Site) turn(life context.Context, k flightKey) (land func(), err error) {
	tokens, limit := s.pulls, s.o.Timing.Wait
	if k.passed {
		tokens, limit = s.passes, s.o.Timing.Stall
	}
	ctx, cancel := context.WithTimeout(life, limit)
	defer cancel()
	if land, err = take(ctx, tokens); err != nil {
		return nil, fault.New(fault.Transient, "fetch for neighbour", k.frame.Short(), err)
	}
	return land, nil
}

// leave has a flight's frame go from memory when nobody uses it any more.
func (s *Site) leave(f *flight) {
	s.mu.Lock()
	f.users--
	last := f.users == 0
	s.mu.Unlock()
	if last {
		s.freed(f)
	}
}

// freed gives a flight's token back, once.
func (*Site) freed(f *flight) {
	if f.land != nil {
		f.land()
	}
	f.data, f.land = nil, nil
}

// arrival waits for a flight and gives its frame, to be closed when it is sent.
func (s *Site) arrival(f *flight, want wanted, w http.ResponseWriter, r *http.Request) (io.ReadCloser, error) {
	_, err := s.await(f.done, nil, w, r)
	if err == nil {
		err = f.err
	}
	if err == nil && f.data != nil {
		return &section{bytes.NewReader(f.data), closer(func() { s.leave(f) })}, nil
	}
	s.leave(f)
	if err != nil {
		return nil, err
	}
	body, err := s.open(want)
	if err != nil { // collected between
		return nil, fault.New(fault.Transient, "find frame", want.Digest.Short(), err)
	}
	return body, nil
}

// closer is called once, when what it belongs to is closed.
type closer func()

// Close calls it.
func (c closer) Close() error {
	c()
	return nil
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

// pull fetches a frame for neighbours. It stays in memory only when the disk has
// no room for it.
func (s *Site) pull(ctx context.Context, fetch Fetch, f wanted) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.Timing.Wait)
	defer cancel()
	data := make([]byte, f.Length)
	if err := fetch(ctx, f.release, f.FrameRef, data); err != nil {
		return nil, err
	}
	s.count.pulled.Add(1)
	if body, err := s.open(f); err == nil { // it became part of an install
		return nil, body.Close()
	}
	if err := s.cache.put(f.Digest, data); err != nil {
		s.o.Logger.Debug("frame not kept", "err", err)
		return data, nil
	}
	return nil, nil
}

// pass asks the better owner.
func (s *Site) pass(ctx context.Context, owner fleet.MemberID, ref delivery.FrameRef) ([]byte, error) {
	data := make([]byte, ref.Length)
	if err := s.ask(ctx, owner, ref, 1, data); err != nil {
		return nil, err
	}
	if fleet.DigestOf(data) != ref.Digest {
		s.Lied(string(owner), ref)
		return nil, fault.New(fault.Untrusted, "pass on", ref.Digest.Short(), errWrong)
	}
	s.count.forwarded.Add(1)
	return data, nil
}

// take waits for one of the tokens.
func take(ctx context.Context, tokens chan struct{}) (giveBack func(), err error) {
	select {
	case tokens <- struct{}{}:
		return func() { <-tokens }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
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

// limited is a listener of which at most left connections are open.
type limited struct {
	net.Listener
	mu   sync.Mutex
	left int
}

// Accept closes what is too much.
func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		ok := l.left > 0
		if ok {
			l.left--
		}
		l.mu.Unlock()
		if ok {
			return &counted{Conn: c, l: l}, nil
		}
		_ = c.Close() // it was not begun
	}
}

// counted gives its place back when it is closed.
type counted struct {
	net.Conn
	l    *limited
	once sync.Once
}

// Close closes the connection.
func (c *counted) Close() error {
	c.once.Do(func() {
		c.l.mu.Lock()
		c.l.left++
		c.l.mu.Unlock()
	})
	return c.Conn.Close()
}
