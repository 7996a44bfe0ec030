package intake_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/modelfleet/modelfleet/coordinator/analysis"
	"github.com/modelfleet/modelfleet/coordinator/intake"
	"github.com/modelfleet/modelfleet/coordinator/rollout"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

const plant = "plant"

var (
	start  = time.Date(2026, 3, 4, 5, 0, 0, 0, time.UTC)
	stable = release("1.0.0")
	newer  = release("2.0.0")
)

func must[T any](v T, err error) func(rapid.TB) T {
	return func(t rapid.TB) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%v", err)
		}
		return v
	}
}

func release(version string) fleet.Release {
	return fleet.Release{Team: "vision", Model: "detector", Version: fleet.Version(version), Variants: []fleet.Variant{{Name: "default", Root: fleet.DigestOf([]byte(version)), Size: 1}}}
}

// members is a directory and a message store in memory.
type members struct {
	byKey map[telemetry.KeyID]store.Member
	pub   map[telemetry.KeyID]*ecdsa.PublicKey
	byID  map[fleet.MemberID]store.Member

	mu   sync.Mutex
	kept []store.Message
	fail error
}

func (m *members) ByKey(k telemetry.KeyID) (store.Member, *ecdsa.PublicKey, bool) {
	x, ok := m.byKey[k]
	return x, m.pub[k], ok
}

func (m *members) Member(id fleet.MemberID) (store.Member, bool) { x, ok := m.byID[id]; return x, ok }

func (m *members) Messages(context.Context) ([]store.Message, error) {
	return slices.Clone(m.kept), nil
}

func (m *members) SaveMessages(_ context.Context, ms []store.Message) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	for _, x := range ms {
		if !slices.ContainsFunc(m.kept, func(k store.Message) bool { return bytes.Equal(k.Bytes, x.Bytes) }) {
			m.kept = append(m.kept, x)
		}
	}
	return nil
}

func (m *members) KeepMessages(_ context.Context, keep map[fleet.Digest]bool) (int, error) {
	n := len(m.kept)
	m.kept = slices.DeleteFunc(m.kept, func(k store.Message) bool { return !keep[k.ID()] })
	return n - len(m.kept), nil
}

// device is one member that reports.
type device struct {
	t     rapid.TB
	id    fleet.MemberID
	key   *signer.Signer
	keyID telemetry.KeyID
	rec   *telemetry.Recorder
	epoch uint64
}

func newMembers(t rapid.TB, names ...fleet.MemberID) (*members, []*device) {
	m := &members{pub: map[telemetry.KeyID]*ecdsa.PublicKey{}, byKey: map[telemetry.KeyID]store.Member{}, byID: map[fleet.MemberID]store.Member{}}
	var ds []*device
	for _, id := range names {
		d := &device{t: t, id: id, key: must(signer.Ephemeral())(t)}
		d.keyID = must(telemetry.KeyIDOf(d.key.ECDSA()))(t)
		x := store.Member{Facts: facts(id), KeyID: d.keyID, PublicKey: must(x509.MarshalPKIXPublicKey(d.key.Public()))(t)}
		m.byKey[d.keyID], m.byID[id], m.pub[d.keyID] = x, x, d.key.ECDSA()
		d.restart()
		ds = append(ds, d)
	}
	return m, ds
}

func facts(id fleet.MemberID) fleet.Facts {
	return fleet.Facts{ID: id, Kind: fleet.Device, Group: fleet.DefaultGroup, Labels: fleet.Labels{"class": "x"}, Enrolled: start}
}

func (d *device) restart() {
	d.epoch++
	d.rec = must(telemetry.NewRecorder(telemetry.RecorderOptions{Key: d.keyID, Epoch: d.epoch, Window: time.Second, Sketch: time.Second}))(d.t)
}

