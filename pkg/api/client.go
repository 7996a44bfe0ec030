package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Options is how a [Client] reaches its coordinator.
type Options struct {
	// URL is the coordinator's, for example "https://fleet.example:8443". Plain
	// http is for this machine only, and not with a pin.
	URL string

	// Pin is the SHA-256 of the server's public key (SubjectPublicKeyInfo, DER)
	// in hex. Set, it is the only thing the server is judged by; empty, the
	// system's certificate authorities are.
	Pin string

	// Pins are further ones that will do: of a key that is about to replace it.
	Pins []string

	// Token is an operator's bearer token, or a function's. Empty: none is sent.
	Token string

	// Certificate gives a member's certificate at each handshake, so that a
	// renewed one is used as soon as it is there. Nil: none is shown.
	Certificate func() (*tls.Certificate, error)

	// Attempts is how often an idempotent call is tried in all; 0 means 4.
	Attempts int

	// Transport replaces the client's own, with its pin and certificate; for
	// tests that need no socket.
	Transport http.RoundTripper
}

const (
	// MaxBody bounds every answer but the stream of events.
	MaxBody = 16 << 20

	callTimeout = 30 * time.Second
	backoffBase = 200 * time.Millisecond
	backoffCap  = 10 * time.Second
)

// Client speaks to one coordinator. It is safe for concurrent use. Calls that
// may be repeated are, with full jitter, as long as the error's kind says that
// it can help. Every error is a [fault.Error].
type Client struct {
	base     string
	token    string
	attempts int
	notice   func(text string)
	http     *http.Client
}

// NewClient returns a client; it does not connect yet.
func NewClient(o Options) (*Client, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return nil, fault.Newf(fault.Invalid, "read coordinator URL", fmt.Sprintf("%q", o.URL), "not an http or https URL").
			WithHint("write for example https://fleet.example:8443")
	}
	if u.Scheme == "http" && (o.Pin != "" || !loopback(u.Hostname())) {
		return nil, fault.Newf(fault.Invalid, "read coordinator URL", o.URL, "without TLS anybody on the way could read and answer what is sent there").
			WithHint("write https:// before the address")
	}
	rt := o.Transport
	if rt == nil {
		conf, err := tlsConfig(o)
		if err != nil {
			return nil, err
		}
		rt = &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			TLSClientConfig:       conf,
			ForceAttemptHTTP2:     true,
			MaxIdleConnsPerHost:   4,
			IdleConnTimeout:       90 * time.Second,
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: 90 * time.Second, // above the longest long poll
		}
	}
	if o.Attempts == 0 {
		o.Attempts = 4
	}
	return &Client{
		base:     strings.TrimSuffix(o.URL, "/"),
		token:    o.Token,
		attempts: o.Attempts,
		http:     &http.Client{Transport: rt},
	}, nil
}

// loopback reports whether a host is this machine: nobody stands between.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// tlsConfig judges the server by its key alone when there is a pin: a device has
// neither the name nor the authorities to judge it by anything else.
func tlsConfig(o Options) (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS13}
	if o.Pin != "" {
		var want [][]byte
		for _, pin := range append([]string{o.Pin}, o.Pins...) {
			b, err := hex.DecodeString(pin)
			if err != nil || len(b) != sha256.Size {
				return nil, fault.Newf(fault.Invalid, "read TLS pin", pin, "want 64 hex digits")
			}
			want = append(want, b)
		}
		conf.InsecureSkipVerify = true // VerifyConnection below decides, also on resumption
		conf.VerifyConnection = func(cs tls.ConnectionState) error {
			got := sha256.Sum256(cs.PeerCertificates[0].RawSubjectPublicKeyInfo)
			if !slices.ContainsFunc(want, func(pin []byte) bool { return bytes.Equal(got[:], pin) }) {
				return fault.Newf(fault.Untrusted, "verify coordinator", cs.ServerName, "its TLS key is %x..., the pin says %x...", got[:6], want[0][:6]).
					WithHint("the coordinator was set up anew, or something stands between: compare with its log line \"serving\"")
			}
			return nil
		}
	}
	if o.Certificate != nil {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			c, err := o.Certificate()
			if c == nil && err == nil {
				c = &tls.Certificate{} // none
			}
			return c, err
		}
	}
	return conf, nil
}

// PinOf is the pin of a certificate's public key, in hex.
func PinOf(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// call is one request and what may be done with it.
type call struct {
	op, subject  string
	method, path string
	header       http.Header
	body         []byte // sent as is when set
	in           any    // else sent as JSON when set
	out          any    // answer's JSON goes here when set
	once         bool   // must not be repeated
	timeout      time.Duration
}

// do performs c, repeating it while that is allowed and can help.
func (c *Client) do(ctx context.Context, k call) error {
	return c.repeat(ctx, k, func(resp *http.Response) error {
		if k.out == nil {
			_, err := io.Copy(io.Discard, io.LimitReader(resp.Body, MaxBody))
			return err
		}
		return json.NewDecoder(io.LimitReader(resp.Body, MaxBody)).Decode(k.out)
	})
}

func (c *Client) repeat(ctx context.Context, k call, read func(*http.Response) error) error {
	attempts := c.attempts
	if k.once {
		attempts = 1
	}
	if k.in != nil {
		b, err := json.Marshal(k.in)
		if err != nil {
			return fault.New(fault.Invalid, k.op, k.subject, err)
		}
		k.body = b
		if k.header == nil {
			k.header = http.Header{}
		}
		k.header.Set("Content-Type", "application/json")
	}
	for n := 1; ; n++ {
		after, err := c.once(ctx, k, read)
		if err == nil || n >= attempts || !fault.KindOf(err).Retry() || ctx.Err() != nil {
			return err
		}
		if !pause(ctx, max(after, Jitter(n))) {
			return err
		}
	}
}

// once performs a single attempt. after is what the server asks to wait.
func (c *Client) once(ctx context.Context, k call, read func(*http.Response) error) (after time.Duration, err error) {
	if k.timeout == 0 {
		k.timeout = callTimeout
	}
	if k.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, k.timeout)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, k.method, c.base+k.path, bytes.NewReader(k.body))
	if err != nil {
		return 0, fault.New(fault.Invalid, k.op, k.subject, err)
	}
	for name, v := range k.header {
		req.Header[name] = v
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, classify(err, k)
	}
	defer resp.Body.Close()
	c.noticed(resp.Header)
	if resp.StatusCode/100 != 2 && resp.StatusCode != http.StatusNotModified {
		if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
			after = min(time.Duration(s)*time.Second, backoffCap)
		}
		return after, ReadProblem(resp, k.op, k.subject)
	}
	if err := read(resp); err != nil {
		return 0, classify(err, k)
	}
	return 0, nil
}

// classify turns an error of the transport into a fault: a refused key is
// Untrusted, a caller that gave up Canceled, the rest trouble that passes.
func classify(err error, k call) error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		g := fault.New(f.Kind, k.op, k.subject, f)
		return g
	}
	kind := fault.Transient
	if errors.Is(err, context.Canceled) {
		kind = fault.Canceled
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // without the method and URL: op and subject say it
	}
	f := fault.New(kind, k.op, k.subject, err)
	if kind == fault.Transient {
		f = f.WithHint("is the coordinator running, and can this machine reach it?")
	}
	return f
}

// Jitter is the pause before the n-th repetition, n from 1: uniform between zero
// and a bound that doubles, so that a fleet that lost its coordinator does not
// come back in step.
func Jitter(n int) time.Duration {
	return rand.N(min(backoffCap, backoffBase<<min(n, 16)))
}

// pause waits, and reports whether ctx outlived it.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
