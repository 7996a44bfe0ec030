package coordinator_test

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/coordinator/httpapi"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// try is a request for one call: in is about what lies in the scope region=eu and
// vision/*, out about what does not. Role is the least role, where it is more than
// the rule's. Where out is empty, nothing of it lies outside any scope.
type try struct {
	in, out         string // paths
	inBody, outBody string
	role            api.Role
}

// tries has a request for every call that people may make.
func tries(in, out api.RolloutInfo, eu, us api.Token) map[string]try {
	start := func(population string) string {
		return `{"model": "detector", "version": "1.0.0", "spec": {"population": {"selector": "` + population + `"}, "stages": [{"name": "all", "percent": 100, "soak": "1h"}]}}`
	}
	return map[string]try{
		"GET /metrics":                         {in: "/metrics"},
		"GET /v1/fleet":                        {in: "/v1/fleet"},
		"GET /v1/health":                       {in: "/v1/health"},
		"GET /v1/members":                      {in: "/v1/members"},
		"GET /v1/members/{id}":                 {in: "/v1/members/eu-1", out: "/v1/members/us-1"},
		"GET /v1/members/{id}/explain":         {in: "/v1/members/eu-1/explain", out: "/v1/members/us-1/explain"},
		"POST /v1/members/{id}/revoke":         {in: "/v1/members/eu-2/revoke", out: "/v1/members/us-2/revoke"},
		"POST /v1/members/{id}/unlock":         {in: "/v1/members/eu-1/unlock", out: "/v1/members/us-1/unlock"},
		"POST /v1/members/{id}/allow-comeback": {in: "/v1/members/eu-1/allow-comeback", out: "/v1/members/us-1/allow-comeback"},
		"GET /v1/pending":                      {in: "/v1/pending"},
		"POST /v1/pending/{id}/approve":        {in: "/v1/pending/nobody/approve", role: api.Operator}, // TestWhoWaitsIsAnsweredInItsScope tries the scope
		"POST /v1/pending/{id}/deny":           {in: "/v1/pending/nobody/deny", role: api.Operator},
		"GET /v1/releases":                     {in: "/v1/releases"},
		"POST /v1/releases":                    {in: "/v1/releases", inBody: `{"team": "vision"}`, out: "/v1/releases", outBody: `{"team": "speech"}`},
		"GET /v1/rollouts":                     {in: "/v1/rollouts"},
		"GET /v1/rollouts/{id}":                {in: "/v1/rollouts/" + string(in.ID)},
		"POST /v1/rollouts":                    {in: "/v1/rollouts", inBody: start("class=x, region=eu"), out: "/v1/rollouts", outBody: start("class=x")},
		"POST /v1/rollouts/{id}/{command}":     {in: "/v1/rollouts/" + string(in.ID) + "/abort", out: "/v1/rollouts/" + string(out.ID) + "/abort"},
		"GET /v1/tokens":                       {in: "/v1/tokens"},
		"POST /v1/tokens":                      {in: "/v1/tokens", inBody: `{"labels": {"region": "eu"}}`, out: "/v1/tokens", outBody: `{"labels": {"ring": "lab"}}`},
		"DELETE /v1/tokens/{id}":               {in: "/v1/tokens/" + eu.ID, out: "/v1/tokens/" + us.ID},
		"GET /v1/operators":                    {in: "/v1/operators"},
		"POST /v1/operators":                   {in: "/v1/operators", inBody: `{"name": "new", "role": "viewer"}`},
		"DELETE /v1/operators/{name}":          {in: "/v1/operators/nobody"},
		"POST /v1/operators/{name}/rotate":     {in: "/v1/operators/nobody/rotate", role: api.Admin},
		"GET /v1/whoami":                       {in: "/v1/whoami"},
		"DELETE /v1/session":                   {in: "/v1/session"},
		"GET /v1/audit":                        {in: "/v1/audit"},
		"GET /v1/audit/entries/{n}":            {in: "/v1/audit/entries/1"},
		"GET /v1/audit/splits":                 {in: "/v1/audit/splits"},
		"GET /v1/events":                       {in: "/v1/events"},
	}
}

