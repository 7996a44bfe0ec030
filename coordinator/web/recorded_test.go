package web_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

// now is the moment at which the recorded fleet is looked at.
var now = time.Date(2026, 11, 24, 9, 41, 0, 0, time.UTC)

const adminToken, viewerToken = "mfo1.admin", "mfo1.viewer"

// recorded is a fleet that stands still: a real implementation of web.Source
// over values.
type recorded struct {
	info     api.FleetInfo
	health   api.Health
	members  []api.MemberInfo
	rollouts []api.RolloutInfo
	releases []api.ReleaseInfo
	audit    []api.AuditEntry
	splits   []api.AuditSplit

	mu       sync.Mutex
	commands []string
	sessions map[string]api.OperatorToken
	begun    int
	active   int // visits of a person at work
	events   chan api.Event
	down     error // what every question is answered with while set
}

func (f *recorded) Fleet(_ context.Context, _ api.OperatorToken) (api.FleetInfo, error) {
	return f.info, f.down
}

func (f *recorded) Pending(context.Context, api.OperatorToken) ([]api.PendingMember, error) {
	return []api.PendingMember{
		{Member: "cork-99", Fingerprint: "1f0c2a9b-77d10e35-c2a7f0aa-90be41d2", From: "192.0.2.7", Since: now, State: api.Waiting},
		{Member: "cork-98", State: api.Refused},
	}, nil
}

func (f *recorded) Health(_ context.Context, _ api.OperatorToken) (api.Health, error) {
	return f.health, f.down
}

func (f *recorded) Members(_ context.Context, _ api.OperatorToken, sel fleet.Selector) ([]api.MemberInfo, error) {
	var out []api.MemberInfo
	for _, m := range f.members {
		if sel.Matches(m.Facts) {
			out = append(out, m)
		}
	}
	return out, f.down
}

func (f *recorded) Explain(_ context.Context, _ api.OperatorToken, id fleet.MemberID) (api.Explanation, error) {
	for _, m := range f.members {
		if m.Facts.ID == id {
			return api.Explanation{Member: m, Lines: []string{
				"directive #17, issued 4m ago, is the newest this member has acted on",
				"rollout scorer-4 exposes members with ring=lab, and then positions below 1999999999999999; this member stands at 0c5e11aa01b2c3d4",
				"it should run " + m.Models[0].Target + ": " + m.Models[0].Reason,
			}}, f.down
		}
	}
	return api.Explanation{}, fault.Newf(fault.NotFound, "explain member", string(id), "no member of that id").WithHint("list them with modelfleet members list")
}

func (f *recorded) Rollouts(_ context.Context, _ api.OperatorToken) ([]api.RolloutInfo, error) {
	out := slices.Clone(f.rollouts)
	for i := range out {
		out[i].History = nil
	}
	return out, f.down
}

func (f *recorded) Rollout(_ context.Context, _ api.OperatorToken, id fleet.RolloutID) (api.RolloutInfo, error) {
	for _, x := range f.rollouts {
		if x.ID == id {
			return x, f.down
		}
	}
	return api.RolloutInfo{}, fault.Newf(fault.NotFound, "find rollout", string(id), "there is none of that id")
}

func (f *recorded) Releases(_ context.Context, _ api.OperatorToken) ([]api.ReleaseInfo, error) {
	return f.releases, f.down
}

func (f *recorded) Audit(_ context.Context, _ api.OperatorToken, after uint64, limit int) ([]api.AuditEntry, error) {
	if limit < 0 {
		return f.audit[max(0, len(f.audit)+limit):], f.down
	}
	from := min(int(after), len(f.audit))
	return f.audit[from:min(from+limit, len(f.audit))], f.down
}

func (f *recorded) Splits(context.Context, api.OperatorToken) ([]api.AuditSplit, error) {
	return f.splits, f.down
}

func (f *recorded) SignInByToken(_ context.Context, token string) (api.OperatorToken, error) {
	switch token {
	case adminToken:
		return f.begin(api.OperatorToken{Name: "ana", Role: api.Admin}), nil
	case viewerToken:
		return f.begin(api.OperatorToken{Name: "vik", Role: api.Viewer}), nil
	}
	return api.OperatorToken{}, fault.Newf(fault.Denied, "authenticate", "", "no operator has that token")
}

