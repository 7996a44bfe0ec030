package share_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	mrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/modelfleet/modelfleet/agent/share"
	"github.com/modelfleet/modelfleet/pkg/artifact"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/gossip"
	"github.com/modelfleet/modelfleet/pkg/identity/identitytest"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
)

const (
	fleetName = "acme"
	frameSize = 64 << 10
)

// town is a site: one release in a bucket whose bytes are counted, and members
// with sockets, certificates and disks of their own.
type town struct {
	t      *testing.T
	ca     *identitytest.CA
	bucket *counting
	want   delivery.Want
	frames []delivery.FrameRef
	plain  [][]byte
	houses []*house

	mu      sync.Mutex
	revoked map[fleet.MemberID]bool
}

// house is a member.
type house struct {
	*share.Site
	town    *town
	id      fleet.MemberID
	addr    string
	cert    tls.Certificate
	store   *cas.Store
	fetcher *delivery.Fetcher
	stop    func()
}

// counting counts the bytes that leave the bucket.
type counting struct {
	*dir.Store
	bytes atomic.Int64
	gate  atomic.Pointer[chan struct{}] // when set, reads wait for it
}

func (c *counting) Range(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if gate := c.gate.Load(); gate != nil {
		select {
		case <-*gate:
		case <-ctx.Done():
			return nil, fault.New(fault.Canceled, "read", key, ctx.Err())
		}
	}
	c.bytes.Add(n)
	return c.Store.Range(ctx, key, off, n)
}

// copies is how often the release left the bucket.
func (c *counting) copies(w delivery.Want) float64 { return float64(c.bytes.Load()) / float64(w.Size) }

