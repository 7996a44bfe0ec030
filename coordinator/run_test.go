package coordinator_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/modelfleet/modelfleet/coordinator"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
)

const quick = `{"stages": [{"name": "half", "percent": 50, "soak": "1s"}, {"name": "all", "percent": 100, "soak": "1s"}],
	"stageDeadline": "1s", "onInconclusive": "continue", "burnIn": "100ms", "memberSoak": "100ms"}`

// byEvidence decides by evidence alone, however long it takes to come.
const byEvidence = `{"stages": [{"name": "half", "percent": 50, "soak": "1s"}, {"name": "all", "percent": 100, "soak": "1s"}],
	"stageDeadline": "1h", "burnIn": "100ms", "memberSoak": "100ms"}`

// roll starts a rollout and keeps everybody reporting until it ends and they have
// heard so.
func (w *world) roll(ds []*device, version string, act map[fleet.Digest]behaviour) api.RolloutInfo {
	w.t.Helper()
	return w.rollBy(quick, ds, version, act)
}

func (w *world) rollBy(spec string, ds []*device, version string, act map[fleet.Digest]behaviour) api.RolloutInfo {
	w.t.Helper()
	info := must(w.admin.StartRollout(w.t.Context(), api.RolloutRequest{Model: model, Version: fleet.Version(version), Spec: []byte(spec), Reason: "a test"}))(w.t)
	return w.end(ds, info.ID, act)
}

func TestFromEnrolmentToRollback(t *testing.T) {
	w := newWorld(t)
	w.start()
	ds := w.join(12)
	v1, act := w.admit("1.0.0"), map[fleet.Digest]behaviour{}
	act[v1.Variants[0].Root] = behaviour{requests: 5}
	// It waits for a person at the end: until all twelve were heard, however long that takes.
	spec := strings.Replace(quick, `"soak": "1s"}],`, `"soak": "1s"}, {"name": "end", "percent": 100, "soak": "1ms", "approval": 1}],`, 1)
	first := must(w.operator("op", api.Operator).StartRollout(t.Context(), api.RolloutRequest{Model: model, Version: "1.0.0", Spec: []byte(spec)}))(t).ID
	w.eventually("all ran the first release, and approval is asked for", func() bool {
		beat(t, ds, act)
		info := must(w.admin.Rollout(t.Context(), first))(t)
		return info.EverExposed == 12 && info.State == "AwaitingApproval"
	})
	must(w.admin.Command(t.Context(), first, api.Approve, api.CommandRequest{}))(t)
	if info := w.end(ds, first, act); info.State != "Succeeded" || info.EverExposed != 12 {
		t.Fatalf("first release: %s, %d ever exposed: %s", info.State, info.EverExposed, info.Reason)
	}
	for _, d := range ds {
		if d.running != v1.Variants[0].Root {
			t.Fatalf("%s runs %s after the first rollout", d.facts.ID, d.running.Short())
		}
	}

	v2 := w.admit("2.0.0")
	act[v2.Variants[0].Root] = behaviour{fails: true}
	info := w.rollBy(byEvidence, ds, "2.0.0", act)
	if info.State != "RolledBack" || info.StillOn != 0 {
		t.Fatalf("bad release: %s (%s), still on %d", info.State, info.Reason, info.StillOn)
	}
	exposed := 0
	for _, d := range ds {
		if d.running != v1.Variants[0].Root {
			t.Errorf("%s runs %s after the rollback", d.facts.ID, d.running.Short())
		}
		if len(d.refused) > 0 {
			exposed++
		}
	}
	if exposed == 0 || exposed > 6 {
		t.Errorf("the bad release reached %d members, want 1 to 6 of 12", exposed)
	}
	if len(info.History) == 0 || info.Stages[0].Verdict == nil || len(info.Stages[0].Verdict.Evidence) == 0 {
		t.Errorf("history of %d points, verdict %+v: want some, with evidence", len(info.History), info.Stages[0].Verdict)
	}
	w.checkAudit("release.admitted", "rollout.started", "rollout.verdict", "rollout.decided", "directive.issued", "pack.published", "member.enrolled")
	x := must(w.admin.Explain(t.Context(), ds[0].facts.ID))(t)
	if text := strings.Join(x.Lines, "\n"); !strings.Contains(text, "runs detector@1.0.0") {
		t.Errorf("explanation does not say what it runs:\n%s", text)
	}
	fl := must(w.admin.Fleet(t.Context()))(t)
	if fl.Members != 12 || fl.Running["detector@1.0.0"] != 12 || fl.Pack.Bytes == 0 {
		t.Errorf("fleet %+v", fl)
	}
	if err := w.stop(); err != nil {
		t.Errorf("stopped with %v", err)
	}
}

