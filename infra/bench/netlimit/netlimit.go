// Package netlimit is a TCP proxy that is as slow as a link: it forwards
// connections to one server, lets so many bytes a second through in each
// direction, over all connections together, and counts them. Benchmarks put it
// before a server to measure a member behind a thin line, or a site whose
// members share one.
//
//	link, err := netlimit.New(server, netlimit.Options{Down: 100 * netlimit.Mbit})
//	... "http://" + link.Addr() ...
//	link.Close()
//
// Bytes are those of the TCP streams, so TLS and HTTP count and Ethernet does
// not. They are counted as they are let through, also when the other end then
// goes away.
package netlimit

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Mbit is a megabit a second, in bytes a second.
const Mbit = 1_000_000 / 8

// piece is how much is moved at a time: small, so that connections share fairly.
const piece = 16 << 10

// Options are how slow a link is. The zero value is as fast as the machine.
type Options struct {
	Down int64 // bytes a second from the server to its clients; 0: no limit
	Up   int64 // bytes a second from the clients to the server; 0: no limit
}

// Link is a proxy at work. It is safe for concurrent use.
type Link struct {
	target   string
	listener net.Listener
	down, up direction
	stop     context.CancelFunc // ends the waits of its pumps
	wait     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
}

// direction is one way through a link.
type direction struct {
	limit *rate.Limiter // nil: none
	bytes atomic.Int64
}

// New listens on a free port of the loopback and forwards to target, host:port.
func New(target string, o Options) (*Link, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fault.New(fault.Internal, "listen for the limited link to", target, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	l := &Link{target: target, listener: ln, stop: stop, conns: map[net.Conn]struct{}{}}
	l.down.limit, l.up.limit = limiter(o.Down), limiter(o.Up)
	l.wait.Go(func() { l.accept(ctx) })
	return l, nil
}

// limiter lets through what a real link's queue would: about 5 ms at once.
func limiter(bytesPerSecond int64) *rate.Limiter {
	if bytesPerSecond <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(bytesPerSecond), max(piece, int(bytesPerSecond/200)))
}

// Addr is where to connect instead of to the target.
func (l *Link) Addr() string { return l.listener.Addr().String() }

// Down is how many bytes went from the server to clients.
func (l *Link) Down() int64 { return l.down.bytes.Load() }

// Up is how many bytes went from clients to the server.
func (l *Link) Up() int64 { return l.up.bytes.Load() }

// Close cuts every connection, and returns when nothing of the link runs any more.
func (l *Link) Close() error {
	l.stop()
	err := l.listener.Close()
	l.mu.Lock()
	l.closed = true
	for c := range l.conns {
		err = errors.Join(err, ignoreClosed(c.Close()))
	}
	l.mu.Unlock()
	l.wait.Wait()
	return err
}

func (l *Link) accept(ctx context.Context) {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			return // closed
		}
		if l.keep(client) {
			l.wait.Go(func() { l.serve(ctx, client) })
		}
	}
}

// serve carries one connection until either end is done with it.
func (l *Link) serve(ctx context.Context, client net.Conn) {
	defer l.drop(client)
	var dialer net.Dialer
	server, err := dialer.DialContext(ctx, "tcp", l.target)
	if err != nil || !l.keep(server) {
		return // the client sees its connection end, as through a link to a server that is away
	}
	defer l.drop(server)
	var pumps sync.WaitGroup
	pumps.Go(func() { l.pump(ctx, server, client, &l.up) })
	pumps.Go(func() { l.pump(ctx, client, server, &l.down) })
	pumps.Wait()
}

// pump moves bytes one way, no faster than the link. An end passes on as the
// end of that way only; trouble ends the connection.
func (l *Link) pump(ctx context.Context, to, from net.Conn, d *direction) {
	buf := make([]byte, piece)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if d.limit != nil && d.limit.WaitN(ctx, n) != nil {
				break
			}
			d.bytes.Add(int64(n))
			if _, werr := to.Write(buf[:n]); werr != nil {
				break
			}
		}
		if errors.Is(err, io.EOF) {
			if tcp, ok := to.(*net.TCPConn); ok && tcp.CloseWrite() == nil {
				return
			}
		}
		if err != nil {
			break
		}
	}
	l.drop(to)
	l.drop(from)
}

// keep remembers a connection for Close; one that comes too late is closed.
func (l *Link) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = c.Close() // nobody is left to hear of it
		return false
	}
	l.conns[c] = struct{}{}
	return true
}

func (l *Link) drop(c net.Conn) {
	l.mu.Lock()
	delete(l.conns, c)
	l.mu.Unlock()
	_ = c.Close() // it may be closed already; there is nothing to do about it otherwise
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
