package identity_test

import (
	"context"
	"crypto"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/modelfleet/modelfleet/agent"
	"github.com/modelfleet/modelfleet/coordinator"
	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/identity"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// town is a coordinator and agents in this process: real sockets, real files, and
// certificates that live for seconds.
type town struct {
	*testing.T
	dir, bucket string
	opts        coordinator.Options
	root        *signer.Signer
	policy      []byte
	first       []byte // its device CA, in PEM
	addr        coordinator.Address
	admin       *api.Client
	stop        func() // the coordinator
	agents      map[string]func()
	log         *slog.Logger
	store       *dir.Store
}

// patience is how long the tests wait for anything. It is long because the machine
// may be loaded; a test that works never waits for it.
const patience = 3 * time.Minute

// life is that of the town's certificates.
const life = 24 * time.Second

func newTown(t *testing.T) *town {
	t.Helper()
	w := &town{T: t, dir: t.TempDir(), agents: map[string]func(){}}
	w.bucket = filepath.Join(w.dir, "bucket")
	folder := filepath.Join(w.dir, "fleet")
	for _, d := range []string{w.bucket, filepath.Join(folder, "keys")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	logs := must(os.Create(filepath.Join(w.dir, "log")))(t)
	t.Cleanup(func() {
		logs.Close()
		if b, err := os.ReadFile(logs.Name()); err == nil && t.Failed() {
			t.Logf("%s", b[max(0, len(b)-40<<10):])
		}
	})
	w.log = slog.New(slog.NewTextHandler(logs, nil))
	w.store = must(dir.Open(w.bucket))(t)
	t.Cleanup(func() { w.store.Close() })
	key := func(name string) *signer.Signer {
		return must(signer.Generate(filepath.Join(folder, "keys", name+".pem")))(t)
	}
	w.root = must(signer.Ephemeral())(t)
	w.opts.Fleet = folder
	_, w.first = w.deviceCA("device-ca")
	private, auditKey, err := ledger.NewKey("town")
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, "keys", "audit.key"), []byte(private+"\n"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	g := must(repository.Init(repository.InitOptions{
		Fleet: "town", Now: time.Now(), Root: []signature.Signer{w.root},
		Teams:       []repository.Team{{Name: "vision", Keys: []crypto.PublicKey{must(signer.Ephemeral())(t).Public()}}},
		Coordinator: key("coordinator").Public(), Timestamp: []crypto.PublicKey{key("timestamp").Public()}, DeviceCA: w.first, AuditKey: auditKey,
	}))(t)
	w.put(g.Writes)
	file := must(api.FleetFile{Name: "town", Bucket: "dir:" + w.bucket, Root: g.Pin}.Encode())(t)
	if err := cas.WriteFile(filepath.Join(folder, api.FleetFileName), file, 0o600); err != nil {
		t.Fatal(err)
	}
	w.opts.Data, w.opts.Listen = filepath.Join(w.dir, "data"), "127.0.0.1:0"
	w.opts.Tick, w.opts.Report, w.opts.Reload, w.opts.Certificates = 100*time.Millisecond, 500*time.Millisecond, 200*time.Millisecond, life
	w.opts.Logger = w.log.With("who", "coordinator")
	return w
}

// deviceCA makes a CA whose key is in the fleet's folder.
func (w *town) deviceCA(name string) (fleet.Digest, []byte) {
	key := must(signer.Generate(filepath.Join(w.opts.Fleet, "keys", name+".pem")))(w.T)
	cert := must(identity.SelfSign("town", key, 24*time.Hour, time.Now()))(w.T)
	return fleet.DigestOf(cert.Raw), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

func (w *town) put(writes []repository.Write) {
	w.Helper()
	for _, x := range writes {
		if strings.HasSuffix(x.Key, ".targets.json") {
			w.policy = x.Body
		}
		if !x.Mutable {
			must(w.store.Create(w.Context(), x.Key, registry.BodyOf(x.Body)))(w.T)
			continue
		}
		_, etag, _ := w.store.Get(w.Context(), x.Key, "")
		must(w.store.Swap(w.Context(), x.Key, x.Body, etag))(w.T)
	}
}

// list has the policy list these device CAs from now on.
func (w *town) list(certs ...[]byte) {
	w.Helper()
	w.put(must(repository.NextPolicy(w.policy, repository.PolicyChange{DeviceCA: slices.Concat(certs...)}, time.Now(), repository.Lifetimes{}, w.root))(w.T))
}

func (w *town) serve() {
	w.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	serving, done := make(chan coordinator.Address, 1), make(chan error, 1)
	o := w.opts
	o.Serving = func(a coordinator.Address) { serving <- a }
	go func() { done <- coordinator.Run(ctx, o) }()
	select {
	case w.addr = <-serving:
	case err := <-done:
		cancel()
		w.Fatalf("coordinator did not start: %v", err)
	}
	w.stop = sync.OnceFunc(func() { cancel(); <-done })
	w.Cleanup(func() { w.stop() })
	w.opts.Listen, w.opts.URL = w.addr.Addr, w.addr.URL // also the next time
	w.admin = must(must(api.LoadContext(filepath.Join(w.opts.Data, "admin.context.json")))(w.T).Client())(w.T)
	w.Cleanup(w.admin.Close)
}

// start runs an agent in the folder of that name.
func (w *town) start(name, id, token string) {
	w.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	sockets := must(os.MkdirTemp("", "mf"))(w.T) // a socket's path must be short
	o := agent.Options{
		State: filepath.Join(w.dir, name), Token: token, ID: fleet.MemberID(id), Labels: fleet.Labels{"site": "hall"},
		Socket: filepath.Join(sockets, "s"), Source: w.bucket, Gossip: "127.0.0.1:0", Report: 500 * time.Millisecond,
		Logger: w.log.With("who", name),
	}
	go func() { done <- agent.Run(ctx, o) }()
	w.agents[name] = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.Errorf("%s ended: %v", name, err)
		}
		os.RemoveAll(sockets)
	})
	w.Cleanup(w.agents[name])
}

