package share

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"time"

	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

var errStalled = errors.New("neither a byte nor a sign of life came for too long")

// newClient makes what asks. It follows nobody elsewhere and takes no proxy: a
// neighbour must not make this member call others.
func (s *Site) newClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: s.o.Timing.Dial}).DialContext,
			TLSClientConfig:     s.clientTLS(),
			TLSHandshakeTimeout: s.o.Timing.Dial, IdleConnTimeout: idleConn / 2, MaxIdleConnsPerHost: 4,
			MaxResponseHeaderBytes: 4 << 10, DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Close lets go of idle connections.
func (s *Site) Close() { s.client.CloseIdleConnections() }

// ask fills dst with what a neighbour gives for a frame. One that cannot be
// reached, or stops to answer, is left alone for a while.
func (s *Site) ask(ctx context.Context, owner fleet.MemberID, r delivery.FrameRef, hop int, dst []byte) error {
	const op = "ask neighbour"
	s.mu.Lock()
	addr := s.view.addrs[owner]
	s.mu.Unlock()
	if addr == "" {
		return fault.Newf(fault.NotFound, op, string(owner), "it left")
	}
	outer := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(2*s.o.Timing.Dial+s.o.Timing.Stall, func() { cancel(errStalled) })
	defer watch.Stop()
	patience := time.AfterFunc(s.o.Timing.Wait, func() { cancel(errStalled) })
	defer patience.Stop()
	alive := func() { watch.Reset(s.o.Timing.Stall) }
	body, err := s.request(ctx, owner, addr, question{r.Release, r.File, r.Frame, r.Length, hop}, alive)
	if err == nil {
		patience.Reset(s.o.Timing.Age)
		_, err = io.ReadFull(&lively{body, alive}, dst)
		err = errors.Join(err, body.Close())
	}
	var said *answerError
	switch {
	case err == nil:
		s.answered(owner)
		s.count.taken.Add(1)
		return nil
	case errors.As(err, &said): // it lives, and has its reasons
		s.answered(owner)
		if said.status == http.StatusForbidden {
			s.unknown(owner, r.Release)
		}
		return fault.New(fault.NotFound, op, string(owner), err)
	case outer.Err() != nil:
		return outer.Err()
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	s.failed(owner)
	s.o.Logger.Debug("neighbour did not answer", "device", string(owner), "err", err)
	return fault.New(fault.Transient, op, string(owner), err)
}

// answerError is an answer that is not a frame.
type answerError struct{ status int }

func (e *answerError) Error() string { return "it answered " + strconv.Itoa(e.status) }

// request asks and returns the frame to be read, if the one who answers is the
// one who was asked.
func (s *Site) request(ctx context.Context, owner fleet.MemberID, addr string, q question, alive func()) (io.ReadCloser, error) {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(int, textproto.MIMEHeader) error { alive(); return nil },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+q.path(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set(hopHeader, strconv.Itoa(q.hop))
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	alive()
	who, err := s.peer(resp.TLS)
	switch {
	case err != nil:
	case who.Member != owner:
		err = fault.Newf(fault.Untrusted, "ask neighbour", string(owner), "%s answers at its address", who.Member)
	case resp.StatusCode != http.StatusOK:
		_, _ = io.CopyN(io.Discard, resp.Body, 1<<10) // so that the connection can be used again
		err = &answerError{resp.StatusCode}
	case resp.ContentLength != int64(q.length):
		err = fault.Newf(fault.Untrusted, "ask neighbour", string(owner), "it gives %d bytes for a frame of %d", resp.ContentLength, q.length)
	default:
		return resp.Body, nil
	}
	return nil, errors.Join(err, resp.Body.Close())
}

// lively tells of each byte that comes.
type lively struct {
	r     io.Reader
	alive func()
}

func (l *lively) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if n > 0 {
		l.alive()
	}
	return n, err
}