func (d *device) run(at time.Time, running, target fleet.Release, roll fleet.RolloutID, arm fleet.Arm, phase fleet.Phase, failure fleet.FailureClass) {
	must(0, d.rec.SetModel("detector", at, telemetry.ModelState{
		Running: running.Variants[0].Root, Target: target.Variants[0].Root, Rollout: roll, Arm: arm, Phase: phase, Failure: failure,
	}))(d.t)
}

func (d *device) observe(at time.Time, n, errs int) {
	for i := range n {
		must(0, d.rec.Observe("detector", at, telemetry.Observation{Latency: 3 * time.Millisecond, Err: i < errs}))(d.t)
	}
}

func (d *device) row(at time.Time) []byte { return must(d.rec.Row(at).Sign(plant, d.key))(d.t) }

func newIntake(t rapid.TB, m *members) *intake.Intake {
	return must(intake.New(context.Background(), intake.Options{Fleet: plant, Store: m, Directory: m, Logger: slog.New(slog.DiscardHandler), Report: 10 * time.Second}))(t)
}

func requests(in *intake.Intake, d *device, r fleet.Release) uint64 {
	c, _, _ := in.Totals(d.keyID, telemetry.ModelPrefix("detector"), telemetry.ReleasePrefix(r.Variants[0].Root))
	return c.Requests
}

func TestTheSameRowThreeWaysCountsOnce(t *testing.T) {
	m, ds := newMembers(t, "a", "relay")
	in := newIntake(t, m)
	d := ds[0]
	d.run(start, stable, stable, "", fleet.NoArm, fleet.Healthy, fleet.NoFailure)
	d.observe(start, 7, 0)
	row := d.row(start)
	first := in.Add([][]byte{row}, "", start) // from gossip
	again := in.Add([][]byte{row, row}, "relay", start)
	third := in.Add([][]byte{row}, "a", start)
	if first.Accepted != 1 || again.Accepted+third.Accepted != 0 || again.Duplicate != 2 || third.Duplicate != 1 {
		t.Errorf("gossip %+v, relay %+v, direct %+v", first, again, third)
	}
	if got := requests(in, d, stable); got != 7 {
		t.Errorf("%d requests, want 7", got)
	}
	if got := third.Acked["a"]; got != 1 {
		t.Errorf("acked %d, want 1", got)
	}
	if rep, ok := in.Newest(d.keyID); !ok || rep.Via != intake.ViaGossip {
		t.Errorf("came by %q, want gossip", rep.Via)
	}
}

func TestNoScheduleOfDeliveryChangesATotal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, ds := newMembers(t, "a", "b")
		in := newIntake(t, m)
		want := map[fleet.MemberID]uint64{}
		var sent [][]byte
		at := start
		for range rapid.IntRange(1, 12).Draw(t, "rounds") {
			for _, d := range ds {
				at = at.Add(time.Second)
				if rapid.IntRange(0, 4).Draw(t, "restart") == 0 {
					d.restart()
				}
				d.run(at, stable, stable, "", fleet.NoArm, fleet.Healthy, fleet.NoFailure)
				n := rapid.IntRange(0, 5).Draw(t, "requests")
				d.observe(at, n, 0)
				want[d.id] += uint64(n)
				sent = append(sent, d.row(at))
			}
		}
		seed := rapid.Uint64().Draw(t, "schedule")
		rng := rand.New(rand.NewPCG(seed, 1))
		schedule := append(slices.Clone(sent), sent...)
		rng.Shuffle(len(schedule), func(i, j int) { schedule[i], schedule[j] = schedule[j], schedule[i] })
		for len(schedule) > 0 {
			n := min(1+rng.IntN(4), len(schedule))
			in.Add(schedule[:n], []fleet.MemberID{"", "a", "b"}[rng.IntN(3)], at)
			schedule = schedule[n:]
			if rng.IntN(6) == 0 { // the coordinator restarts
				must(0, in.Flush(context.Background()))(t)
				in = newIntake(t, m)
			}
			if rng.IntN(6) == 0 {
				must(0, in.Thin(context.Background(), at))(t)
			}
		}
		for _, d := range ds {
			if got := requests(in, d, stable); got != want[d.id] {
				t.Fatalf("%s counted %d requests, want %d", d.id, got, want[d.id])
			}
		}
	})
}

