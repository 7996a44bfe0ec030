package coordinator_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/oidc/oidctest"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// roles writes other lines into the -oidc file.
func (w *world) roles(lines string) {
	w.t.Helper()
	var conf map[string]json.RawMessage
	ok(w.t, json.Unmarshal(must(os.ReadFile(w.opts.OIDC))(w.t), &conf))
	conf["roles"] = json.RawMessage(lines)
	ok(w.t, os.WriteFile(w.opts.OIDC+".new", must(json.Marshal(conf))(w.t), 0o600))
	ok(w.t, os.Rename(w.opts.OIDC+".new", w.opts.OIDC))
}

// taken writes other lines and waits until they are in force.
func (w *world) taken(lines string) {
	w.t.Helper()
	said := func() int { return strings.Count(w.logs.String(), "roles of the -oidc file taken up") }
	before := said()
	w.roles(lines)
	w.eventually("the roles are taken up", func() bool { return said() > before })
}

// as is the same person's client of a coordinator that was started again.
func (w *world) as(token string) *api.Client {
	w.t.Helper()
	c := must(api.NewClient(api.Options{URL: w.addr.URL, Pin: w.addr.Pin, Token: token}))(w.t)
	w.t.Cleanup(c.Close)
	return c
}

const (
	chiefsOnly = `[{"group": "chiefs", "role": "admin"}]`
	withViewer = `[{"group": "chiefs", "role": "admin"}, {"group": "ml", "role": "viewer"}]`
	withML     = `[{"group": "chiefs", "role": "admin"}, {"group": "ml", "role": "approver"}]`
	mlOfModel  = `[{"group": "chiefs", "role": "admin"}, {"group": "ml", "role": "approver", "scope": {"models": ["other/*"]}}]`
	mlOfEU     = `[{"group": "chiefs", "role": "admin"}, {"group": "ml", "role": "operator", "scope": {"members": "region=eu"}}]`
	mlAndOps   = `[{"group": "chiefs", "role": "admin"}, {"group": "ops", "role": "operator"}, {"group": "ml", "role": "viewer"}]`
)

// What people who are signed in may do is what the file says now, not what it said
// when they signed in.
func TestRolesAreThoseOfTheFileOfNow(t *testing.T) {
	w, i := issuedWorldEvery(t, 20*time.Millisecond)
	bo := w.signIn(i, oidctest.Person("bo", "bo@example.com", "ml", "ops"))
	is := func(role api.Role, scope string) {
		t.Helper()
		w.eventually(string(role)+" "+scope, func() bool {
			who := must(bo.Whoami(t.Context()))(t)
			return who.Role == role && who.Scope.String() == scope
		})
	}
	is(api.Approver, "")
	w.roles(mlOfEU)
	is(api.Operator, "region=eu")
	w.roles(mlAndOps) // a group that had no role when bo signed in
	is(api.Operator, "")
	if _, err := bo.CreateToken(t.Context(), api.TokenRequest{}); err != nil {
		t.Errorf("an operator makes a token: %v", err)
	}
	w.roles(withViewer)
	is(api.Viewer, "")
	if _, err := bo.CreateToken(t.Context(), api.TokenRequest{}); !fault.Is(err, fault.Denied) {
		t.Errorf("a viewer makes a token: %v", err)
	}

	// A file that cannot be read changes nothing, and people are told.
	whole := must(os.ReadFile(w.opts.OIDC))(t)
	finding := func() string {
		for _, f := range must(w.admin.Health(t.Context()))(t).Findings {
			if f.Code == "sign-in" {
				return f.What + "\n" + f.Remedy
			}
		}
		return ""
	}
	ok(t, os.WriteFile(w.opts.OIDC, []byte(`{"roles": [`), 0o600))
	w.eventually("the broken file is a finding", func() bool { return strings.Contains(finding(), w.opts.OIDC) })
	is(api.Viewer, "")
	if !strings.Contains(w.logs.String(), "the -oidc file is not taken up") {
		t.Error("it is not logged")
	}
	ok(t, os.WriteFile(w.opts.OIDC, []byte(strings.Replace(string(whole), `"issuer":"http`, `"session":"1h","issuer":"http`, 1)), 0o600))
	w.eventually("so is one in which more than the roles changed", func() bool { return strings.Contains(finding(), "start the coordinator again") })
	ok(t, os.WriteFile(w.opts.OIDC, whole, 0o600))
	w.eventually("and none once it is mended", func() bool { return finding() == "" })

	w.roles(chiefsOnly)
	w.eventually("bo is refused", func() bool {
		_, err := bo.Whoami(t.Context())
		return fault.Is(err, fault.Denied) && strings.Contains(err.Error(), "gives them no role any more") && strings.Contains(fault.Hint(err), "ask an admin")
	})
	w.eventually("the session's end is in the audit log", func() bool {
		return strings.Contains(w.logs.String(), "operator signed out")
	})
	w.taken(withML)
	if _, err := bo.Whoami(t.Context()); !fault.Is(err, fault.Denied) {
		t.Errorf("the session that ended goes on when the line is back: %v", err)
	}
	w.checkAudit("operator.signed-out")
}

