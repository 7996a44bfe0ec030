package share_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/share"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/identity/identitytest"
)

// pretend is a neighbour with a good certificate that answers as it likes.
func (w *town) pretend(cert tls.Certificate, answer http.HandlerFunc) (addr string) {
	w.t.Helper()
	ln := listen(w.t)
	srv := &http.Server{Handler: answer, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert}}
	go srv.ServeTLS(ln, "", "")
	w.t.Cleanup(func() { srv.Close() })
	return ln.Addr().String()
}

// clientOf asks as a member that has a certificate would.
func clientOf(t *testing.T, cert tls.Certificate) *http.Client {
	c := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true}, DisableKeepAlives: true,
	}}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func url(addr string, r delivery.FrameRef) string {
	return fmt.Sprintf("https://%s/v1/frames/%s/%s/%d/%d", addr, r.Release, r.File, r.Frame, r.Length)
}

// get asks for a frame; the status is 0 when nothing was answered.
func get(t *testing.T, c *http.Client, url string) (status int, body []byte, header http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Modelfleet-Hop", "1")
	resp, err := c.Do(req)
	if err != nil {
		return 0, nil, nil
	}
	defer resp.Body.Close()
	body, _ = io.ReadAll(resp.Body)
	return resp.StatusCode, body, resp.Header
}

// A neighbour that lies is found out by its first lie; everybody gets the right
// bytes all the same.
func TestALyingNeighbourIsLeftOut(t *testing.T) {
	t.Parallel()
	w := found(t, 40)
	w.settle(3, patient)
	var lies atomic.Int64
	addr := w.pretend(w.certificate(w.ca, "liar"), func(rw http.ResponseWriter, r *http.Request) {
		lies.Add(1)
		parts := strings.Split(r.URL.Path, "/")
		var n int
		fmt.Sscan(parts[len(parts)-1], &n)
		rw.Header().Set("Content-Length", fmt.Sprint(n))
		rw.Write(bytes.Repeat([]byte("lies"), n/4+1)[:n])
	})
	w.introduce(member("liar", addr))
	for _, h := range w.houses {
		for i := range w.frames {
			from, err := h.take(i)
			if err != nil {
				from, err = h.take(i) // as an install does when it was lied to
			}
			if err != nil || from == "liar" {
				t.Fatalf("frame %d came from %s: %v", i, from, err)
			}
		}
		if n, last := h.Liars(); n != 1 || last != "liar" || h.Sharers(w.want.Key) != 3 {
			t.Errorf("%s left out %d, the last %q, and sees %d", h.id, n, last, h.Sharers(w.want.Key))
		}
	}
	if n := lies.Load(); n != 3 {
		t.Errorf("it was asked %d times by 3 members", n)
	}
}

// Answers that are none: too short, too long, of another length, elsewhere, for ever.
func TestBadAnswersCostOnlyTime(t *testing.T) {
	t.Parallel()
	w := found(t, 30)
	w.settle(1, func(o *share.Options) {
		o.Timing = share.Timing{Stall: 300 * time.Millisecond, Wait: time.Second, Rest: time.Millisecond}
	})
	elsewhere := atomic.Int64{}
	victim := w.pretend(w.certificate(w.ca, "victim"), func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) })
	n := 0
	for name, answer := range map[string]http.HandlerFunc{
		"short": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Length", fmt.Sprint(frameSize))
			rw.Write([]byte("x"))
		},
		"endless": func(rw http.ResponseWriter, _ *http.Request) { rw.Write(make([]byte, 10*frameSize)) },
		"elsewhere": func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, "https://"+victim+"/", http.StatusFound)
		},
		"error": func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusTeapot) },
		"patience": func(rw http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				rw.WriteHeader(http.StatusProcessing)
				<-time.After(20 * time.Millisecond)
			}
		},
		"headers": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("X", strings.Repeat("x", 1<<20))
			rw.WriteHeader(200)
		},
	} {
		id := fleet.MemberID("bad-" + name)
		w.introduce(member(id, w.pretend(w.certificate(w.ca, id), answer)))
		asked := false
		for i, r := range w.frames[5*n : 5*n+5] {
			asked = asked || !w.houses[0].Owns(r)
			if from, err := w.houses[0].take(5*n + i); err != nil || from != "bucket" {
				t.Errorf("%s: frame came from %q: %v", name, from, err)
			}
		}
		if !asked {
			t.Errorf("%s: it was never asked", name)
		}
		n++
	}
	if elsewhere.Load() > 0 {
		t.Error("a member called where a neighbour sent it")
	}
}

