package coordinator_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// operator makes an operator of a role and returns its client.
func (w *world) operator(name string, role api.Role) *api.Client {
	w.t.Helper()
	o := must(w.admin.CreateOperator(w.t.Context(), api.OperatorRequest{Name: name, Role: role}))(w.t)
	c := must(api.NewClient(api.Options{URL: w.addr.URL, Pin: w.addr.Pin, Token: o.Text}))(w.t)
	w.t.Cleanup(c.Close)
	return c
}

// plain is an HTTP client without certificate or token.
func (w *world) plain(method, path, body string, header ...string) *http.Response {
	w.t.Helper()
	r := must(http.NewRequestWithContext(w.t.Context(), method, w.addr.URL+path, strings.NewReader(body)))(w.t)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	w.t.Cleanup(c.CloseIdleConnections)
	resp := must(c.Do(r))(w.t)
	w.t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// listen hears every event from now on, until the test ends.
func (w *world) listen(heard func(api.Event)) {
	w.t.Helper()
	done := make(chan struct{})
	w.t.Cleanup(func() { <-done }) // after the stream was closed
	token := must(api.LoadContext(w.opts.Data + "/admin.context.json"))(w.t).Token
	stream := w.plain("GET", "/v1/events", "", "Authorization", "Bearer "+token) // it is open once it is answered
	go func() {
		defer close(done)
		_ = api.ReadEvents(stream.Body, func(e api.Event) error { // it ends when the test does
			heard(e)
			return nil
		})
	}()
}

func TestEachRoleMayDoItsPartAndNoMore(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.join(1)
	w.admit("1.0.0")
	viewer, operator, approver := w.operator("vi", api.Viewer), w.operator("op", api.Operator), w.operator("ap", api.Approver)
	spec := []byte(`{"stages": [{"name": "all", "percent": 100, "soak": "1h", "approval": 1}]}`)
	req := api.RolloutRequest{Model: model, Version: "1.0.0", Spec: spec}
	if _, err := viewer.StartRollout(t.Context(), req); !fault.Is(err, fault.Denied) || fault.Hint(err) == "" {
		t.Errorf("a viewer started a rollout: %v", err)
	}
	if _, err := viewer.CreateToken(t.Context(), api.TokenRequest{}); !fault.Is(err, fault.Denied) {
		t.Errorf("a viewer made a token: %v", err)
	}
	if _, err := operator.CreateOperator(t.Context(), api.OperatorRequest{Name: "x", Role: api.Admin}); !fault.Is(err, fault.Denied) {
		t.Errorf("an operator made an admin: %v", err)
	}
	dry, none := req, req
	dry.DryRun, none.DryRun, none.Version = true, true, "9.9.9"
	if plan := must(operator.StartRollout(t.Context(), dry))(t); plan.ID != "" || plan.Population != 1 || len(plan.Stages) != 1 || plan.Stages[0].Target != 1 {
		t.Errorf("a dry run answered %+v", plan)
	}
	if _, err := operator.StartRollout(t.Context(), none); !fault.Is(err, fault.NotFound) {
		t.Errorf("a dry run of what was never published: %v", err)
	}
	if all := must(viewer.Rollouts(t.Context()))(t); len(all) != 0 {
		t.Errorf("a dry run began %+v", all)
	}
	info := must(approver.StartRollout(t.Context(), req))(t)
	w.eventually("approval is asked for", func() bool {
		return must(viewer.Rollout(t.Context(), info.ID))(t).State == "AwaitingApproval"
	})
	for name, c := range map[string]*api.Client{"its author": approver, "an operator": operator, "a viewer": viewer} {
		if _, err := c.Command(t.Context(), info.ID, api.Approve, api.CommandRequest{}); !fault.Is(err, fault.Denied) {
			t.Errorf("%s approved: %v", name, err)
		}
	}
	must(w.admin.Command(t.Context(), info.ID, api.Approve, api.CommandRequest{Reason: "looks good"}))(t)
	w.eventually("it runs", func() bool { return must(viewer.Rollout(t.Context(), info.ID))(t).State == "Running" })
	must(operator.Command(t.Context(), info.ID, api.Pause, api.CommandRequest{}))(t)
	w.eventually("it pauses", func() bool { return must(viewer.Rollout(t.Context(), info.ID))(t).State == "Paused" })
	must(operator.Command(t.Context(), info.ID, api.Rollback, api.CommandRequest{Reason: "enough"}))(t)
	w.eventually("it ends", func() bool { return !must(viewer.Rollout(t.Context(), info.ID))(t).Ended.IsZero() })
	if _, err := operator.Command(t.Context(), info.ID, api.Resume, api.CommandRequest{}); !fault.Is(err, fault.Conflict) {
		t.Errorf("resumed what has ended: %v", err)
	}
	ok(t, w.admin.DeleteOperator(t.Context(), "vi"))
	if _, err := viewer.Fleet(t.Context()); !fault.Is(err, fault.Denied) {
		t.Errorf("a deleted operator still sees: %v", err)
	}
	if err := w.admin.DeleteOperator(t.Context(), "admin"); !fault.Is(err, fault.Invalid) {
		t.Errorf("the last admin deleted itself: %v", err)
	}
	w.checkAudit("operator.created", "operator.deleted", "rollout.commanded")
	says := map[string]bool{}
	for _, e := range must(w.admin.Audit(t.Context(), 0, 500))(t) {
		if e.Subject == string(info.ID) {
			text, _, _ := strings.Cut(e.Reason, ":")
			says[e.Action+" "+text] = true
		}
	}
	for _, want := range []string{"rollout.started " + info.Release.Ref(), "rollout.commanded approve", "rollout.commanded pause", "rollout.commanded rollback", "rollout.decided Paused", "rollout.decided RolledBack"} {
		if !says[want] {
			t.Errorf("the log does not say %q: %v", want, says)
		}
	}
}

func TestStrangersAreTurnedAway(t *testing.T) {
	w := newWorld(t)
	w.start()
	for _, call := range []string{"GET /v1/fleet", "GET /v1/members", "GET /v1/audit", "GET /v1/events", "POST /v1/rollouts", "POST /v1/tokens", "POST /v1/operators", "POST /v1/releases", "POST /v1/renew", "POST /v1/objects", "POST /v1/cells/-/rows", "DELETE /v1/tokens/x"} {
		method, path, _ := strings.Cut(call, " ")
		resp := w.plain(method, path, "{}")
		var p api.Problem
		if err := json.NewDecoder(resp.Body).Decode(&p); err != nil || resp.StatusCode != 403 || p.Kind != "denied" || p.Hint == "" || resp.Header.Get("Content-Type") != api.ProblemType {
			t.Errorf("%s: %d %+v (%v)", call, resp.StatusCode, p, err)
		}
	}
	for path, status := range map[string]int{"/healthz": 200, "/readyz": 200, "/v1/packs/default": 200, "/v1/packs/other": 404, "/v1/nothing": 404} {
		if resp := w.plain("GET", path, ""); resp.StatusCode != status {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, status)
		}
	}
	if resp := w.plain("GET", "/v1/fleet", "", "Authorization", "Bearer mfo1.guess"); resp.StatusCode != 403 {
		t.Errorf("a guessed token: %d", resp.StatusCode)
	}
	if resp := w.plain("GET", "/metrics", ""); resp.StatusCode != 403 {
		t.Errorf("metrics without a token: %d", resp.StatusCode)
	}
	body, _ := io.ReadAll(w.plain("GET", "/metrics", "", "Authorization", "Bearer "+must(api.LoadContext(w.opts.Data+"/admin.context.json"))(t).Token).Body)
	for _, want := range []string{"modelfleet_coordinator_rows_total", "modelfleet_coordinator_directive_sequence 1", "modelfleet_coordinator_ready 1", `call="GET /v1/fleet"`} {
		if !bytes.Contains(body, []byte(want)) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}

func TestQuestionsAreReadStrictly(t *testing.T) {
	w := newWorld(t)
	w.start()
	token := "Bearer " + must(api.LoadContext(w.opts.Data+"/admin.context.json"))(t).Token
	for name, body := range map[string]string{"unknown field": `{"uses": 1, "typo": 2}`, "two values": `{} {}`, "not JSON": `uses: 1`, "huge": `{"kind": "` + strings.Repeat("x", 2<<20) + `"}`} {
		if resp := w.plain("POST", "/v1/tokens", body, "Authorization", token); resp.StatusCode != 400 {
			t.Errorf("%s: %d, want 400", name, resp.StatusCode)
		}
	}
	for path, status := range map[string]int{"/v1/members?selector=a==b==c": 400, "/v1/audit?after=-1": 400, "/v1/members/none": 404, "/v1/rollouts/none": 404} {
		if resp := w.plain("GET", path, "", "Authorization", token); resp.StatusCode != status {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, status)
		}
	}
	if resp := w.plain("GET", "/v1/members", "", "Authorization", token); must(io.ReadAll(resp.Body))(t)[0] != '[' {
		t.Error("an empty list is not a list")
	}
}

