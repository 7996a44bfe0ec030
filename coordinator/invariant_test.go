package coordinator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modelfleet/modelfleet/coordinator/analysis"
	"github.com/modelfleet/modelfleet/coordinator/store/sqlite"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// witness is a bucket that looks into the audit log, as it lies on the disk,
// whenever a pack is about to become visible.
type witness struct {
	*dir.Store
	w *world

	mu      sync.Mutex
	packs   int
	missing []string
}

func (x *witness) Swap(ctx context.Context, key string, body []byte, etag string) (string, error) {
	if strings.HasPrefix(key, "packs/") {
		x.look(ctx, body)
	}
	return x.Store.Swap(ctx, key, body, etag)
}

func (x *witness) look(ctx context.Context, body []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.packs++
	fail := func(err error) bool {
		if err != nil {
			x.missing = append(x.missing, err.Error())
		}
		return err != nil
	}
	trusted, _, err := trust.Verify(body, trust.State{Root: x.w.root}, fleet.Facts{Group: fleet.DefaultGroup}, time.Now())
	if fail(err) {
		return
	}
	ctx = context.WithoutCancel(ctx) // the coordinator may be stopping; what it shows is looked at all the same
	st, err := sqlite.Open(ctx, filepath.Join(x.w.opts.Data, "coordinator.db"))
	if fail(err) {
		return
	}
	defer st.Close()
	log, err := st.Audit(ctx, 0, 1000)
	if fail(err) {
		return
	}
	has := func(action, subject, reason string) {
		for _, e := range log {
			if e.Action == action && (subject == "" || e.Subject == subject) && strings.HasPrefix(e.Reason, reason) {
				return
			}
		}
		x.missing = append(x.missing, fmt.Sprintf("pack %d: no %s of %s %s", x.packs, action, subject, reason))
	}
	if n := trusted.Directive.Sequence; n > 0 {
		has("directive.issued", "", fmt.Sprintf("directive %d:", n))
	}
	for _, p := range trusted.Directive.Models {
		for _, r := range p.Releases() {
			has("release.admitted", r.Ref(), "")
		}
		if p.Rollout != nil {
			has("rollout.started", string(p.Rollout.ID), "")
			has("rollout.decided", string(p.Rollout.ID), "")
		}
	}
}

func TestNoMemberSeesADecisionThatIsNotInTheAuditLog(t *testing.T) {
	w := newWorld(t)
	x := &witness{Store: w.bucket, w: w}
	w.opts.Store = x
	w.start()
	ds := w.join(6)
	act := map[fleet.Digest]behaviour{w.admit("1.0.0").Variants[0].Root: {requests: 3}}
	w.roll(ds, "1.0.0", act)
	act[w.admit("2.0.0").Variants[0].Root] = behaviour{fails: true}
	w.rollBy(byEvidence, ds, "2.0.0", act)
	ok(t, w.stop())
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.packs < 6 {
		t.Errorf("looked at %d packs only", x.packs)
	}
	for _, m := range x.missing {
		t.Error(m)
	}
}

// What the audit log holds of a verdict is enough to reach it again, to the byte.
func TestRecordedVerdictsAreReachedAgain(t *testing.T) {
	w := newWorld(t)
	w.start()
	ds := w.join(6)
	act := map[fleet.Digest]behaviour{w.admit("1.0.0").Variants[0].Root: {requests: 3}}
	w.roll(ds, "1.0.0", act)
	act[w.admit("2.0.0").Variants[0].Root] = behaviour{fails: true}
	w.rollBy(byEvidence, ds, "2.0.0", act)
	outcomes := map[string]int{}
	for _, e := range must(w.admin.Audit(t.Context(), 0, 0))(t) {
		if e.Action != "rollout.verdict" {
			continue
		}
		var rec struct {
			Verdict  json.RawMessage
			Config   analysis.Config
			Before   analysis.State
			Evidence analysis.Evidence
		}
		ok(t, json.Unmarshal(e.Detail, &rec))
		_, v := analysis.Evaluate(rec.Config, rec.Before, rec.Evidence)
		outcomes[string(v.Outcome)]++
		if got := must(json.Marshal(v))(t); !bytes.Equal(got, rec.Verdict) {
			t.Errorf("entry %d: recorded %s\nreached  %s", e.Index, rec.Verdict, got)
		}
	}
	if outcomes["fail"] == 0 || len(outcomes) < 2 {
		t.Errorf("looked at verdicts %v only", outcomes)
	}
}

