package netlimit

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// serveBytes answers every connection with data, after reading to its end.
func serveBytes(t *testing.T, data []byte) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := io.Copy(io.Discard, c); err == nil {
					_, _ = c.Write(data)
				}
			}()
		}
	}()
	return ln.Addr().String()
}

func exchange(t *testing.T, addr string, up []byte) []byte {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(up); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestWhatGoesThroughIsTheSameAndCounted(t *testing.T) {
	data := bytes.Repeat([]byte("weights "), 50_000)
	link, err := New(serveBytes(t, data), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	if got := exchange(t, link.Addr(), []byte("please")); !bytes.Equal(got, data) {
		t.Fatalf("%d bytes came, other than the %d sent", len(got), len(data))
	}
	if link.Down() != int64(len(data)) || link.Up() != 6 {
		t.Errorf("counted %d down and %d up, want %d and 6", link.Down(), link.Up(), len(data))
	}
}

func TestALinkIsNoFasterThanItsRate(t *testing.T) {
	data := make([]byte, 400_000)
	link, err := New(serveBytes(t, data), Options{Down: 1_000_000})
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	start := time.Now()
	exchange(t, link.Addr(), nil)
	// All but the first burst has to wait its turn.
	if took, least := time.Since(start), 380*time.Millisecond; took < least {
		t.Errorf("400 kB at 1 MB/s took %v, want at least %v", took, least)
	}
}

func TestCloseCutsWhatIsUnderWay(t *testing.T) {
	link, err := New(serveBytes(t, make([]byte, 1<<20)), Options{Down: 1})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", link.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := link.Close(); err != nil {
		t.Fatal(err)
	}
	if n, _ := io.Copy(io.Discard, c); n >= 1<<20 {
		t.Errorf("%d bytes came through a link that was cut", n)
	}
}
