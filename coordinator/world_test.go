package coordinator_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/coordinator"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/identity"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

const (
	fleetName = "test"
	team      = fleet.Team("vision")
	model     = fleet.ModelName("detector")
)

// world is a fleet in folders: real trust, real store, real sockets; only the
// members' models are imagined.
type world struct {
	t         *testing.T
	opts      coordinator.Options
	lastToken string // of who signed in last
	bucket    *dir.Store
	publisher *signer.Signer
	root      []byte
	addr      coordinator.Address
	admin     *api.Client
	stop      func() error
	logs      *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newWorld makes a fleet as `modelfleet init` does.
func newWorld(t *testing.T, edit ...func(*repository.InitOptions)) *world {
	t.Helper()
	base := t.TempDir()
	w := &world{t: t, logs: &syncBuffer{}}
	folder, bucket := filepath.Join(base, "fleet"), filepath.Join(base, "bucket")
	ok(t, os.MkdirAll(filepath.Join(folder, "keys"), 0o700))
	ok(t, os.MkdirAll(bucket, 0o700))
	w.bucket = must(dir.Open(bucket))(t)
	t.Cleanup(func() { w.bucket.Close() })
	key := func(name string) *signer.Signer {
		return must(signer.Generate(filepath.Join(folder, "keys", name+".pem")))(t)
	}
	rootKey, caKey, coord, stamp := must(signer.Ephemeral())(t), key("device-ca"), key("coordinator"), key("timestamp")
	w.publisher = must(signer.Ephemeral())(t)
	cert := must(identity.SelfSign(fleetName, caKey, 365*24*time.Hour, time.Now()))(t)
	caPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	ok(t, os.WriteFile(filepath.Join(folder, "device-ca.crt"), caPEM, 0o600))
	private, auditKey, err := ledger.NewKey(fleetName)
	ok(t, err)
	ok(t, os.WriteFile(filepath.Join(folder, "keys", "audit.key"), []byte(private+"\n"), 0o600))
	o := repository.InitOptions{
		Fleet: fleetName, Now: time.Now(), Root: []signature.Signer{rootKey},
		Teams:       []repository.Team{{Name: team, Keys: []crypto.PublicKey{w.publisher.Public()}}},
		Coordinator: coord.Public(), Timestamp: []crypto.PublicKey{stamp.Public()}, DeviceCA: caPEM, AuditKey: auditKey,
	}
	for _, f := range edit {
		f(&o)
	}
	g := must(repository.Init(o))(t)
	w.put(g.Writes...)
	w.root = g.Root
	file := must(api.FleetFile{Name: fleetName, Bucket: "dir:" + bucket, Root: g.Pin}.Encode())(t)
	ok(t, os.WriteFile(filepath.Join(folder, api.FleetFileName), file, 0o600))
	w.opts = coordinator.Options{
		Fleet: folder, Data: filepath.Join(base, "data"), Listen: "127.0.0.1:0",
		Tick: 50 * time.Millisecond, Report: time.Second,
		Logger: slog.New(slog.NewTextHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(w.logs.String())
		}
	})
	return w
}

func (w *world) put(writes ...repository.Write) {
	w.t.Helper()
	for _, x := range writes {
		if !x.Mutable {
			must(w.bucket.Create(w.t.Context(), x.Key, registry.BodyOf(x.Body)))(w.t)
			continue
		}
		_, etag, _ := w.bucket.Get(w.t.Context(), x.Key, "")
		must(w.bucket.Swap(w.t.Context(), x.Key, x.Body, etag))(w.t)
	}
}

// start runs the coordinator until the test ends or stop is called.
func (w *world) start() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	serving, done := make(chan coordinator.Address, 1), make(chan error, 1)
	o := w.opts
	o.Serving = func(a coordinator.Address) { serving <- a }
	go func() { done <- coordinator.Run(ctx, o) }()
	select {
	case w.addr = <-serving:
	case err := <-done:
		cancel()
		w.t.Fatalf("coordinator did not start: %v", err)
	}
	var once sync.Once
	var result error
	w.stop = func() error {
		once.Do(func() {
			cancel()
			result = <-done
		})
		return result
	}
	w.t.Cleanup(func() { w.stop() })
	c := must(api.LoadContext(filepath.Join(w.opts.Data, "admin.context.json")))(w.t)
	w.admin = must(c.Client())(w.t)
	w.t.Cleanup(w.admin.Close)
}