func (f *recorded) SignIn(_ context.Context, _ store.SessionKind, p store.Person) (api.OperatorToken, error) {
	return f.begin(api.OperatorToken{Name: p.Name, Role: p.Role, Scope: p.Scope, Session: true}), nil
}

func (f *recorded) begin(op api.OperatorToken) api.OperatorToken {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sessions == nil {
		f.sessions = map[string]api.OperatorToken{}
	}
	op.Expires = now.Add(12 * time.Hour)
	secret := fmt.Sprintf("session-%d-%s", f.begun, op.Name)
	f.begun++
	f.sessions[secret] = op
	op.Text = secret
	return op
}

// endAll ends every session, as time or an admin would.
func (f *recorded) endAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.sessions)
}

func (f *recorded) Visit(_ context.Context, secret string, active bool) (api.OperatorToken, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	op, ok := f.sessions[secret]
	if !ok {
		return op, fault.Newf(fault.Denied, "authenticate", "session", "it is over")
	}
	if active {
		f.active++
	}
	return op, nil
}

func (f *recorded) SignOut(_ context.Context, secret string, all bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := f.sessions[secret].Name
	delete(f.sessions, secret)
	if all {
		maps.DeleteFunc(f.sessions, func(_ string, op api.OperatorToken) bool { return op.Name == name })
	}
	return nil
}