// An address does not make a member: who answers must be who was asked.
func TestAnotherMemberAtAnAddressIsNotBelieved(t *testing.T) {
	t.Parallel()
	w := found(t, 12)
	w.settle(1, func(o *share.Options) { o.Timing.Rest = time.Hour })
	addr := w.pretend(w.certificate(w.ca, "another"), func(rw http.ResponseWriter, _ *http.Request) { rw.Write(make([]byte, frameSize)) })
	w.introduce(member("friend", addr))
	for i := range w.frames {
		if from, err := w.houses[0].take(i); err != nil || from != "bucket" {
			t.Fatalf("frame %d came from %s: %v", i, from, err)
		}
	}
	if n, _ := w.houses[0].Liars(); n != 0 {
		t.Errorf("%d were blamed for bytes that were not theirs", n)
	}
}

// Nobody but a member of this cell with a certificate that stands is served, and
// whoever is revoked is refused at its next question, also on an open connection.
func TestWhoIsServed(t *testing.T) {
	t.Parallel()
	w := found(t, 3)
	w.settle(1, nil)
	h := w.houses[0]
	good := w.certificate(w.ca, "good")
	w.introduce(guest("good"), guest("stranger"), guest("bad"))
	w.revoke("bad")
	for name, c := range map[string]tls.Certificate{
		"another fleet's":  w.certificate(identitytest.New(t, fleetName), "stranger"),
		"revoked":          w.certificate(w.ca, "bad"),
		"not of this cell": w.certificate(w.ca, "far-away"),
		"no certificate":   {},
	} {
		if status, body, _ := get(t, clientOf(t, c), url(h.addr, w.frames[0])); status == http.StatusOK || len(body) > 100 {
			t.Errorf("%s: answered %d and %d bytes", name, status, len(body))
		}
	}
	if w.bucket.bytes.Load() > 0 {
		t.Error("a frame was fetched for somebody who is not served")
	}
	client := clientOf(t, good)
	client.Transport.(*http.Transport).DisableKeepAlives = false
	if status, body, _ := get(t, client, url(h.addr, w.frames[0])); status != http.StatusOK || !bytes.Equal(body, w.plain[0]) {
		t.Fatalf("a neighbour was answered %d", status)
	}
	w.revoke("good")
	if status, _, _ := get(t, client, url(h.addr, w.frames[0])); status == http.StatusOK {
		t.Error("a neighbour that was revoked meanwhile is served")
	}
}

// Only frames of releases that the trust pack backs are given or fetched.
func TestWhatIsGiven(t *testing.T) {
	t.Parallel()
	w := found(t, 3)
	w.settle(1, func(o *share.Options) { o.Timing.News = time.Millisecond })
	w.introduce(guest("d99"))
	client := clientOf(t, w.certificate(w.ca, "d99"))
	good := w.frames[0]
	for name, edit := range map[string]func(r *delivery.FrameRef){
		"a release that nobody backs": func(r *delivery.FrameRef) { r.Release = fleet.DigestOf([]byte("mine")) },
		"a file of no release":        func(r *delivery.FrameRef) { r.File = fleet.DigestOf([]byte("/etc/shadow")) },
		"a frame too far":             func(r *delivery.FrameRef) { r.Frame = 3 },
		"a negative frame":            func(r *delivery.FrameRef) { r.Frame = -1 },
		"another length":              func(r *delivery.FrameRef) { r.Length-- },
		"no length":                   func(r *delivery.FrameRef) { r.Length = 0 },
	} {
		r := good
		edit(&r)
		if status, body, _ := get(t, client, url(w.houses[0].addr, r)); status < 400 || status == http.StatusServiceUnavailable || len(body) > 100 {
			t.Errorf("%s: answered %d and %d bytes", name, status, len(body))
		}
	}
	for _, path := range []string{"/", "/v1/frames/", "/v1/frames/../../state.json", "/v1/frames/x/y/0/1"} {
		if status, _, _ := get(t, client, "https://"+w.houses[0].addr+path); status != http.StatusNotFound && status != http.StatusBadRequest {
			t.Errorf("%s: answered %d", path, status)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url(w.houses[0].addr, good), strings.NewReader("a body"))
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := client.Do(req); err == nil {
		if resp.Body.Close(); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("a question with a body was answered %d", resp.StatusCode)
		}
	}
	if w.bucket.bytes.Load() > 0 {
		t.Error("something was fetched")
	}
}