// publish makes a release and puts it into the bucket, its bundle signed by the
// key, its role by the publisher.
func (w *world) publish(version string, bundleKey *signer.Signer) fleet.Release {
	w.t.Helper()
	weights := "weights of " + version
	bundle := w.bundleOf(weights, bundleKey)
	repo := must(repository.Open(w.t.Context(), w.get, repository.Options{Root: w.root}))(w.t)
	draft := must(repo.Draft(w.t.Context(), team))(w.t)
	rel := fleet.Release{Team: team, Model: model, Version: fleet.Version(version), Variants: []fleet.Variant{{Name: fleet.DefaultVariant, Size: int64(len(weights))}}}
	signed := must(draft.Next(repository.Change{Add: []repository.Addition{{
		Entry: trust.Entry{Release: rel, Metrics: map[string]float64{"accuracy": 0.9}}, Bundles: map[string][]byte{fleet.DefaultVariant: bundle},
	}}}, time.Now(), w.publisher))(w.t)
	w.put(repository.Write{Key: rel.BundlePath(fleet.DefaultVariant), Body: bundle})
	w.put(signed.Write)
	if len(signed.Added) != 1 {
		w.t.Fatalf("listed %d releases, want 1", len(signed.Added))
	}
	return signed.Added[0].Release
}

// bundleOf signs a model of one file, by the publisher's key unless another is given.
func (w *world) bundleOf(weights string, key ...*signer.Signer) []byte {
	w.t.Helper()
	folder := filepath.Join(w.t.TempDir(), "model")
	ok(w.t, os.MkdirAll(folder, 0o700))
	ok(w.t, os.WriteFile(filepath.Join(folder, "weights"), []byte(weights), 0o600))
	m := must(oms.Hash(w.t.Context(), folder, oms.Options{}))(w.t)
	return must(oms.Sign(m, append(key, w.publisher)[0]))(w.t)
}

func (w *world) get(ctx context.Context, key string) ([]byte, error) {
	b, _, err := w.bucket.Get(ctx, key, "")
	return b, err
}

// admit publishes and has the coordinator take it up.
func (w *world) admit(version string) fleet.Release {
	w.t.Helper()
	rel := w.publish(version, w.publisher)
	reply := must(w.admin.Admit(w.t.Context(), api.AdmitRequest{Team: team}))(w.t)
	if len(reply.Admitted) != 1 || reply.Admitted[0].Release.Ref() != rel.Ref() {
		w.t.Fatalf("admitted %+v, want %s", reply.Admitted, rel.Ref())
	}
	return rel
}

// eventually asks until cond holds.
func (w *world) eventually(what string, cond func() bool) {
	w.t.Helper()
	tick, limit := time.NewTicker(20*time.Millisecond), time.NewTimer(3*time.Minute)
	defer tick.Stop()
	defer limit.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-limit.C:
			w.t.Fatalf("waited too long until %s", what)
		}
	}
}

// behaviour is what a release does on a member.
type behaviour struct {
	errors   int // of a hundred requests
	fails    bool
	spares   fleet.MemberID // on which it does not fail
	requests int
}

// device is a simulated member: real identity, real verification, real rows.
type device struct {
	w      *world
	facts  fleet.Facts
	cell   api.Cell
	key    *signer.Signer
	client *api.Client
	cert   []byte
	state  trust.State
	rec    *telemetry.Recorder
	codec  *telemetry.Codec

	etag    string
	running fleet.Digest
	refused map[fleet.Digest]fleet.RolloutID // quarantined, and in which rollout
	failed  []fleet.FailedRelease            // as the directive says
	n       int
}

// enrol joins a member by a token.
func (w *world) enrol(token, id string, labels fleet.Labels) *device {
	w.t.Helper()
	d := &device{w: w, key: must(signer.Ephemeral())(w.t), codec: must(telemetry.NewCodec())(w.t), refused: map[fleet.Digest]fleet.RolloutID{}}
	join := must(trust.ParseJoinToken(token))(w.t)
	anon := must(api.NewClient(api.Options{URL: join.URL, Pin: join.TLS.String()}))(w.t)
	defer anon.Close()
	r := must(anon.Enrol(w.t.Context(), api.EnrolRequest{
		TokenID: join.ID, Secret: join.SecretText(), Member: fleet.MemberID(id), Kind: fleet.Device, Labels: labels,
		CSR: csr(w.t, d.key), Agent: "1.0.0", Platform: "linux/amd64",
	}))(w.t)
	d.facts, d.cell, d.cert = r.Facts, r.Cell, r.Certificate
	d.state = must(trust.NewState(r.Root, join.Root))(w.t)
	trusted, st, err := trust.Verify(r.Pack, d.state, d.facts, time.Now())
	ok(w.t, err)
	d.state = st
	if len(trusted.DeviceCA) != 1 || !bytes.Equal(trusted.DeviceCA[0].Raw, r.DeviceCA) {
		w.t.Fatal("the CA that issued the certificate is not the policy's")
	}
	d.client = d.dial()
	keyID := must(telemetry.KeyIDOf(d.key.ECDSA()))(w.t)
	d.rec = must(telemetry.NewRecorder(telemetry.RecorderOptions{Key: keyID, Epoch: 1, Window: time.Second, Sketch: time.Second, Agent: "1.0.0"}))(w.t)
	return d
}