// found publishes a release of so many frames.
func found(t *testing.T, frames int) *town {
	t.Helper()
	bucket, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bucket.Close() })
	folder := t.TempDir()
	data := make([]byte, frames*frameSize-100)
	chacha := mrand.NewChaCha8([32]byte{1})
	if _, err := io.ReadFull(chacha, data); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "weights.bin"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := oms.Hash(t.Context(), folder, oms.Options{Name: "detector", Method: oms.Shards, ShardSize: frameSize})
	if err != nil {
		t.Fatal(err)
	}
	files, err := artifact.FilesOf(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := artifact.Upload(t.Context(), bucket, folder, files, artifact.UploadOptions{TempDir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	w := &town{t: t, ca: identitytest.New(t, fleetName), bucket: &counting{Store: bucket}, revoked: map[fleet.MemberID]bool{}}
	w.want = delivery.Want{Key: fleet.DigestOf([]byte("bundle")), Path: "models/vision/detector/1.0.0/default.oms", Manifest: m, Size: int64(len(data))}
	for i, d := range files[0].Frames {
		plain := data[i*frameSize : min((i+1)*frameSize, len(data))]
		w.plain = append(w.plain, plain)
		w.frames = append(w.frames, delivery.FrameRef{Path: w.want.Path, Release: w.want.Key, File: files[0].Digest, Frame: i, Digest: d, Length: len(plain)})
	}
	return w
}

// certificate is one that the fleet's device CA gives a member.
func (w *town) certificate(ca *identitytest.CA, id fleet.MemberID) tls.Certificate {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	der, err := ca.Issue(fleet.Device, id, key.Public(), 24*60*60*1e9, 1)
	if err != nil {
		w.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// identify judges a certificate as an agent does.
func (w *town) identify(der []byte) (gossip.Identity, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return gossip.Identity{}, err
	}
	if err := cert.CheckSignatureFrom(w.ca.Certificate); err != nil {
		return gossip.Identity{}, err
	}
	id := fleet.MemberID(strings.TrimPrefix(cert.URIs[0].Path, "/device/"))
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.revoked[id] {
		return gossip.Identity{}, fault.Newf(fault.Untrusted, "identify", string(id), "revoked")
	}
	return gossip.Identity{Member: id, Key: cert.PublicKey.(*ecdsa.PublicKey)}, nil
}

func (w *town) revoke(id fleet.MemberID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.revoked[id] = true
}

// settle adds members that share; edit may change their options. Everybody then
// sees everybody.
func (w *town) settle(n int, edit func(o *share.Options)) {
	w.t.Helper()
	for range n {
		w.house(fleet.MemberID(fmt.Sprintf("d%02d", len(w.houses))), edit)
	}
	w.introduce()
}

func (w *town) house(id fleet.MemberID, edit func(o *share.Options)) *house {
	t := w.t
	t.Helper()
	h := &house{town: w, id: id, cert: w.certificate(w.ca, id)}
	var err error
	folder := t.TempDir()
	if h.store, err = cas.Open(filepath.Join(folder, "store")); err != nil {
		t.Fatal(err)
	}
	o := share.Options{
		Self: id, Dir: filepath.Join(folder, "share"), Store: h.store, Identify: w.identify,
		Certificate: func() tls.Certificate { return h.cert },
		Backed:      func(release fleet.Digest) (string, bool) { return w.want.Path, release == w.want.Key },
		Want:        func(context.Context, string, fleet.Digest) (delivery.Want, error) { return w.want, nil },
		Logger:      slog.New(slog.NewTextHandler(logTo{string(id)}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if edit != nil {
		edit(&o)
	}
	if h.Site, err = share.New(o); err != nil {
		t.Fatal(err)
	}
	if h.fetcher, err = delivery.New(delivery.Options{Store: h.store, Source: w.bucket, Peers: h.Site, Logger: o.Logger}); err != nil {
		t.Fatal(err)
	}
	h.open()
	w.houses = append(w.houses, h)
	return h
}

// open begins to serve at a new port.
func (h *house) open() {
	ln := listen(h.town.t)
	h.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Serve(ctx, ln, h.fetcher.Frame) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			h.town.t.Error(err)
		}
		h.Close()
	})
	h.town.t.Cleanup(h.stop)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// logTo shows a member's log with -v.
type logTo struct{ name string }

func (l logTo) Write(p []byte) (int, error) {
	if testing.Verbose() {
		os.Stderr.WriteString(l.name + " " + string(p))
	}
	return len(p), nil
}

// member is how the pool of a cell shows someone.
func member(id fleet.MemberID, addr string) gossip.Member {
	host, port, _ := net.SplitHostPort(addr)
	n, _ := strconv.ParseUint(port, 10, 16)
	return gossip.Member{Name: id, Addr: net.JoinHostPort(host, "7946"), Share: uint16(n), Proven: true}
}

// guest is a member that only asks.
func guest(id fleet.MemberID) gossip.Member {
	return gossip.Member{Name: id, Addr: "127.0.0.1:7946", Proven: true}
}

func (h *house) member() gossip.Member { return member(h.id, h.addr) }

// introduce has all see each other, and also others.
func (w *town) introduce(others ...gossip.Member) {
	for _, h := range w.houses {
		others = append(others, h.member())
	}
	for _, h := range w.houses {
		h.See(others)
	}
}

// take gets one frame as an install does: from neighbours, or out of the bucket.
func (h *house) take(i int) (from string, err error) {
	r, dst := h.town.frames[i], make([]byte, h.town.frames[i].Length)
	ctx := context.Background()
	if !h.Owns(r) {
		from, err = h.Frame(ctx, r, dst)
		if err == nil && !bytes.Equal(dst, h.town.plain[i]) {
			h.Lied(from, r)
			err = fault.Newf(fault.Untrusted, "take", from, "wrong bytes")
		}
		if err == nil {
			return from, nil
		}
	}
	if err := h.fetcher.Frame(ctx, h.town.want, r, dst); err != nil {
		return "", err
	}
	if !bytes.Equal(dst, h.town.plain[i]) {
		return "", fault.Newf(fault.Internal, "take", "", "the bucket gave other bytes")
	}
	return "bucket", nil
}

// install installs the release and checks what is then on the disk.
func (h *house) install(ctx context.Context, progress func(delivery.Progress)) error {
	res, err := h.fetcher.Install(ctx, h.town.want, progress)
	if err != nil {
		return err
	}
	got, err := os.ReadFile(filepath.Join(res.Dir, "weights.bin"))
	if err != nil {
		return err
	}
	if !bytes.Equal(got, bytes.Join(h.town.plain, nil)) {
		return fault.Newf(fault.Internal, "install", string(h.id), "other bytes")
	}
	return nil
}

// installAll has members install the release at once. progress is told of each
// step of any of them.
func installAll(t *testing.T, hs []*house, progress func(delivery.Progress)) {
	t.Helper()
	g, ctx := errgroup.WithContext(t.Context())
	for _, h := range hs {
		g.Go(func() error { return h.install(ctx, progress) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}