// More than eight frames are not sent at once; who comes then is told to come later.
func TestTheNinthStreamIsTurnedAway(t *testing.T) {
	t.Parallel()
	w := found(t, 1)
	w.settle(1, func(o *share.Options) {
		o.Rate = 8 << 10 // so slow that a frame takes all of the test
		o.Timing.Queue = time.Second
	})
	h := w.houses[0]
	w.introduce(guest("guest-0"), guest("guest-1"), guest("guest-2"))
	var clients []*http.Client
	for i := range 3 {
		clients = append(clients, clientOf(t, w.certificate(w.ca, fleet.MemberID(fmt.Sprintf("guest-%d", i)))))
	}
	for i := range 8 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url(h.addr, w.frames[0]), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Modelfleet-Hop", "0")
		resp, err := clients[i/4].Do(req)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("stream %d: %v %v", i+1, resp, err)
		}
		defer resp.Body.Close()
		if _, err := io.ReadFull(resp.Body, make([]byte, 1)); err != nil { // it is being sent
			t.Fatal(err)
		}
	}
	status, _, header := get(t, clients[2], url(h.addr, w.frames[0]))
	if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" {
		t.Errorf("the ninth was answered %d, %v", status, header)
	}
	if n := h.Stats().Busy; n != 1 {
		t.Errorf("%d were counted", n)
	}
}

// Who only holds a connection open is cut off: before the handshake, in the middle
// of a question, and when it does not take what it asked for.
func TestASlowGuestIsCutOff(t *testing.T) {
	t.Parallel()
	w := found(t, 1)
	w.settle(1, func(o *share.Options) {
		o.Timing = share.Timing{Head: 3 * time.Second, Stall: 50 * time.Millisecond, Age: 100 * time.Millisecond} // a handshake takes a moment
	})
	h := w.houses[0]
	w.introduce(guest("d99"))
	ended := func(what string, c net.Conn) {
		t.Helper()
		if err := c.SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Errorf("%s: it was let wait", what)
		}
	}
	raw, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	half, err := tls.Dial("tcp", h.addr, &tls.Config{Certificates: []tls.Certificate{w.certificate(w.ca, "d99")}, InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	if _, err := io.WriteString(half, "GET /v1/frames/"); err != nil {
		t.Fatal(err)
	}
	ended("no handshake", raw)
	ended("half a question", half)
}

// A guest that stops reading holds its place for a moment only.
func TestAGuestThatDoesNotReadIsCutOff(t *testing.T) {
	t.Parallel()
	w := found(t, 1)
	w.settle(1, func(o *share.Options) {
		o.Streams, o.Rate = 1, 1<<30
		o.Timing = share.Timing{Stall: 2 * time.Second, Age: 4 * time.Second, Queue: time.Minute} // who reads is not cut off on a busy machine
	})
	h := w.houses[0]
	w.introduce(guest("d98"), guest("d99"))
	c, err := tls.Dial("tcp", h.addr, &tls.Config{Certificates: []tls.Certificate{w.certificate(w.ca, "d99")}, InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// It asks again and again and reads nothing, so that what is sent piles up.
	question := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: x\r\nModelfleet-Hop: 0\r\n\r\n", strings.TrimPrefix(url(h.addr, w.frames[0]), "https://"+h.addr))
	if err := c.SetWriteDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = io.WriteString(c, question)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("who does not read is waited for")
	}
	status, body, _ := get(t, clientOf(t, w.certificate(w.ca, "d98")), url(h.addr, w.frames[0]))
	if status != http.StatusOK || !bytes.Equal(body, w.plain[0]) {
		t.Errorf("another guest was answered %d", status)
	}
}