func TestTheDashboardIsServed(t *testing.T) {
	w := newWorld(t)
	w.start()
	resp := w.plain("GET", "/", "")
	if resp.StatusCode != 200 || !strings.Contains(resp.Header.Get("Content-Type"), "text/html") {
		t.Errorf("/: %d %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
}

func TestALongPollBringsTheNextPackAtOnce(t *testing.T) {
	w := newWorld(t)
	w.start()
	d := w.join(1)[0]
	first := must(d.client.Pack(t.Context(), "default", "", 0))(t)
	type result struct {
		r   api.PackReply
		err error
	}
	got := make(chan result, 1)
	go func() {
		r, err := d.client.Pack(t.Context(), "default", first.ETag, 50*time.Second)
		got <- result{r, err}
	}()
	w.admit("1.0.0")
	info := must(w.admin.StartRollout(t.Context(), api.RolloutRequest{Model: model, Version: "1.0.0", Spec: []byte(quick)}))(t)
	select {
	case x := <-got:
		if x.err != nil || x.r.NotModified || x.r.ETag == first.ETag {
			t.Errorf("rollout %s: got %+v", info.ID, x)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("the poll was not answered")
	}
	if r := must(d.client.Pack(t.Context(), "default", must(d.client.Pack(t.Context(), "default", "", 0))(t).ETag, time.Millisecond))(t); !r.NotModified {
		t.Logf("another pack came in between: %s", r.ETag)
	}
}

func TestEventsTellWhatHappens(t *testing.T) {
	w := newWorld(t)
	w.start()
	seen := make(chan api.Event, 64)
	listening := make(chan error, 1)
	go func() {
		listening <- w.operator("ear", api.Viewer).Events(t.Context(), func(e api.Event) error {
			seen <- e
			return nil
		})
	}()
	w.eventually("an enrolment is heard", func() bool {
		w.join2(t)
		select {
		case e := <-seen:
			return e.Kind == "member" && e.Text == "enrolled"
		case err := <-listening:
			t.Fatal(err)
		default:
		}
		return false
	})
}

// join2 enrols one more member.
func (w *world) join2(t *testing.T) *device {
	t.Helper()
	tok := must(w.admin.CreateToken(t.Context(), api.TokenRequest{}))(t)
	return w.enrol(tok.Text, "extra-"+tok.ID, nil)
}

func TestATokenIsGoodForItsUses(t *testing.T) {
	w := newWorld(t)
	w.start()
	tok := must(w.admin.CreateToken(t.Context(), api.TokenRequest{Labels: fleet.Labels{"ring": "lab"}}))(t)
	w.enrol(tok.Text, "one", nil)
	join := must(trust.ParseJoinToken(tok.Text))(t)
	anon := must(api.NewClient(api.Options{URL: join.URL, Pin: join.TLS.String()}))(t)
	defer anon.Close()
	_, err := anon.Enrol(t.Context(), api.EnrolRequest{TokenID: join.ID, Secret: join.SecretText(), Member: "two", Kind: fleet.Device, CSR: csr(t, must(signer.Ephemeral())(t))})
	if !fault.Is(err, fault.Denied) || fault.Hint(err) == "" {
		t.Errorf("a second use: %v", err)
	}
	list := must(w.admin.Tokens(t.Context()))(t)
	if len(list) != 1 || list[0].Used != 1 || list[0].Text != "" {
		t.Errorf("tokens %+v", list)
	}
	ok(t, w.admin.DeleteToken(t.Context(), tok.ID))
	if b, err := json.Marshal(must(w.admin.Audit(t.Context(), 0, 0))(t)); err != nil || bytes.Contains(b, []byte(join.SecretText())) || bytes.Contains(b, []byte(tok.Text)) {
		t.Errorf("the audit log holds a secret (%v)", err)
	}
}

func TestARevokedMemberIsTurnedAway(t *testing.T) {
	w := newWorld(t)
	w.start()
	d := w.join(2)[0]
	ok(t, w.admin.Revoke(t.Context(), d.facts.ID, "stolen"))
	if _, err := d.serve(nil); !fault.Is(err, fault.Denied) || fault.Hint(err) == "" {
		t.Errorf("its rows: %v", err)
	}
	m := must(w.admin.Member(t.Context(), d.facts.ID))(t)
	if !m.Revoked {
		t.Error("it is not shown as revoked")
	}
}

func TestRenewalOverTheWire(t *testing.T) {
	w := newWorld(t)
	w.start()
	d := w.join(1)[0]
	r := must(d.client.Renew(t.Context(), api.RenewRequest{CSR: csr(t, d.key), Generation: 1, GossipAddr: "10.0.0.9:7946"}))(t)
	if r.Generation != 2 || r.Cell.ID != d.cell.ID || !bytes.Equal(r.Cell.Key, d.cell.Key) {
		t.Errorf("renewed %+v", r)
	}
	d.cert = r.Certificate
	d.client = d.dial()
	must(d.serve(nil))(t)
	if seeds := w.join3(t, d).Seeds; !slices.Contains(seeds, "10.0.0.9:7946") {
		t.Errorf("seeds %v", seeds)
	}
}

// join3 enrols a neighbour of d and returns its cell.
func (w *world) join3(t *testing.T, d *device) api.Cell {
	t.Helper()
	tok := must(w.admin.CreateToken(t.Context(), api.TokenRequest{}))(t)
	return w.enrol(tok.Text, "neighbour", d.facts.Labels).cell
}

func TestOnlyWhatMembersReadIsPresigned(t *testing.T) {
	w := newWorld(t)
	w.start()
	d := w.join(1)[0]
	if _, err := d.client.Presign(t.Context(), []string{"files/ab/raw"}); !fault.Is(err, fault.Invalid) || fault.Hint(err) == "" {
		t.Errorf("a folder has no URLs: %v", err)
	}
	if _, err := d.client.PackURL(t.Context(), fleet.DefaultGroup); !fault.Is(err, fault.Invalid) || fault.Hint(err) == "" {
		t.Errorf("nor has its pack: %v", err)
	}
	if _, err := d.client.PackURL(t.Context(), "lab"); !fault.Is(err, fault.Denied) || fault.Hint(err) == "" {
		t.Errorf("the pack of another group: %v", err)
	}
	if _, err := w.admin.PackURL(t.Context(), fleet.DefaultGroup); !fault.Is(err, fault.Denied) {
		t.Errorf("to who is no member: %v", err)
	}
}

func TestANewerRolloutTakesTheOlderOnesPlace(t *testing.T) {
	w := newWorld(t)
	w.start()
	ds := w.join(4)
	w.admit("1.0.0")
	v2 := w.admit("2.0.0")
	act := map[fleet.Digest]behaviour{}
	slow := []byte(`{"stages": [{"name": "half", "percent": 50, "soak": "1h"}, {"name": "all", "percent": 100, "soak": "1h"}]}`)
	first := must(w.admin.StartRollout(t.Context(), api.RolloutRequest{Model: model, Version: "1.0.0", Spec: slow}))(t)
	w.eventually("half run the first release", func() bool {
		beat(t, ds, act)
		return must(w.admin.Rollout(t.Context(), first.ID))(t).StillOn == 2
	})
	if info := w.roll(ds, "2.0.0", act); info.State != "Succeeded" {
		t.Errorf("the newer one: %s, %s", info.State, info.Reason)
	}
	if info := must(w.admin.Rollout(t.Context(), first.ID))(t); info.State != "Superseded" || info.Ended.IsZero() {
		t.Errorf("the older one: %s, %s", info.State, info.Reason)
	}
	for _, d := range ds {
		if d.running != v2.Variants[0].Root {
			t.Errorf("%s runs %s", d.facts.ID, d.running.Short())
		}
	}
	if _, err := w.admin.StartRollout(t.Context(), api.RolloutRequest{Model: model, Version: "2.0.0", Spec: slow}); !fault.Is(err, fault.Conflict) {
		t.Errorf("the stable release was rolled out again: %v", err)
	}
}
