package coordinator_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// tells sends a row at a time by the member's clock.
func (d *device) tells(at time.Time, s telemetry.ModelState, m telemetry.MemberState) {
	d.w.t.Helper()
	d.rec.SetMember(m)
	ok(d.w.t, d.rec.SetModel(model, at, s))
	must(d.client.SendRows(d.w.t.Context(), d.cell.ID, must(d.codec.Encode(d.messages(at)))(d.w.t), ""))(d.w.t)
}

// A person sees how far members are, by what source and how fast, which cannot
// fetch and since when, and what went wrong with disks and neighbours; none of it
// counts against the release.
func TestPeopleSeeHowADeliveryGoes(t *testing.T) {
	w := newWorld(t)
	w.start()
	ds := w.join(3)
	rel := w.admit("1.0.0")
	info := must(w.admin.StartRollout(t.Context(), api.RolloutRequest{Model: model, Version: "1.0.0", Spec: []byte(`{"stages": [{"name": "all", "percent": 100, "soak": "1h"}]}`)}))(t)
	w.eventually("all are told", func() bool {
		return must(w.admin.Rollout(t.Context(), info.ID))(t).Stages[0].Exposed == 3
	})
	alarms := make(chan string, 16)
	w.listen(func(e api.Event) {
		if e.Kind == "alarm" {
			alarms <- e.Subject + " " + e.Text
		}
	})
	state := func(phase fleet.Phase) telemetry.ModelState {
		return telemetry.ModelState{Target: rel.Variants[0].Root, Rollout: info.ID, Arm: fleet.Exposed, Phase: phase, Total: 64 << 20}
	}
	// Each turn is ten seconds of the members' lives.
	clock := time.Now().Add(-time.Minute)
	began := clock
	var down api.MemberInfo
	var n uint64
	w.eventually("a member downloads", func() bool {
		clock, n = clock.Add(10*time.Second), min(n+1, 6)
		got := telemetry.Fetched{Copy: 4 << 20, Delta: n << 20, Peer: 2 * n << 20, Bucket: n << 20}
		going := state(fleet.Downloading)
		going.Fetched = got
		ds[0].tells(clock, going, telemetry.MemberState{Delivery: telemetry.Delivery{Fetched: got, Wire: n << 19}})
		cut := state(fleet.Offered)
		cut.Failure, cut.Code, cut.Failing = fleet.TransportFailure, telemetry.CodeNetwork, began
		ds[1].tells(clock, cut, telemetry.MemberState{})
		full := state(fleet.Failed)
		full.Failure, full.Code, full.Failing = fleet.MemberFailure, telemetry.CodeDiskFull, began
		ds[2].tells(clock, full, telemetry.MemberState{Delivery: telemetry.Delivery{Damaged: 1, Liars: 1, Liar: telemetry.MemberPrefix(ds[1].facts.ID)}})
		down = must(w.admin.Member(t.Context(), ds[0].facts.ID))(t)
		info = must(w.admin.Rollout(t.Context(), info.ID))(t)
		return len(down.Models) == 1 && down.Models[0].Rate > 0 && info.Fetching != nil && len(info.Stuck) == 2
	})
	if st := down.Models[0]; st.BytesDone != int64(4+4*n)<<20 || st.BytesTotal != 64<<20 || st.Rate != 4<<20/10 || st.Left <= 0 ||
		st.BytesFrom == nil || st.BytesFrom.Peer != int64(2*n)<<20 {
		t.Errorf("after %d MiB by each way it shows %+v, from %+v", n, st, st.BytesFrom)
	}
	if f := info.Fetching; f.Members != 1 || f.Done != down.Models[0].BytesDone || f.Rate == 0 {
		t.Errorf("the rollout shows %+v", f)
	}
	now := time.Now()
	if a, b := info.Stuck[0], info.Stuck[1]; a.Code != "disk-full" || b.Code != "network" || a.Members+b.Members != 2 ||
		!strings.Contains(b.Text(now), "1 member cannot fetch: network, since ") || !strings.Contains(b.Text(now), "does not count against the release") {
		t.Errorf("stuck: %+v", info.Stuck)
	}
	x := must(w.admin.Explain(t.Context(), ds[1].facts.ID))(t)
	if text := strings.Join(x.Lines, "\n"); !strings.Contains(text, "it cannot fetch: network, since ") || !strings.Contains(text, "tries again by itself, and this does not count against the release") {
		t.Errorf("explain says:\n%s", text)
	}
	x = must(w.admin.Explain(t.Context(), ds[2].facts.ID))(t)
	text := strings.Join(x.Lines, "\n")
	for _, want := range []string{"cannot fetch: disk-full", "its disk damaged files (1 since", "left out neighbours that delivered other bytes than were signed (1), the last of them dev-01"} {
		if !strings.Contains(text, want) {
			t.Errorf("explain lacks %q:\n%s", want, text)
		}
	}
	for _, want := range []string{"dev-02 its disk damaged files (1); they are fetched again", "dev-02 left out dev-01, which delivered other bytes than were signed"} {
		select {
		case got := <-alarms:
			if got != want {
				t.Errorf("alarm %q, want %q", got, want)
			}
		case <-time.After(2 * time.Minute):
			t.Errorf("no alarm %q", want)
		}
	}
	closed := state(fleet.Downloading)
	closed.Code = telemetry.CodeWindow
	w.eventually("a member waits for its window", func() bool {
		clock = clock.Add(10 * time.Second)
		ds[1].tells(clock, closed, telemetry.MemberState{})
		st := must(w.admin.Member(t.Context(), ds[1].facts.ID))(t).Models[0]
		return st.Waits == "its download window" && st.FailureCode == "" && !st.Stuck()
	})
	x = must(w.admin.Explain(t.Context(), ds[1].facts.ID))(t)
	if text := strings.Join(x.Lines, "\n"); !strings.Contains(text, "it waits for its download window") {
		t.Errorf("explain says:\n%s", text)
	}
	body := must(io.ReadAll(w.plain("GET", "/metrics", "", "Authorization", "Bearer "+must(api.LoadContext(w.opts.Data+"/admin.context.json"))(t).Token).Body))(t)
	for _, want := range []string{
		`modelfleet_coordinator_fetched_bytes_total{source="peer"} `, `modelfleet_coordinator_fetched_bytes_total{source="copy"} 4.194304e+06`,
		"modelfleet_coordinator_bucket_bytes_total ", "modelfleet_coordinator_damaged_files_total 1", "modelfleet_coordinator_liars_total 1",
		`modelfleet_coordinator_phases_count{phase="healthy"} 0`, "modelfleet_coordinator_download_bytes_per_second ",
	} {
		if !strings.Contains(string(body), want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if strings.Contains(string(body), "dev-0") {
		t.Error("/metrics names members")
	}
	if info = must(w.admin.Rollout(t.Context(), info.ID))(t); info.Exposed.Fatal != 0 || info.State != "Running" {
		t.Errorf("it counts against the release: %s, %+v", info.State, info.Exposed)
	}
}
