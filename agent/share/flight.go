package share

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync/atomic"

	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/guard"
)

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