// checkAudit verifies the log and looks for actions in it.
func (w *world) checkAudit(want ...string) {
	w.t.Helper()
	n := must(w.admin.VerifyAudit(w.t.Context(), ""))(w.t).Entries
	seen := map[string]bool{}
	for _, e := range must(w.admin.Audit(w.t.Context(), 0, int(n)))(w.t) {
		seen[e.Action] = true
		if e.Action == "rollout.decided" && e.Reason == "" {
			w.t.Errorf("entry %d has no reason", e.Index)
		}
	}
	for _, a := range want {
		if !seen[a] {
			w.t.Errorf("no %s in the audit log", a)
		}
	}
}

func TestARestartForgetsNothing(t *testing.T) {
	w := newWorld(t)
	w.start()
	ds := w.join(3)
	v1 := w.admit("1.0.0")
	act := map[fleet.Digest]behaviour{v1.Variants[0].Root: {requests: 3}}
	w.roll(ds, "1.0.0", act)
	before := must(w.admin.Members(t.Context(), fleet.Selector{}))(t)
	ok(t, w.stop())
	w.start()
	after := must(w.admin.Members(t.Context(), fleet.Selector{}))(t)
	if len(after) != len(before) {
		t.Fatalf("%d members after the restart, want %d", len(after), len(before))
	}
	for i, m := range after {
		if m.Models[0].Running != "detector@1.0.0" || m.Models[0].Requests != before[i].Models[0].Requests {
			t.Errorf("after the restart %s is known as %+v", m.Facts.ID, m.Models[0])
		}
	}
	for _, d := range ds {
		d.client = d.dial()
	}
	beat(t, ds, act)
	w.checkAudit()
}

func TestAnUntrustedReleaseIsRefusedAndAudited(t *testing.T) {
	w := newWorld(t)
	w.start()
	defer func() { w.checkAudit("release.refused") }()
	w.publish("1.0.0", must(signer.Ephemeral())(t))
	_, err := w.admin.Admit(t.Context(), api.AdmitRequest{Team: team})
	if !fault.Is(err, fault.Untrusted) {
		t.Fatalf("got %v, want Untrusted", err)
	}
	if got := must(w.admin.Releases(t.Context()))(t); len(got) != 0 {
		t.Errorf("releases %+v, want none", got)
	}
}

func TestBadBeginningsSayWhatToDo(t *testing.T) {
	w := newWorld(t)
	w.start()
	second := w.opts
	second.Listen = w.addr.Addr
	if err := coordinator.Run(t.Context(), second); !fault.Is(err, fault.Conflict) || fault.Hint(err) == "" {
		t.Errorf("same data folder: %v, want a Conflict with a hint", err)
	}
	other := w.opts
	other.Data, other.Listen = t.TempDir(), w.addr.Addr
	if err := coordinator.Run(t.Context(), other); !fault.Is(err, fault.Conflict) || fault.Hint(err) == "" {
		t.Errorf("same port: %v, want a Conflict with a hint", err)
	}
	other.Listen, other.Bucket = "127.0.0.1:0", "dir:"+t.TempDir()
	if err := coordinator.Run(t.Context(), other); !fault.Is(err, fault.Untrusted) || fault.Hint(err) == "" {
		t.Errorf("another bucket: %v, want Untrusted with a hint", err)
	}
	if err := coordinator.Run(t.Context(), coordinator.Options{}); !fault.Is(err, fault.Invalid) {
		t.Errorf("no options: %v, want Invalid", err)
	}
	for _, args := range []string{"-fleet a -data b extra", "-nonsense", "-fleet a -data b -tick x", "-fleet a"} {
		if _, err := coordinator.Parse(strings.Fields(args), w.logs); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want Invalid", args, err)
		}
	}
}

func TestPoliciesThatCannotWorkAreRefused(t *testing.T) {
	w := newWorld(t)
	w.start()
	start := func(spec string) error {
		_, err := w.admin.StartRollout(t.Context(), api.RolloutRequest{Model: model, Version: "1.0.0", Spec: []byte(spec)})
		return err
	}
	stage := `"stages": [{"name": "all", "percent": 100, "soak": "1s"}]`
	if err := start("{" + stage + "}"); !fault.Is(err, fault.NotFound) {
		t.Errorf("unknown release: %v, want NotFound", err)
	}
	w.admit("1.0.0")
	if err := start("{" + stage + "}"); !fault.Is(err, fault.Invalid) || fault.Hint(err) == "" {
		t.Errorf("no members: %v, want Invalid with a hint", err)
	}
	w.join(1)
	for _, extra := range []string{`"typo": 1`, `"gates": [{"gate": "metric", "name": "nobody_reports_it", "direction": "up"}]`, `"alpha": 90`, `"population": {"selector": "ring=none"}`} {
		if err := start(fmt.Sprintf("{%s, %s}", stage, extra)); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want Invalid", extra, err)
		}
	}
}
