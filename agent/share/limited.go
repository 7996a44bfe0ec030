package share

import (
	"net"
	"sync"
)

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
