package coordinator_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/gossip"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
)

// flaky is a bucket that cannot be written to while down is set.
type flaky struct {
	*dir.Store
	down *atomic.Bool
}

var errDown = fault.Newf(fault.Transient, "write object", "", "the bucket is away")

func (f flaky) Create(ctx context.Context, key string, b registry.Body) (bool, error) {
	if f.down.Load() {
		return false, errDown
	}
	return f.Store.Create(ctx, key, b)
}

func (f flaky) Swap(ctx context.Context, key string, b []byte, etag string) (string, error) {
	if f.down.Load() {
		return "", errDown
	}
	return f.Store.Swap(ctx, key, b, etag)
}

func (w *world) newestDirective() uint64 {
	return must(w.admin.Fleet(w.t.Context()))(w.t).Directive
}

func TestWhatWasDecidedBeforeACrashIsPublishedAfterIt(t *testing.T) {
	w := newWorld(t)
	down := new(atomic.Bool)
	w.opts.Store = flaky{w.bucket, down}
	w.start()
	d := w.join(1)[0]
	rel := w.admit("1.0.0")
	act := map[fleet.Digest]behaviour{rel.Variants[0].Root: {requests: 1}}
	w.eventually("the admission is published", func() bool {
		return strings.Contains(w.logs.String(), "trust pack renewed")
	})
	down.Store(true)
	must(w.admin.StartRollout(t.Context(), api.RolloutRequest{Model: model, Version: "1.0.0", Spec: []byte(quick)}))(t)
	w.eventually("the rollout's first directive is decided", func() bool { return w.newestDirective() == 2 })
	if resp := w.plain("GET", "/readyz", ""); resp.StatusCode != 503 {
		w.eventually("it says that it is not ready", func() bool { return w.plain("GET", "/readyz", "").StatusCode == 503 })
	}
	ok(t, d.pull(act))
	if !d.running.IsZero() {
		t.Fatal("a member saw a directive that is not in the bucket")
	}
	ok(t, w.stop())
	down.Store(false)
	w.start()
	d.client = d.dial()
	w.eventually("the member runs the release", func() bool {
		beat(t, []*device{d}, act)
		return d.running == rel.Variants[0].Root
	})
	w.checkAudit("directive.issued", "pack.published")
	issued := 0
	for _, e := range must(w.admin.Audit(t.Context(), 0, 0))(t) {
		if e.Action == "directive.issued" && strings.HasPrefix(e.Reason, "directive 2:") {
			issued++
		}
	}
	if issued != 1 {
		t.Errorf("directive 2 was issued %d times", issued)
	}
}

func TestALostStoreGoesOnFromWhatMembersHave(t *testing.T) {
	w := newWorld(t)
	w.start()
	ds := w.join(2)
	rel := w.admit("1.0.0")
	act := map[fleet.Digest]behaviour{rel.Variants[0].Root: {requests: 1}}
	w.roll(ds, "1.0.0", act)
	before := uint64(0)
	w.eventually("members have the newest directive", func() bool {
		before = w.newestDirective() // one more may come when the rollout is over
		beat(t, ds, act)
		return ds[0].state.Sequence == before && ds[1].state.Sequence == before
	})
	ok(t, w.stop())
	files := must(filepath.Glob(filepath.Join(w.opts.Data, "coordinator.db*")))(t)
	for _, f := range files {
		ok(t, os.Remove(f))
	}
	w.start()
	if after := w.newestDirective(); after <= before {
		t.Errorf("directive %d after %d", after, before)
	}
	if got := must(w.admin.Releases(t.Context()))(t); len(got) != 1 || got[0].Release.Ref() != "detector@1.0.0" {
		t.Errorf("releases %+v", got)
	}
	d := w.join2(t)
	ok(t, d.pull(act))
	if d.running != rel.Variants[0].Root {
		t.Error("a new member does not run what is stable")
	}
	for _, old := range ds { // a pack of the new store is no older than the one they saw
		old.client, old.etag = d.client, ""
		ok(t, old.pull(act))
	}
}

// identify is what a member makes of a peer's certificate.
func identify(caCert []byte) func([]byte) (gossip.Identity, error) {
	return func(der []byte) (gossip.Identity, error) {
		root, err := x509.ParseCertificate(caCert)
		if err != nil {
			return gossip.Identity{}, err
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return gossip.Identity{}, err
		}
		if err := cert.CheckSignatureFrom(root); err != nil {
			return gossip.Identity{}, err
		}
		kind, id, _ := strings.Cut(strings.TrimPrefix(cert.URIs[0].Path, "/"), "/")
		return gossip.Identity{Member: fleet.MemberID(id), Key: cert.PublicKey.(*ecdsa.PublicKey), Coordinator: kind == "coordinator"}, nil
	}
}

func TestRowsComeStraightFromTheCell(t *testing.T) {
	w := newWorld(t)
	w.opts.JoinCell, w.opts.GossipBind = "site0", "127.0.0.1:0"
	w.start()
	d := w.join(1)[0]
	if d.cell.ID != "site0/0" || !slices.Contains(d.cell.Seeds, w.addr.Gossip) {
		t.Fatalf("cell %+v, want the coordinator at %s among its seeds", d.cell, w.addr.Gossip)
	}
	caCert := must(d.client.Renew(t.Context(), api.RenewRequest{CSR: csr(t, d.key), Generation: 1}))(t).DeviceCA
	acked, packs := make(chan gossip.Ack, 16), make(chan gossip.Pack, 16)
	pool := must(gossip.Open(gossip.Options{
		Fleet: fleetName, Cell: d.cell.ID, Member: d.facts.ID, Group: d.facts.Group, Signer: d.key, Certificate: d.cert,
		Identify: identify(caCert), Keys: [][]byte{d.cell.Key}, Bind: "127.0.0.1:0", Seeds: d.cell.Seeds,
		Handlers: gossip.Handlers{
			OnMessage: nil,
			OnAck:     func(a gossip.Ack) { acked <- a },
			OnPack:    func(p gossip.Pack) (uint64, error) { packs <- p; return p.Version, nil },
		},
	}))(t)
	defer pool.Close()
	w.eventually("the coordinator is the relay", func() bool { return slices.Contains(pool.Relays(), "coordinator") })
	select {
	case p := <-packs:
		if p.Version == 0 || len(p.Body) == 0 {
			t.Errorf("pack %d of %d bytes", p.Version, len(p.Body))
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("no pack came down the cell")
	}
	row := d.messages(time.Now())[0]
	w.eventually("the row is acked", func() bool {
		must(pool.Send(row))(t)
		select {
		case <-acked:
			return true
		default:
			return false
		}
	})
	m := must(w.admin.Member(t.Context(), d.facts.ID))(t)
	if m.Via != "gossip" || m.Seen.IsZero() {
		t.Errorf("heard by %q at %v", m.Via, m.Seen)
	}
}