// Every call is made by every role, with and without a scope, about what lies in
// it and what does not. A call that is added needs a rule to be served at all, and
// a request here.
func TestEveryCallByRoleAndScope(t *testing.T) {
	w := newWorld(t)
	w.start()
	for _, region := range []string{"eu", "us"} {
		tok := must(w.admin.CreateToken(t.Context(), api.TokenRequest{Uses: 2, Labels: fleet.Labels{"region": region}}))(t)
		for _, n := range []string{"1", "2"} {
			w.enrol(tok.Text, region+"-"+n, fleet.Labels{"class": "x"})
		}
	}
	w.admit("1.0.0")
	start := func(population string) api.RolloutInfo {
		spec := []byte(`{"population": {"selector": "` + population + `"}, "stages": [{"name": "all", "percent": 100, "soak": "1h"}]}`)
		return must(w.admin.StartRollout(t.Context(), api.RolloutRequest{Model: model, Version: "1.0.0", Spec: spec}))(t)
	}
	out, in := start(""), start("region=eu")
	eu := must(w.admin.CreateToken(t.Context(), api.TokenRequest{Labels: fleet.Labels{"region": "eu"}}))(t)
	us := must(w.admin.CreateToken(t.Context(), api.TokenRequest{Labels: fleet.Labels{"region": "us"}}))(t)
	all := tries(in, out, eu, us)
	rules := httpapi.Rules()
	for call, rule := range rules {
		if _, tried := all[call]; rule.Who == httpapi.People && !tried {
			t.Errorf("%s is served to people, and no request here tries it", call)
		}
	}

	order := []api.Role{api.Viewer, api.Operator, api.Approver, api.Admin}
	ranks := map[api.Role]int{api.Viewer: 1, api.Operator: 2, api.Approver: 3, api.Admin: 4}
	scope := api.Scope{Members: must(fleet.ParseSelector("region=eu"))(t), Models: []string{"vision/*"}}
	for _, who := range []struct {
		suffix string
		scope  api.Scope
	}{{"-eu", scope}, {"", api.Scope{}}} { // those with a scope first: others change more
		for _, role := range order {
			if role == api.Admin && !who.scope.IsZero() {
				continue // there is none
			}
			o := must(w.admin.CreateOperator(t.Context(), api.OperatorRequest{Name: "an-" + string(role) + who.suffix, Role: role, Scope: who.scope}))(t)
			for call, c := range all {
				rule := rules[call]
				least := rule.Role
				if ranks[c.role] > ranks[least] {
					least = c.role
				}
				may := ranks[role] >= ranks[least]
				whole := may && (rule.Reach != httpapi.Whole || who.scope.IsZero())
				w.tried(o, call, c.in, c.inBody, whole, !who.scope.IsZero())
				if c.out != "" {
					w.tried(o, call, c.out, c.outBody, may && who.scope.IsZero(), false)
				}
			}
		}
	}
}

// tried makes a call and judges the answer; narrow: it must tell of nothing that
// lies outside of the scope.
func (w *world) tried(o api.OperatorToken, call, path, body string, may, narrow bool) {
	w.t.Helper()
	method, _, _ := strings.Cut(call, " ")
	resp := w.plain(method, path, body, "Authorization", "Bearer "+o.Text)
	defer resp.Body.Close()
	if denied := resp.StatusCode == http.StatusForbidden; denied == may || resp.StatusCode >= 500 {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 400))
		w.t.Errorf("%s, by %s: %s %s: %d, allowed %v\n%s", o.Name, call, method, path, resp.StatusCode, may, b)
		return
	}
	if method == "GET" && may && resp.StatusCode != http.StatusOK {
		w.t.Errorf("%s, by %s: %s: %d", o.Name, call, path, resp.StatusCode)
	}
	if narrow && method == "GET" && may && call != "GET /v1/events" {
		if b, err := io.ReadAll(resp.Body); err != nil || strings.Contains(string(b), "us-") || strings.Contains(string(b), `"us"`) {
			w.t.Errorf("%s, by %s: tells of what lies outside: %v\n%.600s", o.Name, call, err, b)
		}
	}
}