func TestOnlyTheMembersOwnSignatureCounts(t *testing.T) {
	m, ds := newMembers(t, "a", "b", "gone")
	in := newIntake(t, m)
	d := ds[0]
	d.run(start, stable, stable, "", fleet.NoArm, fleet.Healthy, fleet.NoFailure)
	good := d.row(start)
	forged := bytes.Clone(good)
	forged[20] ^= 1
	gone := m.byID["gone"]
	gone.Revoked = true
	m.byID["gone"], m.byKey[gone.KeyID] = gone, gone
	_, strangers := newMembers(t, "x")
	other := must(d.rec.Row(start).Sign("another fleet", d.key))(t)
	msgs := [][]byte{forged, other, strangers[0].row(start), ds[2].row(start), []byte("junk"), nil, good[:len(good)-1], good}
	res := in.Add(msgs, "b", start)
	if res.Accepted != 1 || len(res.Refused) != len(msgs)-1 {
		t.Errorf("accepted %d, refused %+v", res.Accepted, res.Refused)
	}
	for _, r := range res.Refused {
		if r.Reason == "" || len(r.Message) != 16 {
			t.Errorf("refusal %+v says too little", r)
		}
	}
}

func TestWhatIsNotKeptIsTriedAgain(t *testing.T) {
	m, ds := newMembers(t, "a")
	in := newIntake(t, m)
	m.fail = context.DeadlineExceeded
	in.Add([][]byte{ds[0].row(start)}, "a", start)
	if err := in.Flush(t.Context()); err == nil {
		t.Fatal("a failed write went unnoticed")
	}
	m.fail = nil
	if err := in.Flush(t.Context()); err != nil || len(m.kept) != 1 {
		t.Errorf("kept %d messages: %v", len(m.kept), err)
	}
}

// watch follows a rollout from stable to newer that began at start.
func watch(t *testing.T, in *intake.Intake, kept ...store.Standing) *intake.Watch {
	return must(in.Watch(intake.WatchOptions{ID: "r1", Release: newer, Stable: []fleet.Release{stable}, BurnIn: 10 * time.Second, Started: start, Standings: kept}))(t)
}

func find(ev analysis.Evidence, id fleet.MemberID) (analysis.Member, bool) {
	for _, m := range ev.Members {
		if m.ID == id {
			return m, true
		}
	}
	return analysis.Member{}, false
}

func TestEvidenceLeavesOutThePastAndTheBurnIn(t *testing.T) {
	m, ds := newMembers(t, "exposed", "control", "told")
	in := newIntake(t, m)
	all := []fleet.Facts{facts("exposed"), facts("control"), facts("told")}
	add := func(d *device, at time.Time) { in.Add([][]byte{d.row(at)}, d.id, at) }
	for _, d := range ds { // before the rollout
		d.run(start.Add(-time.Hour), stable, stable, "", fleet.NoArm, fleet.Healthy, fleet.NoFailure)
		d.observe(start.Add(-time.Hour), 40, 4)
		add(d, start.Add(-time.Minute))
	}
	w := watch(t, in)
	ds[0].run(start, newer, newer, "r1", fleet.Exposed, fleet.Soaking, fleet.NoFailure)
	ds[1].run(start, stable, stable, "r1", fleet.Control, fleet.Healthy, fleet.NoFailure)
	ds[2].run(start, stable, newer, "r1", fleet.Exposed, fleet.Downloading, fleet.NoFailure)
	step := func(at time.Time) analysis.Evidence {
		for _, d := range ds {
			d.observe(at, 10, 1)
			add(d, at)
		}
		return w.Evidence(all, at)
	}
	step(start.Add(time.Second))
	step(start.Add(11 * time.Second)) // the burn-in ends: what was counted so far is left out
	ev := step(start.Add(20 * time.Second))
	if _, ok := find(ev, "told"); ok {
		t.Error("a member that has not switched is in the evidence")
	}
	for id, arm := range map[fleet.MemberID]fleet.Arm{"exposed": fleet.Exposed, "control": fleet.Control} {
		got, ok := find(ev, id)
		if !ok || got.Arm != arm || got.Pre.Requests != 40 || got.Pre.Errors != 4 || got.Post.Requests != 10 || got.Post.Errors != 1 || !got.Since.Equal(start) {
			t.Errorf("%s: %+v", id, got)
		}
	}
	kept := must(w.Changed())(t)
	again := watch(t, in, kept...).Evidence(all, start.Add(20*time.Second))
	if a, b := must(encode(ev))(t), must(encode(again))(t); !bytes.Equal(a, b) {
		t.Errorf("evidence changed by a restart:\n%s\n%s", a, b)
	}
}