// The publisher goes on while the coordinator is down in the middle of an
// admission. What the restart takes up with it is a decision like any other.
func TestAnAdmissionFinishedAfterARestartIsAuditedWhole(t *testing.T) {
	w := newWorld(t)
	down := new(atomic.Bool)
	w.opts.Store = flaky{w.bucket, down}
	w.opts.Tick = time.Hour // it is stopped before it has a publication to keep and to finish
	w.start()
	down.Store(true)
	w.admit("1.0.0")
	ok(t, w.stop())
	w.publish("2.0.0", w.publisher)
	down.Store(false)
	w.start()
	var admitted []string
	for _, e := range must(w.admin.Audit(t.Context(), 0, 0))(t) {
		if e.Action == "release.admitted" {
			admitted = append(admitted, e.Subject)
		}
	}
	slices.Sort(admitted)
	if got := strings.Join(admitted, " "); got != "detector@1.0.0 detector@2.0.0" {
		t.Errorf("audited admissions: %s", got)
	}
	if got := must(w.admin.Releases(t.Context()))(t); len(got) != 2 {
		t.Errorf("%d releases are known, want 2", len(got))
	}
}

// Everybody asks and reports at once, newcomers join in between: the stage takes
// the number it says.
func TestConcurrentCheckInsNeverExceedTheStage(t *testing.T) {
	w := newWorld(t)
	w.start()
	ds := w.join(20)
	v1 := w.admit("1.0.0").Variants[0].Root
	act := map[fleet.Digest]behaviour{v1: {requests: 2}}
	w.roll(ds, "1.0.0", act)
	v2 := w.admit("2.0.0").Variants[0].Root
	act[v2] = behaviour{requests: 2}
	spec := `{"stages": [{"name": "few", "count": 3, "soak": "1h"}, {"name": "all", "percent": 100}], "stageDeadline": "2h"}`
	must(w.admin.StartRollout(t.Context(), api.RolloutRequest{Model: model, Version: "2.0.0", Spec: []byte(spec)}))(t)

	on := func(ds []*device) (n int) {
		for _, d := range ds {
			if d.running == v2 {
				n++
			}
		}
		return n
	}
	late := 0
	for round := 0; on(ds) < 3 || late < 5; round++ {
		begun := on(ds) > 0
		var g errgroup.Group
		for _, d := range ds {
			g.Go(func() error {
				if err := d.pull(act); err != nil {
					return err
				}
				_, err := d.serve(act)
				return err
			})
		}
		if begun {
			late++
			tok := must(w.admin.CreateToken(t.Context(), api.TokenRequest{Labels: fleet.Labels{"class": "x"}}))(t)
			ds = append(ds, w.enrol(tok.Text, fmt.Sprintf("late-%02d", late), fleet.Labels{"site": "late"}))
		}
		ok(t, g.Wait())
		if n := on(ds); n > 3 {
			t.Fatalf("round %d: %d members run the new release, the stage has 3", round, n)
		}
		if round > 500 {
			t.Fatalf("only %d members were ever exposed", on(ds))
		}
	}
	for _, d := range ds[20:] {
		if d.running == v2 {
			t.Errorf("%s joined later and was exposed", d.facts.ID)
		}
	}
}

// Members that installed, say so and go on running the old release prove nothing.
func TestSayingHealthyIsNotRunningIt(t *testing.T) {
	w := newWorld(t)
	w.start()
	ds := w.join(6)
	v1 := w.admit("1.0.0").Variants[0].Root
	act := map[fleet.Digest]behaviour{v1: {requests: 3}}
	w.roll(ds, "1.0.0", act)
	v2 := w.admit("2.0.0").Variants[0].Root
	info := must(w.admin.StartRollout(t.Context(), api.RolloutRequest{Model: model, Version: "2.0.0", Spec: []byte(quick)}))(t)
	told, until := map[fleet.MemberID]bool{}, time.Time{}
	w.eventually("its deadline is long over", func() bool {
		for _, d := range ds {
			ok(t, d.pull(act))
			if d.running == v2 {
				told[d.facts.ID], d.running = true, v1
				ok(t, d.rec.SetModel(model, time.Now(), telemetry.ModelState{
					Rollout: info.ID, Arm: fleet.Exposed, Phase: fleet.Healthy, Target: v2, Running: v1,
				}))
			}
			must(d.serve(act))(t)
		}
		if len(told) > 0 && until.IsZero() {
			until = time.Now().Add(4 * time.Second) // four times the stage's deadline
		}
		return len(told) > 0 && time.Now().After(until)
	})
	info = must(w.admin.Rollout(t.Context(), info.ID))(t)
	if info.State == "Succeeded" || info.EverExposed != 0 || info.Stages[0].State == "Passed" {
		t.Errorf("rollout %s, stage %s, %d ever ran it", info.State, info.Stages[0].State, info.EverExposed)
	}
}