// A coordinator that was off while the file changed asks it before it serves.
func TestRolesAreReadAnewAtTheStart(t *testing.T) {
	w, i := issuedWorldEvery(t, time.Hour)
	w.signIn(i, oidctest.Person("bo", "bo@example.com", "ml"))
	bo := w.lastToken
	w.signIn(i, oidctest.Person("cyd", "cyd@example.com", "chiefs"))
	cyd := w.lastToken
	ok(t, w.stop())
	w.roles(chiefsOnly)
	w.start()
	if _, err := w.as(bo).Whoami(t.Context()); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), "no role any more") {
		t.Errorf("bo after the restart: %v", err)
	}
	if who := must(w.as(cyd).Whoami(t.Context()))(t); who.Role != api.Admin {
		t.Errorf("cyd after the restart: %+v", who)
	}
	ok(t, w.stop())
	w.opts.OIDC = ""
	w.start()
	if _, err := w.as(cyd).Whoami(t.Context()); !fault.Is(err, fault.Denied) {
		t.Errorf("cyd, of a coordinator without an issuer: %v", err)
	}
}

// What somebody approved counts while they might still approve it, signed in or not.
func TestAnApprovalGoesWithTheRole(t *testing.T) {
	w, i := issuedWorldEvery(t, 20*time.Millisecond)
	w.join(1)
	w.admit("1.0.0")
	ana, bo := w.signIn(i, oidctest.Person("ana", "ana@example.com", "chiefs")), w.signIn(i, oidctest.Person("bo", "bo@example.com", "ml"))
	spec := []byte(`{"stages": [{"name": "all", "percent": 100, "soak": "1h", "approval": 3}]}`)
	x := must(ana.StartRollout(t.Context(), api.RolloutRequest{Model: model, Version: "1.0.0", Spec: spec}))(t)
	state := func() api.RolloutInfo { return must(w.admin.Rollout(t.Context(), x.ID))(t) }
	w.eventually("approval is asked for", func() bool { return state().State == "AwaitingApproval" })
	for name, lines := range map[string]string{"no role": chiefsOnly, "a lesser role": withViewer, "another scope": mlOfModel} {
		must(bo.Command(t.Context(), x.ID, api.Approve, api.CommandRequest{}))(t)
		w.eventually("bo's counts", func() bool { return len(state().Approvals) == 1 })
		if name == "no role" {
			ok(t, bo.Logout(t.Context(), false)) // whose session is over is not forgotten
		}
		w.roles(lines)
		w.eventually(name+": and no more", func() bool { return len(state().Approvals) == 0 })
		w.taken(withML)
		bo = w.signIn(i, oidctest.Person("bo", "bo@example.com", "ml"))
	}
}

// issuedWorldEvery is one that looks for other roles every so often.
func issuedWorldEvery(t *testing.T, every time.Duration) (*world, *oidctest.Issuer) {
	t.Helper()
	w, i := prepareIssued(t)
	w.opts.Reload = every
	w.start()
	return w, i
}