func TestTransportNeverCounts(t *testing.T) {
	for class, failed := range map[fleet.FailureClass]bool{fleet.TransportFailure: false, fleet.MemberFailure: false, fleet.ReleaseFailure: true} {
		m, ds := newMembers(t, "a")
		in := newIntake(t, m)
		w := watch(t, in)
		ds[0].run(start, stable, newer, "r1", fleet.Exposed, fleet.Failed, class)
		in.Add([][]byte{ds[0].row(start)}, "a", start.Add(time.Second))
		got, ok := find(w.Evidence([]fleet.Facts{facts("a")}, start.Add(time.Second)), "a")
		if ok != failed || got.Failed != failed {
			t.Errorf("%s: in the evidence %v, failed %v; want %v", class, ok, got.Failed, failed)
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	m, ds := newMembers(b, "a", "b", "c", "d")
	in := newIntake(b, m)
	const size = 256
	var batches [][][]byte
	for range 64 {
		var batch [][]byte
		for i := range size {
			d := ds[i%len(ds)]
			d.run(start, stable, stable, "", fleet.NoArm, fleet.Healthy, fleet.NoFailure)
			d.observe(start, 1, 0)
			batch = append(batch, d.row(start))
		}
		batches = append(batches, batch)
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if n%len(batches) == 0 {
			b.StopTimer()
			in = newIntake(b, m)
			b.StartTimer()
		}
		in.Add(batches[n%len(batches)], "", start)
		n++
	}
	b.ReportMetric(float64(n*size)/b.Elapsed().Seconds(), "rows/s")
}

func encode(v any) ([]byte, error) { return json.Marshal(v) }

// What the gates of an earlier rollout failed did not fail on the member, and a
// retry does not take it for refused before the member has heard of it.
func TestTheGatesQuarantineIsNoFailureOfTheMember(t *testing.T) {
	m, ds := newMembers(t, "a")
	in := newIntake(t, m)
	w := watch(t, in)
	retry := must(in.Watch(intake.WatchOptions{ID: "r2", Release: newer, Stable: []fleet.Release{stable}, Started: start, Retry: true}))(t)
	all := []fleet.Facts{facts("a")}
	spec := fleet.Spec{Stages: []fleet.Stage{{Name: "all", Percent: 100}}}
	observe := func(w *intake.Watch, id, of fleet.RolloutID, code telemetry.FailureCode) (quarantined, failed bool) {
		must(0, ds[0].rec.SetModel("detector", start, telemetry.ModelState{
			Running: stable.Variants[0].Root, Target: newer.Variants[0].Root, Rollout: of, Arm: fleet.Exposed,
			Phase: fleet.Quarantined, Failure: fleet.ReleaseFailure, Code: code,
		}))(t)
		in.Add([][]byte{ds[0].row(start)}, "a", start)
		got, _ := find(w.Evidence(all, start), "a")
		return w.Observe(rollout.NewRoster(id, newer, spec, all), start)[0].Quarantined, got.Failed
	}
	if q, failed := observe(w, "r1", "r1", telemetry.CodeGate); !q || failed {
		t.Errorf("by the gates: quarantined %v, failed %v", q, failed)
	}
	if q, _ := observe(retry, "r2", "r1", telemetry.CodeGate); q {
		t.Error("a retry is refused by a member that has not heard of it")
	}
	if q, failed := observe(retry, "r2", "r2", telemetry.CodeSelfTest); !q || !failed {
		t.Errorf("by the member in the retry: quarantined %v, failed %v", q, failed)
	}
}

// A member that restarts without end, and one that makes things up, cost no more
// than a bounded part of memory and disk; what counts now goes on counting.
func TestWhatIsKeptOfOneMemberIsBounded(t *testing.T) {
	m, ds := newMembers(t, "a", "b")
	in := newIntake(t, m)
	a, b := ds[0], ds[1]
	b.run(start, stable, stable, "", fleet.NoArm, fleet.Healthy, fleet.NoFailure)
	b.observe(start, 5, 0)
	in.Add([][]byte{b.row(start)}, "b", start)
	var first []byte
	const starts = 600
	for i := range starts {
		at := start.Add(time.Duration(i) * time.Second)
		a.run(at, stable, stable, "", fleet.NoArm, fleet.Healthy, fleet.NoFailure)
		a.observe(at, 1, 0)
		row := a.row(at)
		if first == nil {
			first = row
		}
		if res := in.Add([][]byte{row}, "a", at); res.Accepted != 1 {
			t.Fatalf("start %d: %+v", i, res)
		}
		a.restart()
	}
	must(0, in.Thin(context.Background(), start.Add(starts*time.Second)))(t)
	if n := len(m.kept); n > 300 {
		t.Errorf("%d messages are kept of two members", n)
	}
	total := requests(in, a, stable)
	if res := in.Add([][]byte{first}, "a", start); res.Accepted != 0 || requests(in, a, stable) != total {
		t.Errorf("a start long forgotten was counted anew: %+v", res)
	}
	if rep, ok := in.Newest(a.keyID); !ok || rep.Row.Epoch != starts || total == 0 {
		t.Errorf("newest row of epoch %d, want %d; %d requests", rep.Row.Epoch, starts, total)
	}
	if got := requests(in, b, stable); got != 5 {
		t.Errorf("%d requests of the other member, want 5", got)
	}
}

func TestWindowsOfNoTimeAreRefused(t *testing.T) {
	m, ds := newMembers(t, "a")
	in := newIntake(t, m)
	d := ds[0]
	for name, w := range map[string]telemetry.WindowKey{
		"old":     {Index: uint64(start.Unix()-7300) / 10, Width: 10},
		"ahead":   {Index: uint64(start.Unix()+7300) / 10, Width: 10},
		"endless": {Index: 1<<48 - 1, Width: 10},
		"long":    {Index: 1, Width: 1 << 47},
		"wrapped": {Index: 1<<48 - 1, Width: 1 << 48},
	} {
		sketch := &telemetry.Sketch{}
		sketch.Add(1)
		w.Key, w.Epoch, w.Metric = d.keyID, 1, telemetry.Latency
		raw := must(telemetry.Window{WindowKey: w, Sketch: sketch}.Sign(plant, d.key))(t)
		if res := in.Add([][]byte{raw}, "a", start); len(res.Refused) != 1 {
			t.Errorf("%s: %+v", name, res)
		}
	}
}

// A function that falls silent is not heard for a while before no rollout counts it.
func TestASilentFunctionIsCountedForAWhile(t *testing.T) {
	t.Parallel()
	ms, _ := newMembers(t, "a")
	in := newIntake(t, ms)
	heard := intake.Report{Received: start}
	for after, gone := range map[time.Duration]bool{0: false, 4 * time.Minute: false, 5 * time.Minute: false, 6 * time.Minute: true} {
		if got := in.Gone(heard, start.Add(after)); got != gone {
			t.Errorf("after %s it is gone: %t", after, got)
		}
	}
	if in.Reachable(heard, start.Add(4*time.Minute)) {
		t.Error("it is heard yet")
	}
}
