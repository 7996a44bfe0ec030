package coordinator_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/modelfleet/modelfleet/coordinator"
	"github.com/modelfleet/modelfleet/coordinator/cli/auditor"
	"github.com/modelfleet/modelfleet/infra/proctest"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// What lies in the bucket is enough to check the log and to reach every verdict
// again, without the coordinator and for whoever holds an earlier checkpoint.
func TestTheLogVerifiesFromTheBucketAlone(t *testing.T) {
	w := newWorld(t)
	w.start()
	ds := w.join(6)
	act := map[fleet.Digest]behaviour{w.admit("1.0.0").Variants[0].Root: {requests: 3}}
	w.roll(ds, "1.0.0", act)
	earlier := must(w.admin.AuditCheckpoint(t.Context()))(t)
	act[w.admit("2.0.0").Variants[0].Root] = behaviour{fails: true}
	w.roll(ds, "2.0.0", act)
	for _, d := range ds {
		ok(t, d.pull(act))
		if d.state.Audit.Head.Size == 0 || d.state.Audit.Split != nil {
			t.Errorf("%s knows of the log: %+v", d.facts.ID, d.state.Audit)
		}
	}
	ok(t, w.stop())
	src := must(auditor.Open(t.Context(), w.get, w.root))(t)
	r := must(src.Verify(t.Context(), earlier.Note))(t)
	if r.Entries == 0 || r.Since == 0 || r.Since >= r.Entries || r.Verdicts < 2 || r.Directives < 4 || r.Details == 0 {
		t.Errorf("report %+v", r)
	}
	proof, e, err := src.Entry(t.Context(), r.Entries-1)
	ok(t, err)
	if _, got, err := proof.Check(must(ledger.ParseKey(earlier.Key))(t)); err != nil || got.Action != e.Action {
		t.Errorf("entry %+v: %v", e, err)
	}
}

// A member that was shown another log says so in its rows; one that has the signed
// checkpoint hands it over. Both are evidence, kept once.
func TestAnotherHistoryRaisesTheAlarm(t *testing.T) {
	w := newWorld(t)
	w.start()
	ds := w.join(2)
	act := map[fleet.Digest]behaviour{}
	beat(t, ds, act)
	if got := must(w.admin.AuditSplits(t.Context()))(t); len(got) != 0 {
		t.Fatalf("split views of an honest log: %+v", got)
	}
	for range 2 {
		ds[0].rec.SetMember(telemetry.MemberState{Freshness: telemetry.Fresh, Log: telemetry.LogHead{Size: 1, Root: [16]byte{9}}})
		must(ds[0].serve(act))(t)
	}
	signer, _, err := ledger.LoadKey(filepath.Join(w.opts.Fleet, "keys", "audit.key"), fleetName)
	ok(t, err)
	forged := must(ledger.Checkpoint{Origin: signer.Name(), Size: 1, Root: tlog.Hash{7}}.Sign(signer))(t)
	for range 2 {
		ok(t, ds[1].client.AuditWitness(t.Context(), api.AuditWitness{Notes: []string{ds[1].state.Audit.Head.Note, forged}}))
	}
	if err := ds[1].client.AuditWitness(t.Context(), api.AuditWitness{Notes: []string{"x"}}); !fault.Is(err, fault.Untrusted) {
		t.Errorf("what the log's key did not sign: %v", err)
	}
	got := must(w.admin.AuditSplits(t.Context()))(t)
	if len(got) != 2 || got[0].Member != ds[0].facts.ID || len(got[0].Row) == 0 || got[1].Theirs != forged || got[1].Ours == "" {
		t.Fatalf("evidence %+v", got)
	}
	if err := must(telemetry.ParseMessage(got[0].Row))(t).Verify(fleetName, ds[0].key.ECDSA()); err != nil {
		t.Errorf("the row that is kept as evidence: %v", err)
	}
	w.checkAudit("audit.split")
	token := must(api.LoadContext(filepath.Join(w.opts.Data, "admin.context.json")))(t).Token
	body := must(io.ReadAll(w.plain("GET", "/metrics", "", "Authorization", "Bearer "+token).Body))(t)
	if !strings.Contains(string(body), "modelfleet_coordinator_audit_splits 2") {
		t.Error("/metrics does not count them")
	}
	from := ds[1].state.Audit.Head
	proof := must(w.admin.AuditConsistency(t.Context(), 1, from.Size))(t)
	if len(proof.Path) == 0 {
		t.Error("no proof of consistency")
	}
	if _, err := w.admin.AuditConsistency(t.Context(), 1, from.Size+1000); !fault.Is(err, fault.Invalid) {
		t.Errorf("a proof to a size that is not there: %v", err)
	}
}

