package delivery

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// hedgeAfter is the share of the stall time after which a second request is
// sent for what a range has not delivered.
const hedgeAfter = 3

// stream reads one range of an object. It feeds the rates and the cap, and
// watches: a request that delivers nothing for a while gets a rival, and the
// first of the two to deliver is read on; one that delivers nothing for long is
// given up.
type stream struct {
	j      *job
	name   string
	gauge  *gauge
	ctx    context.Context
	cancel context.CancelCauseFunc
	watch  *time.Timer // gives up
	prod   *time.Timer // sends the rival
	rivals sync.WaitGroup

	mu     sync.Mutex // guards what follows
	at     int64      // next byte
	end    int64
	leg    *leg // read from
	rival  *leg // on its way; nil: none
	closed bool

	frame arrival // being read; guarded by the job's mu
}

// onto says which frame is read next, and how long it is in this object.
func (s *stream) onto(t *target, frame int, packed int64) {
	s.j.mu.Lock()
	defer s.j.mu.Unlock()
	s.frame = arrival{t: t, frame: frame, packed: packed}
}

func (j *job) open(ctx context.Context, o Offer, span Span) *stream {
	s := &stream{j: j, name: o.Name, gauge: &j.meter.packed, at: span.Offset, end: span.Offset + span.Length}
	if o.Kind == Raw {
		s.gauge = &j.meter.plain
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	s.watch = time.AfterFunc(j.o.Stall, func() { s.cancel(errStalled) })
	s.prod = time.AfterFunc(j.o.Stall/hedgeAfter, s.hedge)
	s.leg = s.request()
	return s
}

func (s *stream) close() {
	s.watch.Stop()
	s.prod.Stop()
	s.cancel(nil)
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.rivals.Wait()
	for _, l := range []*leg{s.leg, s.rival} {
		if l != nil {
			l.close()
		}
	}
}

// Read delivers the range's next bytes.
func (s *stream) Read(p []byte) (int, error) {
	p = p[:min(int64(len(p)), s.end-s.at)]
	if len(p) == 0 {
		return 0, io.EOF
	}
	if c := s.j.o.Rate; c > 0 {
		p = p[:min(len(p), int(c/8)+1)] // small steps, so that the cap holds over moments too
	}
	// The watch runs only while the source is waited for: not while this member
	// hashes, writes, or waits for its own cap.
	s.watch.Reset(s.j.o.Stall)
	s.prod.Reset(s.j.o.Stall / hedgeAfter)
	deliver := func() (int, error) { return s.deliver(p) }
	read := func() (int, error) { return s.j.meter.timed(s.gauge, deliver) }
	if s.fresh() {
		read = deliver // the request's way there and back says nothing of the link's rate
	}
	n, err := read()
	s.watch.Stop()
	s.prod.Stop()
	if n > 0 {
		s.j.wire.Add(int64(n))
		s.j.mu.Lock()
		s.j.arrives(&s.frame, n)
		s.j.mu.Unlock()
		if herr := s.j.meter.hold(s.ctx, n); herr != nil {
			return n, herr
		}
	}
	if err != nil && errors.Is(context.Cause(s.ctx), errStalled) {
		err = fault.New(fault.Transient, "read range", s.name, errStalled)
	}
	return n, err
}

// fresh reports whether nothing was read yet.
func (s *stream) fresh() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leg.body == nil
}

func (s *stream) deliver(p []byte) (int, error) {
	n, err := s.leg.read(p)
	s.mu.Lock()
	s.at += int64(n)
	r := s.rival
	switch {
	case r == nil:
	case r.ready: // it was quicker, and has cut the other short
		s.leg.close()
		r.skip = s.at - r.from
		s.leg, s.rival = r, nil
		if n == 0 {
			s.mu.Unlock()
			return s.leg.read(p)
		}
		err = nil
	case n > 0: // too late
		r.cancel()
		s.rival = nil
	}
	s.mu.Unlock()
	return n, err
}

// hedge sends a second request for the rest.
func (s *stream) hedge() {
	s.mu.Lock()
	if s.closed || s.rival != nil {
		s.mu.Unlock()
		return
	}
	r := s.request()
	s.rival = r
	s.rivals.Add(1)
	s.mu.Unlock()
	defer s.rivals.Done()
	s.j.o.Logger.Debug("range stalls, asked for again", "source", s.name)
	err := s.j.guarded(r.begin)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.rival != r: // nobody waits for it any more
		r.close()
	case err != nil:
		r.close()
		s.rival = nil
	default:
		r.ready = true
		s.leg.cancel()
	}
}

// leg is one request for the rest of a stream.
type leg struct {
	s      *stream
	ctx    context.Context
	cancel context.CancelFunc
	from   int64
	body   io.ReadCloser
	first  []byte // read by begin
	skip   int64  // bytes that the stream has meanwhile
	ready  bool   // begun
}

// request is for all that is missing; it is sent when it is first read from.
func (s *stream) request() *leg {
	l := &leg{s: s, from: s.at}
	l.ctx, l.cancel = context.WithCancel(s.ctx)
	return l
}

func (l *leg) close() {
	l.cancel()
	if l.body != nil {
		_ = l.body.Close() // it was only read
	}
}

// begin sends the request and waits for its first byte.
func (l *leg) begin() error {
	b := make([]byte, 1)
	if n, err := l.read(b); n == 0 {
		return err
	}
	l.first = b
	return nil
}

func (l *leg) read(p []byte) (int, error) {
	if l.body == nil {
		var err error
		if l.body, err = l.s.j.o.Source.Range(l.ctx, l.s.name, l.from, l.s.end-l.from); err != nil {
			return 0, err
		}
	}
	for l.skip > 0 {
		n, err := l.some(p[:min(int64(len(p)), l.skip)])
		if l.skip -= int64(n); err != nil {
			return 0, err
		}
	}
	return l.some(p)
}

func (l *leg) some(p []byte) (int, error) {
	if len(l.first) > 0 {
		n := copy(p, l.first)
		l.first = l.first[n:]
		return n, nil
	}
	return l.body.Read(p)
}