// until waits for something to become true.
func (w *town) until(what string, ready func() bool) {
	w.Helper()
	deadline := time.Now().Add(patience)
	for !ready() {
		if time.Now().After(deadline) {
			w.Fatalf("waited in vain: %s", what)
		}
		<-time.After(100 * time.Millisecond)
	}
}

// reporting says whether all members reported in the last seconds.
func (w *town) reporting(n int) bool {
	members, err := w.admin.Members(w.Context(), fleet.Selector{})
	if err != nil {
		return false
	}
	for _, m := range members {
		if m.Seen.Before(time.Now().Add(-3 * time.Second)) {
			return false
		}
	}
	return len(members) == n
}

func (w *town) member(id string) api.MemberInfo {
	w.Helper()
	return must(w.admin.Member(w.Context(), fleet.MemberID(id)))(w.T)
}

// watch fails the test when members stop reporting before the function that it
// returns is called.
func (w *town) watch(n int) (end func()) {
	ctx, cancel := context.WithCancel(w.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		quiet := 0
		for ctx.Err() == nil {
			if quiet++; w.reporting(n) {
				quiet = 0
			}
			if quiet == 100 && ctx.Err() == nil { // 10 s besides the 3 s above: less than half a certificate's life
				w.Error("members stopped reporting")
			}
			<-time.After(100 * time.Millisecond)
		}
	}()
	return func() { cancel(); <-done }
}

func (w *town) token(r api.TokenRequest) string {
	w.Helper()
	return must(w.admin.CreateToken(w.Context(), r))(w.T).Text
}

// cas are the device CAs, as the coordinator sees them.
func (w *town) cas() map[fleet.Digest]api.DeviceCAInfo {
	out := map[fleet.Digest]api.DeviceCAInfo{}
	info, err := w.admin.Fleet(w.Context())
	if err != nil {
		return out
	}
	for _, c := range info.DeviceCAs {
		out[c.Fingerprint] = c
	}
	return out
}

// A device CA's whole life with agents that share and report throughout: one more is
// listed, members move over to it ahead of their time, the old one goes; then that
// one is stolen and goes at once, and every member comes back by its key.
func TestTheDeviceCAIsReplacedUnderARunningFleet(t *testing.T) {
	t.Parallel()
	const n = 3
	w := newTown(t)
	w.serve()
	token := w.token(api.TokenRequest{Uses: n})
	for i := range n {
		id := fmt.Sprintf("dev-%d", i)
		w.start(id, id, token)
	}
	w.until("all report", func() bool { return w.reporting(n) })
	old := must(w.admin.Fleet(t.Context()))(t).DeviceCAs[0].Fingerprint
	end := w.watch(n)
	second, secondPEM := w.deviceCA("device-ca-2")
	w.list(w.first, secondPEM)
	w.until("all moved to the second CA", func() bool { c := w.cas(); return c[second].Issues && c[second].Members == n && c[old].Members == 0 })
	w.list(secondPEM)
	w.until("the first CA is gone", func() bool { _, still := w.cas()[old]; return !still })
	generation := w.member("dev-0").Certificate.Generation
	w.until("members renew under the second CA", func() bool { return w.member("dev-0").Certificate.Generation > generation })
	w.until("some reports come by gossip", func() bool {
		members, err := w.admin.Members(t.Context(), fleet.Selector{})
		return err == nil && slices.ContainsFunc(members, func(m api.MemberInfo) bool { return m.Via != "direct" })
	})
	third, thirdPEM := w.deviceCA("device-ca-3")
	w.list(thirdPEM) // the second one was stolen
	w.until("all came back", func() bool { return w.cas()[third].Members == n })
	w.until("and report", func() bool { return w.reporting(n) })
	end()
	for i := range n {
		if m := w.member(fmt.Sprintf("dev-%d", i)); m.Certificate.Comebacks != 0 || m.Locked != "" {
			t.Errorf("%s: %+v, locked %q", m.Facts.ID, m.Certificate, m.Locked)
		}
	}
	returned := 0
	for _, e := range must(w.admin.Audit(t.Context(), 0, -100))(t) {
		if e.Action == audit.MemberReturned {
			returned++
		}
	}
	if returned != n {
		t.Errorf("%d members came back, by the audit log, want %d", returned, n)
	}
}