func TestRolloutsOfAPartSayWhichPart(t *testing.T) {
	w := newWorld(t)
	w.start()
	tok := must(w.admin.CreateToken(t.Context(), api.TokenRequest{Labels: fleet.Labels{"region": "eu"}}))(t)
	w.enrol(tok.Text, "eu-1", fleet.Labels{"class": "x"})
	w.admit("1.0.0")
	o := must(w.admin.CreateOperator(t.Context(), api.OperatorRequest{Name: "eve", Role: api.Operator, Scope: api.Scope{Members: must(fleet.ParseSelector("region=eu"))(t)}}))(t)
	c := must(api.NewClient(api.Options{URL: w.addr.URL, Pin: w.addr.Pin, Token: o.Text}))(t)
	t.Cleanup(c.Close)
	_, err := c.StartRollout(t.Context(), api.RolloutRequest{Model: model, Version: "1.0.0", Preset: "fast"})
	if err == nil || !strings.Contains(err.Error(), "outside the scope of eve (region=eu)") {
		t.Errorf("a rollout to everyone: %v", err)
	}
	spec := []byte(`{"population": {"selector": "region=eu"}, "stages": [{"name": "all", "percent": 100, "soak": "1h"}]}`)
	must(c.StartRollout(t.Context(), api.RolloutRequest{Model: model, Version: "1.0.0", Spec: spec}))(t)
	if f := must(c.Fleet(t.Context()))(t); f.Members != 1 {
		t.Errorf("eve's part of the fleet has %d members", f.Members)
	}
}

// Who waits for approval is shown to, and let in or kept out by, operators in whose
// scope its labels lie, and nobody else with a scope.
func TestWhoWaitsIsAnsweredInItsScope(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	waits := func(id fleet.MemberID, region string) {
		t.Helper()
		tok := must(w.admin.CreateToken(t.Context(), api.TokenRequest{Approve: true, Labels: fleet.Labels{"region": region}}))(t)
		join := must(trust.ParseJoinToken(tok.Text))(t)
		anon := must(api.NewClient(api.Options{URL: join.URL, Pin: join.TLS.String()}))(t)
		defer anon.Close()
		r := must(anon.Enrol(t.Context(), api.EnrolRequest{
			TokenID: join.ID, Secret: join.SecretText(), Member: id, Kind: fleet.Device, Labels: fleet.Labels{"class": "x"},
			CSR: csr(t, must(signer.Ephemeral())(t)), Agent: "1.0.0", Platform: "linux/amd64",
		}))(t)
		if len(r.Certificate) > 0 {
			t.Fatalf("%s was let in without approval", id)
		}
	}
	waits("eu-1", "eu")
	waits("eu-2", "eu")
	waits("us-1", "us")
	as := func(region string) *api.Client {
		o := must(w.admin.CreateOperator(t.Context(), api.OperatorRequest{
			Name: "of-" + region, Role: api.Operator, Scope: api.Scope{Members: must(fleet.ParseSelector("region=" + region))(t)},
		}))(t)
		c := must(api.NewClient(api.Options{URL: w.addr.URL, Pin: w.addr.Pin, Token: o.Text}))(t)
		t.Cleanup(c.Close)
		return c
	}
	eu, us := as("eu"), as("us")
	names := func(c *api.Client) (out []fleet.MemberID) {
		for _, p := range must(c.Pending(t.Context()))(t) {
			if p.State == api.Waiting {
				out = append(out, p.Member)
			}
		}
		return out
	}
	if diff := cmp.Diff([]fleet.MemberID{"us-1"}, names(us)); diff != "" {
		t.Errorf("who waits in us (-want +got):\n%s", diff)
	}
	for name, call := range map[string]func(context.Context, fleet.MemberID, api.ApprovalRequest) error{"approve": us.ApproveMember, "deny": us.DenyMember} {
		if err := call(t.Context(), "eu-1", api.ApprovalRequest{}); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "outside the scope of of-us (region=us)") {
			t.Errorf("%s outside the scope: %v", name, err)
		}
	}
	if diff := cmp.Diff([]fleet.MemberID{"eu-1", "eu-2"}, names(eu)); diff != "" {
		t.Errorf("who waits in eu (-want +got):\n%s", diff)
	}
	waiting := must(eu.Pending(t.Context()))(t)
	key := map[fleet.MemberID]string{}
	for _, p := range waiting {
		key[p.Member] = p.Fingerprint
	}
	ok(t, eu.ApproveMember(t.Context(), "eu-1", api.ApprovalRequest{Fingerprint: key["eu-1"]}))
	ok(t, eu.DenyMember(t.Context(), "eu-2", api.ApprovalRequest{Fingerprint: key["eu-2"], Reason: "not ours"}))
	if got := names(eu); slices.Contains(got, "eu-2") {
		t.Errorf("who was denied waits still: %v", got)
	}
	if diff := cmp.Diff([]fleet.MemberID{"us-1"}, names(us)); diff != "" {
		t.Errorf("who waits in us (-want +got):\n%s", diff)
	}
}