// A store that was restored from an old copy takes the log from the bucket, and
// goes no way of its own.
func TestARestoredStoreDoesNotForkTheLog(t *testing.T) {
	w := newWorld(t)
	w.start()
	ds := w.join(2)
	rel := w.admit("1.0.0")
	ok(t, w.stop())
	db := filepath.Join(w.opts.Data, "coordinator.db")
	old := must(os.ReadFile(db))(t)
	w.start()
	for _, d := range ds {
		d.client = d.dial()
	}
	w.roll(ds, "1.0.0", map[fleet.Digest]behaviour{rel.Variants[0].Root: {requests: 1}})
	ok(t, w.stop())
	ok(t, os.WriteFile(db, old, 0o600))
	for _, f := range must(filepath.Glob(db + "-*"))(t) {
		ok(t, os.Remove(f))
	}
	err := coordinator.Run(t.Context(), w.opts)
	if !fault.Is(err, fault.Conflict) || !strings.Contains(fault.Hint(err), "coordinator.db") {
		t.Errorf("started with an old store: %v (next: %s)", err, fault.Hint(err))
	}
	ok(t, os.Remove(db))
	w.start()
	for _, d := range ds {
		d.client = d.dial()
		if err := d.pull(nil); err != nil {
			t.Errorf("a member that knew the log before: %v", err)
		}
	}
	w.checkAudit("rollout.verdict")
}

// killed ends a start when it says something.
type killed struct {
	slog.Handler
	says string
	kill context.CancelFunc
}

func (k killed) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == k.says {
		k.kill()
	}
	return k.Handler.Handle(ctx, r)
}

// What a restored store forgot of its members is read from the log, also when the start
// that took the log from the bucket was cut short right after that.
func TestAnInterruptedRestoreIsFinished(t *testing.T) {
	w := newWorld(t)
	w.start()
	d := w.join(1)[0]
	ok(t, w.stop())
	db := filepath.Join(w.opts.Data, "coordinator.db")
	old := must(os.ReadFile(db))(t)
	w.start()
	d.client = d.dial()
	must(d.client.Renew(t.Context(), api.RenewRequest{CSR: csr(t, d.key), Generation: 1}))(t)
	ok(t, w.stop())
	checkpoint := func() string {
		body, _, err := w.bucket.Get(t.Context(), ledger.CheckpointKey, "")
		ok(t, err)
		return string(body)
	}
	before := checkpoint()
	w.start() // which publishes the log at once
	w.eventually("the renewal is in the bucket's log", func() bool { return checkpoint() != before })
	ok(t, w.stop())
	ok(t, os.WriteFile(db, old, 0o600))
	for _, f := range must(filepath.Glob(db + "-*"))(t) {
		ok(t, os.Remove(f))
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := w.opts
	o.Logger = slog.New(killed{w.opts.Logger.Handler(), "audit log taken from the bucket, the store lacked a part", cancel})
	_ = coordinator.Run(ctx, o) // however it ends
	read := func() bool {
		return proctest.HasLine(w.logs.String(), "member is as the audit log says", "generation=2")
	}
	if ctx.Err() == nil || read() {
		t.Fatal("the start was not cut short when the log was taken from the bucket")
	}
	w.start()
	if !read() {
		t.Error("the inventory did not read it")
	}
}

// A key that the policy does not list signs nothing.
func TestTheAuditKeyIsThePolicys(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.opts.Fleet, "keys", "audit.key")
	private, _, err := ledger.NewKey(fleetName)
	ok(t, err)
	ok(t, os.WriteFile(path, []byte(private), 0o600))
	if err := coordinator.Run(t.Context(), w.opts); trust.RuleOf(err) != trust.RuleAudit || !strings.Contains(fmt.Sprint(fault.Hint(err)), "-audit-key") {
		t.Errorf("another key: %v", err)
	}
	ok(t, os.Remove(path))
	if err := coordinator.Run(t.Context(), w.opts); trust.RuleOf(err) != trust.RuleAudit || !strings.Contains(fmt.Sprint(err), path) {
		t.Errorf("no key: %v", err)
	}
}