// A device that was off until its certificate had expired comes back by itself, and
// the operator hears of it. A copy of its folder locks the identity, and once the
// copy is gone and the operator said so, it comes back again.
func TestADeviceComesBackAndACopyIsLockedOut(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.serve()
	events := make(chan string, 1000)
	go func() {
		stream, cancel := context.WithCancel(t.Context())
		defer cancel()
		_ = w.admin.Events(stream, func(e api.Event) error {
			select {
			case events <- e.Kind + " " + e.Subject + " " + e.Text:
			default:
			}
			return nil
		})
	}()
	w.start("dev", "dev", w.token(api.TokenRequest{}))
	w.until("it reports", func() bool { return w.reporting(1) })
	w.agents["dev"]()
	before := w.member("dev").Certificate
	w.until("its certificate expired", func() bool { return time.Now().After(before.Expires) })
	w.start("dev", "dev", "")
	w.until("it is back", func() bool { return w.member("dev").Certificate.Comebacks == 1 && w.reporting(1) })
	w.agents["dev"]() // the copy is made while nobody writes there
	err := os.CopyFS(filepath.Join(w.dir, "copy"), os.DirFS(filepath.Join(w.dir, "dev")))
	if err == nil {
		err = os.Chmod(filepath.Join(w.dir, "copy", "identity", "key.pem"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.start("dev", "dev", "")
	w.start("copy", "dev", "")
	w.until("one of the two renewed after the other", func() bool { return w.member("dev").Locked != "" })
	w.agents["copy"]()
	m := w.member("dev")
	if !strings.Contains(m.Locked, "copied") {
		t.Errorf("locked: %s", m.Locked)
	}
	var kept identity.Identity
	b := must(os.ReadFile(filepath.Join(w.dir, "dev", "identity", "identity.json")))(t)
	if err := json.Unmarshal(b, &kept); err != nil {
		t.Fatal(err)
	}
	real := kept.Generation
	if err := w.admin.Unlock(t.Context(), "dev", api.UnlockRequest{Certificate: fleet.DigestOf(kept.Certificate).String(), Reason: "the copy is gone"}); err != nil {
		t.Fatal(err)
	}
	w.until("it is back after the lock", func() bool { return w.reporting(1) && w.member("dev").Certificate.Generation > real })
	w.start("copy", "dev", "")
	w.until("the copy locks it again", func() bool { return w.member("dev").Locked != "" })
	var heard []string
	for len(events) > 0 {
		heard = append(heard, <-events)
	}
	for _, want := range []string{"alarm dev came back by its key", "alarm dev locked: "} {
		if !slices.ContainsFunc(heard, func(e string) bool { return strings.HasPrefix(e, want) }) {
			t.Errorf("no event %q in %q", want, heard)
		}
	}
}

// The listener's key is replaced by the one whose pin members have known for long:
// none of them has to be touched.
func TestTheListenersKeyIsReplacedUnderARunningFleet(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.serve()
	w.start("dev", "dev", w.token(api.TokenRequest{}))
	w.until("it reports", func() bool { return w.reporting(1) })
	for range 2 {
		old := w.addr.Pin
		generation := w.member("dev").Certificate.Generation
		w.stop()
		if err := os.Rename(filepath.Join(w.opts.Data, "tls-next.pem"), filepath.Join(w.opts.Data, "tls.pem")); err != nil {
			t.Fatal(err)
		}
		w.serve()
		if w.addr.Pin == old {
			t.Fatal("the key is the same")
		}
		w.until("it reports to the other key", func() bool { return w.reporting(1) })
		w.until("it renews and learns the next pin", func() bool { return w.member("dev").Certificate.Generation > generation })
	}
}

// A device whose token asks for approval shows the same fingerprint as the
// coordinator, waits however long, and is in once an operator says so.
func TestADeviceWaitsForApproval(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	w.serve()
	w.start("dev", "dev", w.token(api.TokenRequest{Approve: true}))
	var waiting []api.PendingMember
	w.until("it waits", func() bool {
		waiting = must(w.admin.Pending(t.Context()))(t)
		return len(waiting) == 1
	})
	key := must(signer.Load(t.Context(), filepath.Join(w.dir, "dev", "identity", "key.pem")))(t)
	if name := must(identity.Fingerprint(key.ECDSA()))(t); waiting[0].Fingerprint != name || waiting[0].State != api.Waiting {
		t.Errorf("waits as %+v, its key is %s", waiting[0], name)
	}
	if err := w.admin.ApproveMember(t.Context(), "dev", api.ApprovalRequest{Fingerprint: waiting[0].Fingerprint}); err != nil {
		t.Fatal(err)
	}
	w.until("it reports", func() bool { return w.reporting(1) })
}
