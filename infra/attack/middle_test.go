package attack_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// What the machine in the middle does with a connection.
type manner int

const (
	passes    manner = iota // hands the bytes on
	cuts                    // lets nothing through
	poses                   // speaks TLS with a certificate of its own, and hands on what it hears
	undresses               // answers without TLS
)

// middle is a machine between somebody and the coordinator.
type middle struct {
	addr, to string
	cert     tls.Certificate

	mu    sync.Mutex // guards the rest
	how   manner
	conns map[net.Conn]bool
	heard strings.Builder // of what was not meant for it
}

func newMiddle(t *testing.T, to string) *middle {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	sure(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	sure(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	sure(t, err)
	m := &middle{addr: ln.Addr().String(), to: to, cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, conns: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { m.serve(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		m.turn(cuts)
		wg.Wait()
	})
	return m
}

// turn changes what it does, for connections that are open too.
func (m *middle) turn(how manner) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.how = how
	for c := range m.conns {
		c.Close()
	}
}

func (m *middle) serve(c net.Conn) {
	defer c.Close()
	m.mu.Lock()
	how := m.how
	m.conns[c] = true
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.conns, c)
		m.mu.Unlock()
	}()
	switch how {
	case passes:
		up, err := net.Dial("tcp", m.to)
		if err != nil {
			return
		}
		defer up.Close()
		var wg sync.WaitGroup
		wg.Go(func() {
			io.Copy(up, c)
			up.Close()
		})
		io.Copy(c, up)
		c.Close()
		wg.Wait()
	case poses:
		m.speak(tls.Server(c, &tls.Config{Certificates: []tls.Certificate{m.cert}, ClientAuth: tls.RequestClientCert}))
	case undresses:
		m.speak(c)
	}
}

// speak serves HTTP on one connection and hands on what it hears.
func (m *middle) speak(c net.Conn) {
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: m.to})
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	srv := &http.Server{ErrorLog: nil, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		m.heard.WriteString(r.Method + " " + r.URL.String() + " " + r.Header.Get("Authorization") + "\n")
		m.mu.Unlock()
		proxy.ServeHTTP(w, r)
	})}
	_ = srv.Serve(&single{Conn: c}) // ends with the connection
}

// single is a listener of one connection.
type single struct {
	net.Conn
	once sync.Once
	gone chan struct{}
}

// Accept gives the connection, once.
func (s *single) Accept() (net.Conn, error) {
	var c net.Conn
	s.once.Do(func() { s.gone = make(chan struct{}); c = &closing{s.Conn, s.gone} })
	if c != nil {
		return c, nil
	}
	<-s.gone
	return nil, net.ErrClosed
}

// Addr is the connection's.
func (s *single) Addr() net.Addr { return s.Conn.LocalAddr() }

// closing tells when the connection is closed.
type closing struct {
	net.Conn
	gone chan struct{}
}

// Close closes it.
func (c *closing) Close() error {
	err := c.Conn.Close()
	select {
	case <-c.gone:
	default:
		close(c.gone)
	}
	return err
}

func (m *middle) overheard() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.heard.String()
}

// readdress makes a token lead to another address, as the one who stands there has
// the network do it.
func readdress(t *testing.T, token, url string) string {
	t.Helper()
	tok, err := trust.ParseJoinToken(token)
	sure(t, err)
	tok.URL = url
	text, err := tok.Encode()
	sure(t, err)
	return text
}

// Somebody stands between the coordinator and everybody who speaks to it, and has
// a certificate for its address; or strips TLS off.
func TestManInTheMiddle(t *testing.T) {
	t.Parallel()
	f := newField(t, fieldOptions{})
	m := newMiddle(t, f.listen)
	d := f.enrols("cam-1", readdress(t, f.token(), "https://"+m.addr))
	d.up()
	f.runs("detector@1.0.0", "one", d)
	m.turn(poses)
	d.logs("coordinator cannot be asked for packs", "kind=untrusted", "pin")
	f.publish("vision", "detector@2.0.0", "two")
	id := f.start("detector@2.0.0")
	d.stillServes("detector@1.0.0", "one")

	thin := readdress(t, f.token(), "https://"+m.addr)
	joining := f.enrols("cam-2", thin)
	if code := joining.ExitCode(); code != fault.Untrusted.Exit() || !joining.Logged("pin") {
		t.Errorf("joining through the middle: exit code %d: %s", code, joining.Said())
	}
	c, err := api.LoadContext(filepath.Join(f.dir, "data", "admin.context.json"))
	sure(t, err)
	c.URL = "https://" + m.addr
	led, err := c.Encode()
	sure(t, err)
	astray := filepath.Join(f.dir, "astray.json") // as if the network led the address there
	sure(t, os.WriteFile(astray, led, 0o600))
	f.fails(fault.Untrusted, []string{"pin"}, "--context", astray, "members", "list")
	m.turn(undresses)
	f.fails(fault.Transient, nil, "--context", astray, "members", "list")
	f.fails(fault.Invalid, []string{"https"}, "--url", "http://fleet.example:8443", "members", "list")
	if heard := m.overheard(); strings.Contains(heard, c.Token) || strings.Contains(heard, "/v1/") {
		t.Errorf("the middle heard: %s", heard)
	}
	d.stillServes("detector@1.0.0", "one")

	m.turn(passes)
	f.settled(id)
	d.settles("detector@2.0.0")
	f.sees("cam-1", "fresh", func(m api.MemberInfo) bool { return m.Freshness == "fresh" })
	again := f.enrols("cam-2", thin)
	again.up()
}

// The network is cut: nothing is known of the coordinator, and nothing changes.
// Once it is there again the device has missed nothing.
func TestNetworkCut(t *testing.T) {
	t.Parallel()
	f := newField(t, fieldOptions{})
	m := newMiddle(t, f.listen)
	d := f.enrols("cam-1", readdress(t, f.token(), "https://"+m.addr))
	d.up()
	f.runs("detector@1.0.0", "one", d)
	m.turn(cuts)
	ends(t, d.Program, syscall.SIGKILL)
	f.restart(d.Program)
	d.serves("detector@1.0.0")
	f.publish("vision", "detector@2.0.0", "two")
	id := f.start("detector@2.0.0")
	d.logs("coordinator cannot be asked for packs", "kind=transient")
	d.stillServes("detector@1.0.0", "one")
	m.turn(passes)
	f.settled(id)
	d.until("it is there again", func(l local.Listing) bool { return serving(l, model) == "detector@2.0.0" })
}