// The machine is gone with its disk, and with the audit key: a new one goes on with
// what the bucket holds, under the key that the policy lists now.
func TestALostMachineGoesOnUnderAnotherAuditKey(t *testing.T) {
	var keeper []signature.Signer
	w := newWorld(t, func(o *repository.InitOptions) { keeper = o.Root })
	w.start()
	ds := w.join(1)
	rel := w.admit("1.0.0")
	w.roll(ds, "1.0.0", map[fleet.Digest]behaviour{rel.Variants[0].Root: {requests: 1}})
	w.eventually("what was decided is in the bucket", func() bool {
		p, named := ds[0].trusted().Directive.Placement(model)
		return named && p.Stable != nil
	})
	ok(t, w.stop())

	private, public, err := ledger.NewKey(fleetName)
	ok(t, err)
	ok(t, os.WriteFile(filepath.Join(w.opts.Fleet, "keys", "audit.key"), []byte(private+"\n"), 0o600))
	policy, _, err := w.bucket.Get(t.Context(), trust.MetadataKey("targets", 1), "")
	ok(t, err)
	w.put(must(repository.NextPolicy(policy, repository.PolicyChange{AuditKey: public}, time.Now(), repository.Lifetimes{}, keeper...))(t)...)
	for _, f := range must(filepath.Glob(filepath.Join(w.opts.Data, "coordinator.db*")))(t) {
		ok(t, os.Remove(f))
	}
	w.start()
	d := ds[0]
	d.client = d.dial()
	ok(t, d.pull(nil))
	if key := d.state.Audit.Key; strings.TrimSpace(key) != public {
		t.Errorf("the member believes a log of key %s, want %s", key, public)
	}
	w.checkAudit("rollout.verdict")
}

// Junk that somebody put over the timestamp is noticed without a publication: a
// person is called, it is on record and counted, and it is put right.
func TestJunkInTheBucketCallsAPerson(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.opts.Reload = 50 * time.Millisecond
	w.start()
	alarms := w.alarms()
	key := trust.MetadataKey("timestamp", 0)
	var was []byte
	w.eventually("there is a timestamp", func() bool {
		var err error
		was, err = w.get(t.Context(), key)
		return err == nil
	})
	_, etag, err := w.bucket.Get(t.Context(), key, "")
	ok(t, err)
	must(w.bucket.Swap(t.Context(), key, []byte("junk"), etag))(t)
	w.eventually("it is put right", func() bool { return string(must(w.get(t.Context(), key))(t)) == string(was) })
	w.eventually("a person is called", func() bool {
		return strings.Contains(alarms(), key+": the bucket was tampered with: somebody else put 4 bytes there")
	})
	resp := w.plain("GET", "/metrics", "", "Authorization", "Bearer "+must(api.LoadContext(filepath.Join(w.opts.Data, "admin.context.json")))(t).Token)
	defer resp.Body.Close()
	if body := must(io.ReadAll(resp.Body))(t); !strings.Contains(string(body), "modelfleet_coordinator_bucket_tampered_total 1\n") {
		t.Errorf("not counted: status %d", resp.StatusCode)
	}
	if !slices.ContainsFunc(must(w.admin.Audit(t.Context(), 0, 0))(t), func(e api.AuditEntry) bool { return e.Action == "bucket.tampered" && e.Subject == key }) {
		t.Error("it is not on record")
	}
}