func (f *recorded) Command(_ context.Context, by api.OperatorToken, id fleet.RolloutID, cmd api.Command, req api.CommandRequest) error {
	if by.Role == api.Viewer {
		return fault.Newf(fault.Denied, string(cmd)+" rollout", string(id), "%s is a viewer", by.Name)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.commands = append(f.commands, fmt.Sprintf("%s %s %s: %s", by.Name, cmd, id, req.Reason))
	return nil
}

func (f *recorded) Subscribe(ctx context.Context, _ api.OperatorToken) <-chan api.Event {
	out := make(chan api.Event)
	go func() {
		defer close(out)
		for {
			select {
			case <-ctx.Done():
				return
			case ev := <-f.events:
				select {
				case out <- ev:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}

// release is a version of the demo's model.
func release(model fleet.ModelName, version fleet.Version, counter uint64) fleet.Release {
	root := fleet.DigestOf([]byte(string(model) + string(version)))
	return fleet.Release{Team: "vision", Model: model, Version: version, Counter: counter, Variants: []fleet.Variant{
		{Name: "default", Root: root, Bundle: fleet.DigestOf(root[:]), Size: 18_400_256},
	}}
}

// busyFleet is a fleet in the middle of its day: 48 devices in 3 sites, 4
// functions, one rollout that goes well and one that was taken back.
func busyFleet() *recorded {
	f := &recorded{events: make(chan api.Event, 8)}
	v2, v3, v4 := release("scorer", "1.2.0", 2), release("scorer", "1.3.0", 3), release("scorer", "1.4.0", 4)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	f.releases = []api.ReleaseInfo{
		{Release: v4, Admitted: ago(20 * time.Minute), By: "ana", Metrics: map[string]float64{"accuracy": 0.962, "auc": 0.991}},
		{Release: v3, Admitted: ago(3 * time.Hour), By: "ana", Metrics: map[string]float64{"accuracy": 0.951, "auc": 0.982}},
		{Release: v2, Admitted: ago(6 * 24 * time.Hour), By: "ben", Metrics: map[string]float64{"accuracy": 0.947, "auc": 0.979}},
		{Release: release("scorer", "1.1.0", 1), Admitted: ago(31 * 24 * time.Hour), By: "ben", Revoked: true, RevokedFor: "delisted by its publisher: role publisher-scoring version 4 lists it no longer"},
	}
	f.addMembers(v2, v3, v4)
	running := map[string]int{}
	for _, m := range f.members {
		running[m.Models[0].Running]++
	}
	f.info = api.FleetInfo{
		Name: "orchard", Group: "default", Directive: 17, Members: 48, Reporting: 51, Functions: 4, Running: running,
		Pack: api.PackInfo{Bytes: 3120, Digest: fleet.DigestOf([]byte("pack")), Signed: ago(4 * time.Minute), Expires: now.Add(23*time.Hour + 56*time.Minute)},
	}
	for i, x := range f.releases {
		f.releases[i].Members = running[x.Release.Ref()]
	}
	f.rollouts = []api.RolloutInfo{goodRollout(v4), badRollout(v3)}
	f.addAudit()
	return f
}

func (f *recorded) addMembers(v2, v3, v4 fleet.Release) {
	r := rand.New(rand.NewPCG(1, 2))
	sites := []string{"aachen", "bremen", "cork"}
	for i := range 52 {
		site := sites[i/16%3]
		id := fleet.MemberID(fmt.Sprintf("%s-%02d", site, i%16+1))
		facts := fleet.Facts{
			ID: id, Kind: fleet.Device, Group: "default", Agent: "0.1.0", Platform: "linux/arm64",
			Enrolled: now.Add(-40 * 24 * time.Hour), Labels: fleet.Labels{"site": site, "region": "eu", "class": "jetson", "ring": "prod"},
		}
		if i%16 == 0 {
			facts.Labels["ring"] = "lab"
		}
		if i >= 48 {
			facts.ID, facts.Kind = fleet.MemberID(fmt.Sprintf("score-fn-%d", i-47)), fleet.Function
			facts.Labels = fleet.Labels{"region": "eu-west-1", "class": "lambda"}
		}
		requests := 9000 + r.Uint64N(4000)
		st := api.ModelStatus{
			Model: "scorer", Running: v2.Ref(), RunningRoot: v2.Variants[0].Root, Target: v2.Ref(), Phase: fleet.Idle, Arm: "control",
			Rollout: "scorer-4", Reason: "stable is scorer@1.2.0; control of rollout scorer-4",
			Requests: requests, Errors: requests / (90 + r.Uint64N(60)), Right: requests / 4, Wrong: requests / 80,
			P50: fleet.Duration(2100 * time.Microsecond), P95: fleet.Duration(4800 * time.Microsecond),
		}
		m := api.MemberInfo{Facts: facts, Cell: site + "/1", Seen: now.Add(-time.Duration(r.IntN(9)) * time.Second), Via: "gossip", Directive: 17, Freshness: "fresh", RSS: 13 << 20}
		switch {
		case i%16 == 0 || i%7 == 3:
			st.Target, st.Running, st.RunningRoot, st.Arm, st.Phase = v4.Ref(), v4.Ref(), v4.Variants[0].Root, "exposed", fleet.Healthy
			st.Reason = "exposed to scorer@1.4.0 by rollout scorer-4"
		case i == 20 || i == 37:
			st.Target, st.Arm, st.Phase, st.BytesDone, st.BytesTotal = v4.Ref(), "exposed", fleet.Downloading, 7<<20, 18_400_256
			st.Reason = "exposed to scorer@1.4.0 by rollout scorer-4"
			st.BytesFrom, st.Rate, st.Left = &api.Sources{Copy: 1 << 20, Delta: 1 << 20, Peer: 4 << 20, Bucket: 1 << 20}, 1_400_000, fleet.Duration(8*time.Second)
			m.Delivery = &api.DeliveryInfo{From: *st.BytesFrom, Wire: 1_300_000, Damaged: 1, Liars: 1, Liar: "bremen-06"}
			if i == 37 { // nothing is known of it yet
				st.BytesDone, st.BytesFrom, st.Rate, st.Left, m.Delivery = 0, nil, 0, 0, nil
			}
		case i == 39:
			st.Target, st.Arm, st.Phase, st.Failure, st.FailureCode, st.Failing = v4.Ref(), "exposed", fleet.Offered, fleet.TransportFailure, "network", now.Add(-12*time.Minute)
			st.Reason = "exposed to scorer@1.4.0 by rollout scorer-4"
		}
		if i == 5 || i == 23 {
			st.Quarantined = []fleet.Digest{v3.Variants[0].Root}
		}
		if i == 30 {
			m.Seen, m.Freshness = now.Add(-47*time.Minute), "stale"
		}
		m.Models = []api.ModelStatus{st}
		f.members = append(f.members, m)
	}
	slices.SortFunc(f.members, func(a, b api.MemberInfo) int { return slices.Compare([]byte(a.Facts.ID), []byte(b.Facts.ID)) })
}

// arms grow sample by sample: rate is the exposed arm's share of errors.
func history(start time.Time, every time.Duration, n int, exposed func(i int) int, rate func(i int) float64, right func(i int) float64) (h []api.Sample) {
	r := rand.New(rand.NewPCG(7, 7))
	var e, c api.ArmInfo
	step := func(a *api.ArmInfo, requests uint64, rate, right float64, p95 time.Duration) {
		noise := 0.85 + 0.3*r.Float64()
		a.Requests += requests
		a.Errors += uint64(float64(requests)*rate*noise + 0.5)
		labelled := requests / 4
		good := uint64(float64(labelled)*min(1, right+0.004*(r.Float64()-0.5)) + 0.5)
		a.Right += good
		a.Wrong += labelled - good
		a.P50, a.P95, a.P99 = fleet.Duration(p95/2), fleet.Duration(float64(p95)*noise), fleet.Duration(2*p95)
	}
	for i := range n {
		e.Members, c.Members = exposed(i), 52-exposed(i)
		e.Seen, c.Seen = e.Members, c.Members-1
		step(&e, 480+40*uint64(i), rate(i), right(i), 4300*time.Microsecond)
		step(&c, 5200, 0.0098, 0.953, 4800*time.Microsecond)
		h = append(h, api.Sample{At: start.Add(time.Duration(i) * every), Exposed: e, Control: c})
	}
	return h
}

func goodRollout(rel fleet.Release) api.RolloutInfo {
	start := now.Add(-14 * time.Minute)
	h := history(start, 10*time.Second, 84, func(i int) int { return 3 + 10*min(1, i/54) }, func(int) float64 { return 0.0081 }, func(int) float64 { return 0.966 })
	last := h[len(h)-1]
	return api.RolloutInfo{
		ID: "scorer-4", Release: rel, From: "scorer@1.2.0", Group: "default", State: "Running", Author: "ana", Started: start,
		Reason: "started (stages 4, population 52)", Stage: 1, Population: 52, EverExposed: 11, StillOn: 11,
		Stages: []api.StageInfo{
			{Name: "lab", State: "Passed", Target: 3, Exposed: 3, Since: start.Add(9 * time.Minute), Soak: fleet.Duration(5 * time.Minute), Verdict: verdict("pass", "3 members soaked 5m0s; every gate passed", false)},
			{Name: "quarter", State: "Soaking", Target: 13, Exposed: 13, Since: start.Add(9*time.Minute + 50*time.Second), Soak: fleet.Duration(10 * time.Minute), Verdict: verdict("inconclusive", "no gate objects; errors is watched for 4m10s of 10m", false)},
			{Name: "half", State: "Waiting", Target: 26, Soak: fleet.Duration(10 * time.Minute)},
			{Name: "all", State: "Waiting", Soak: fleet.Duration(30 * time.Minute)},
		},
		Fetching: &api.FetchingInfo{Members: 2, Done: 7 << 20, Total: 2 * 18_400_256, From: api.Sources{Copy: 1 << 20, Delta: 1 << 20, Peer: 4 << 20, Bucket: 1 << 20}, Rate: 1_400_000},
		Stuck:    []api.StuckInfo{{Failure: fleet.TransportFailure, Code: "network", Members: 1, Since: now.Add(-12 * time.Minute)}},
		Exposed:  last.Exposed, Control: last.Control, History: h,
	}
}

func badRollout(rel fleet.Release) api.RolloutInfo {
	start := now.Add(-150 * time.Minute)
	h := history(start, 5*time.Second, 36, func(int) int { return 3 }, func(i int) float64 { return 0.012 + 0.09*min(1, float64(i)/10) }, func(i int) float64 { return 0.95 - 0.11*min(1, float64(i)/8) })
	last := h[len(h)-1]
	last.Exposed.Fatal = 2
	return api.RolloutInfo{
		ID: "scorer-3", Release: rel, From: "scorer@1.2.0", Group: "default", State: "RolledBack", Author: "ana", Started: start, Ended: start.Add(3 * time.Minute),
		Reason: "gate errors failed in stage lab: E 214 >= 100 after 3 members and 2m40s; all 3 members are back on scorer@1.2.0", Population: 52, EverExposed: 3,
		Stages: []api.StageInfo{
			{Name: "lab", State: "Failed", Target: 3, Exposed: 3, Since: start.Add(160 * time.Second), Soak: fleet.Duration(5 * time.Minute), Verdict: verdict("fail", "gate errors failed: E 214 >= 100", true)},
			{Name: "quarter", State: "Waiting", Target: 13, Soak: fleet.Duration(10 * time.Minute)},
			{Name: "half", State: "Waiting", Target: 26, Soak: fleet.Duration(10 * time.Minute)},
			{Name: "all", State: "Waiting", Target: 50, Soak: fleet.Duration(30 * time.Minute)},
		},
		Exposed: last.Exposed, Control: last.Control, History: h,
	}
}

func verdict(outcome, reason string, bad bool) *api.VerdictInfo {
	v := &api.VerdictInfo{Outcome: outcome, Reason: reason, At: now.Add(-8 * time.Second), Evidence: json.RawMessage(`{"looks":31,"exposed":{"members":13}}`), Gates: []api.GateInfo{
		{Gate: "fatal", Outcome: "pass", Reason: "none of 13 members failed to load, crashed or fell silent", E: 0.42, PassE: 24.1, Threshold: 100},
		{Gate: "errors", Outcome: "inconclusive", Reason: "self-alarms: 1 of 13 exposed, 3 of 38 control; rank-sum p 0.61", E: 1.8, PassE: 6.1, Threshold: 100},
		{Gate: "latency", Outcome: "pass", Reason: "4.9% of requests above tau95, control 5.0%", E: 0.08, PassE: 33, Threshold: 100},
		{Gate: "drift", Outcome: "pass", Reason: "cumulative PSI 0.004, below the floor 0.02", E: 0.6, PassE: 21, Threshold: 100},
		{Gate: "breaker", Outcome: "pass", Reason: "0 of the first 5 members failed; opens at 3", E: 0, Threshold: 3},
	}}
	if bad {
		v.Gates[0] = api.GateInfo{Gate: "fatal", Outcome: "inconclusive", Reason: "2 of 3 exposed members failed: crash loop; control 0 of 49", E: 41, Threshold: 100}
		v.Gates[1] = api.GateInfo{Gate: "errors", Outcome: "fail", Reason: "self-alarms: 3 of 3 exposed, 0 of 49 control", E: 214, Threshold: 100}
		v.Gates[4] = api.GateInfo{Gate: "breaker", Outcome: "inconclusive", Reason: "2 of the first 3 members failed; opens at 3", E: 2, Threshold: 3}
	}
	return v
}

func (f *recorded) addAudit() {
	lines := []struct{ actor, action, subject, reason string }{
		{"ana", "release.admitted", "scorer@1.3.0", "signed by pub-vision; 1 variant, 17.5 MiB"},
		{"ana", "rollout.started", "scorer-3", "scorer@1.3.0 over 52 members in 4 stages"},
		{"coordinator", "rollout.decided", "scorer-3", "stage lab exposes 3 of 52 members"},
		{"coordinator", "directive.issued", "default", "#14"},
		{"coordinator", "rollout.verdict", "scorer-3", "gate errors failed: E 214 >= 100"},
		{"coordinator", "rollout.decided", "scorer-3", "rolling back: gate errors failed in stage lab"},
		{"coordinator", "rollout.decided", "scorer-3", "rolled back: all 3 members are back on scorer@1.2.0"},
		{"ana", "release.admitted", "scorer@1.4.0", "signed by pub-vision; 1 variant, 17.5 MiB"},
		{"ana", "rollout.started", "scorer-4", "scorer@1.4.0 over 52 members in 4 stages"},
		{"coordinator", "rollout.decided", "scorer-4", "stage lab exposes 3 of 52 members"},
		{"coordinator", "rollout.verdict", "scorer-4", "3 members soaked 5m0s; every gate passed"},
		{"coordinator", "rollout.decided", "scorer-4", "stage quarter exposes 13 of 52 members"},
		{"coordinator", "member.enrolled", "cork-16", "by token t-7f3a"},
	}
	for i, l := range lines {
		e := api.AuditEntry{Index: uint64(i + 1), Entry: ledger.Entry{At: now.Add(-time.Duration(len(lines)-i) * 70 * time.Second), Actor: l.actor, Action: l.action, Subject: l.subject, Reason: l.reason}}
		if l.action == "rollout.verdict" {
			e.Detail = json.RawMessage(`{"looks":31,"e":{"errors":214.3,"fatal":41}}`)
		}
		f.audit = append(f.audit, e)
	}
}