func (d *device) dial() *api.Client {
	c := must(api.NewClient(api.Options{
		URL: d.w.addr.URL, Pin: d.w.addr.Pin,
		Certificate: func() (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: [][]byte{d.cert}, PrivateKey: d.key}, nil
		},
	}))(d.w.t)
	d.w.t.Cleanup(c.Close)
	return c
}

func csr(t testing.TB, key *signer.Signer) []byte {
	return must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "anything"}}, key))(t)
}

// pull fetches and verifies the newest pack, and acts on it at once.
func (d *device) pull(act map[fleet.Digest]behaviour) error {
	reply, err := d.client.Pack(d.w.t.Context(), d.facts.Group, d.etag, 0)
	if err != nil {
		return err
	}
	d.etag = reply.ETag
	now := time.Now()
	if !reply.NotModified {
		trusted, st, err := trust.Verify(reply.Pack, d.state, d.facts, now)
		if err != nil {
			return err
		}
		d.state = st
		return d.obey(trusted.Directive, act, now)
	}
	return nil
}

func (d *device) obey(dir fleet.Directive, act map[fleet.Digest]behaviour, now time.Time) error {
	d.rec.SetMember(telemetry.MemberState{Directive: dir.Sequence, Freshness: telemetry.Fresh})
	p, listed := dir.Placement(model)
	if !listed {
		d.running = fleet.Digest{}
		d.rec.Forget(model)
		return nil
	}
	a := p.Assign(d.facts)
	d.failed = p.Failed
	for _, f := range p.Failed {
		if slices.Contains(f.Roots, d.running) && d.running != a.Variant.Root {
			d.refused[d.running] = f.Rollout
		}
	}
	if a.Arm == fleet.Exposed && a.Exposure.Retry && d.refused[a.Variant.Root] != a.Rollout {
		delete(d.refused, a.Variant.Root)
	}
	s := telemetry.ModelState{Rollout: a.Rollout, Arm: a.Arm, Phase: fleet.Healthy}
	if a.Release == nil {
		d.running, s.Phase = fleet.Digest{}, fleet.Idle
		return d.rec.SetModel(model, now, s)
	}
	s.Target = a.Variant.Root
	switch _, refused := d.refused[a.Variant.Root]; {
	case refused:
		s.Phase, s.Failure, s.Code = fleet.Quarantined, fleet.ReleaseFailure, telemetry.CodeSelfTest
	case act[a.Variant.Root].fails && act[a.Variant.Root].spares != d.facts.ID:
		d.refused[a.Variant.Root] = a.Rollout
		s.Phase, s.Failure, s.Code = fleet.Failed, fleet.ReleaseFailure, telemetry.CodeSelfTest
	default:
		d.running = a.Variant.Root
	}
	s.Running = d.running
	return d.rec.SetModel(model, now, s)
}

// serve observes requests and reports.
func (d *device) serve(act map[fleet.Digest]behaviour) (api.RowsReply, error) {
	now := time.Now()
	b := act[d.running]
	for range b.requests {
		d.n++
		o := telemetry.Observation{Latency: 5 * time.Millisecond, Err: d.n%100 < b.errors, Right: new(d.n%10 != 0)}
		if err := d.rec.Observe(model, now, o); err != nil {
			return api.RowsReply{}, err
		}
	}
	batch := must(d.codec.Encode(d.messages(now)))(d.w.t)
	reply, err := d.client.SendRows(d.w.t.Context(), d.cell.ID, batch, "")
	if err == nil {
		d.rec.Acked(reply.Acked[string(d.facts.ID)])
	}
	return reply, err
}

func (d *device) messages(now time.Time) [][]byte {
	msgs := [][]byte{must(d.rec.Row(now).Sign(fleetName, d.key))(d.w.t)}
	for _, win := range d.rec.Windows(now) {
		msgs = append(msgs, must(win.Sign(fleetName, d.key))(d.w.t))
	}
	return msgs
}

// beat is one round of everybody.
func beat(t testing.TB, ds []*device, act map[fleet.Digest]behaviour) {
	t.Helper()
	for _, d := range ds {
		ok(t, d.pull(act))
		must(d.serve(act))(t)
	}
}

// join enrols n members in sites of eight.
func (w *world) join(n int) []*device {
	w.t.Helper()
	tok := must(w.admin.CreateToken(w.t.Context(), api.TokenRequest{Uses: n, Labels: fleet.Labels{"class": "x"}}))(w.t)
	out := make([]*device, n)
	for i := range out {
		out[i] = w.enrol(tok.Text, fmt.Sprintf("dev-%02d", i), fleet.Labels{"site": fmt.Sprintf("site%d", i/8), "ring": map[bool]string{true: "lab", false: "field"}[i == 0]})
	}
	return out
}
