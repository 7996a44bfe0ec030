package crash

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/modelfleet/modelfleet/infra/bench/netlimit"
)

// Server gives out a world's bucket over HTTP, by a link of a known rate that counts
// what goes over it.
type Server struct {
	URL string

	srv  *http.Server
	link *netlimit.Link
	done chan error
}

// Serve starts a server behind a link of rate bytes a second; 0: as fast as it can.
func (w *World) Serve(rate int64) (*Server, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{done: make(chan error, 1)}
	s.srv = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.FileServer(http.Dir(w.Bucket))}
	go func() { s.done <- s.srv.Serve(ln) }()
	if s.link, err = netlimit.New(ln.Addr().String(), netlimit.Options{Down: rate}); err != nil {
		return nil, errors.Join(err, s.srv.Close())
	}
	s.URL = "http://" + s.link.Addr()
	return s, nil
}

// Bytes is how many bytes it gave out so far.
func (s *Server) Bytes() int64 { return s.link.Down() }

// Close ends it.
func (s *Server) Close() error {
	err := errors.Join(s.link.Close(), s.srv.Close())
	<-s.done // says that it was closed
	return err
}

// Again is what a kill at some moment cost.
type Again struct {
	Needed  int64 // bytes that the update fetches when nothing disturbs it
	Before  int64 // given out when it was killed, with what lay in the sockets
	Fetched int64 // given out to both runs
	// Verified is how many bytes of the release the agent said it had, fetched and
	// verified, just before it was killed.
	Verified int64
}

// Lost is how many of the bytes that were verified when it was killed came once
// more, at most: what the next start fetched that is not of the rest.
func (a Again) Lost() int64 { return max(0, a.Fetched-a.Before-(a.Needed-a.Verified)) }

// Share is the part of the update's bytes that was fetched a second time.
func (a Again) Share() float64 { return max(0, float64(a.Fetched-a.Needed)/float64(a.Needed)) }

// Moment waits for the moment of an update at which the agent c is to be killed,
// and says how many bytes of the release it had verified.
type Moment func(ctx context.Context, c *Member) (verified int64)

// After is so long after the start.
func After(d time.Duration) Moment {
	return func(ctx context.Context, c *Member) int64 {
		select {
		case <-time.After(d):
		case <-c.Ended():
		}
		return c.fetched(ctx)
	}
}

// Having is when the agent says that it fetched and verified so many bytes.
func Having(bytes int64) Moment {
	return func(ctx context.Context, c *Member) int64 {
		for {
			if n := c.fetched(ctx); n >= bytes {
				return n
			}
			select {
			case <-time.After(time.Millisecond):
			case <-c.Ended():
				return 0
			case <-ctx.Done():
				return 0
			}
		}
	}
}

// KillOnce lets a copy of the member update from a server, kills it at a moment,
// looks at the disk, and lets the next start finish.
func (m *Member) KillOnce(ctx context.Context, s *Server, state string, a Again, at Moment) (Again, error) {
	c, err := m.Link(state)
	if err != nil {
		return a, err
	}
	c.Source = s.URL
	old, now := m.World.Releases[1], m.World.Releases[2]
	before := s.Bytes()
	if err := c.Start(ctx, 2); err != nil {
		return a, err
	}
	a.Verified = at(ctx, c)
	if err := c.Kill(); err != nil {
		return a, err
	}
	a.Before = s.Bytes() - before
	if err := m.World.Check(c.State, old, now); err != nil {
		return a, err
	}
	if err := c.Start(ctx, 2); err != nil {
		return a, err
	}
	if err := c.Until(ctx, Healthy(now)); err != nil {
		return a, err
	}
	a.Fetched = s.Bytes() - before
	if err := c.Stop(); err != nil {
		return a, err
	}
	return a, m.World.Check(c.State, now)
}

// Undisturbed is how much an update of the member fetches, and how long it takes,
// when nothing disturbs it.
func (m *Member) Undisturbed(ctx context.Context, s *Server, state string) (a Again, takes time.Duration, err error) {
	c, err := m.Link(state)
	if err != nil {
		return a, 0, err
	}
	c.Source = s.URL
	before, began := s.Bytes(), time.Now()
	if err := c.Start(ctx, 2); err != nil {
		return a, 0, err
	}
	if err := c.Until(ctx, Healthy(m.World.Releases[2])); err != nil {
		return a, 0, err
	}
	a.Needed, takes = s.Bytes()-before, time.Since(began)
	return a, takes, c.Stop()
}
