package coordinator_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/cli"
	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/coordinator/oidc/oidctest"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// issuedWorld is a coordinator whose people sign in at an issuer.
func issuedWorld(t *testing.T) (*world, *oidctest.Issuer) {
	t.Helper()
	w, i := prepareIssued(t)
	w.start()
	return w, i
}

// prepareIssued is one that is not started yet.
func prepareIssued(t *testing.T) (*world, *oidctest.Issuer) {
	t.Helper()
	i, w := oidctest.Start(t), newWorld(t)
	folder := t.TempDir()
	secret := filepath.Join(folder, "secret")
	ok(t, os.WriteFile(secret, []byte(oidctest.ClientSecret), 0o600))
	conf := must(json.Marshal(map[string]any{
		"issuer": i.URL, "clientId": oidctest.ClientID, "clientSecretFile": secret,
		"roles": []map[string]any{{"group": "chiefs", "role": "admin"}, {"group": "ml", "role": "approver"}, {"group": "eu", "role": "viewer", "scope": map[string]any{"members": "region=eu"}}},
	}))(t)
	w.opts.OIDC = filepath.Join(folder, "oidc.json")
	ok(t, os.WriteFile(w.opts.OIDC, conf, 0o600))
	return w, i
}

var address = regexp.MustCompile(`http://127\.0\.0\.1:\d+/authorize\S*`)

// command runs modelfleet with a context of its own; see is shown what it says.
func (w *world) command(home string, stdin io.Reader, see func(said string), args ...string) (int, string, string) {
	var out syncBuffer
	said := &teller{see: see}
	env := map[string]string{"HOME": home, "MODELFLEET_URL": w.addr.URL, "MODELFLEET_PIN": w.addr.Pin, "PATH": "/nowhere"}
	code := cli.Run(w.t.Context(), cli.Options{
		Args: args, Streams: console.Streams{In: stdin, Out: &out, Err: said}, Env: func(k string) string { return env[k] }, Version: "test",
	})
	return code, out.String(), said.String()
}

// teller passes on what is said as it is said.
type teller struct {
	syncBuffer
	see func(string)
}

func (s *teller) Write(p []byte) (int, error) {
	n, err := s.syncBuffer.Write(p)
	if s.see != nil {
		s.see(string(p))
	}
	return n, err
}

func TestPeopleSignInFromTheCommandLine(t *testing.T) {
	w, i := issuedWorld(t)
	home := t.TempDir()
	browser := func(said string) {
		if at := address.FindString(said); at != "" {
			go func() {
				resp, err := http.Get(at) // to the issuer, and back to the command
				if err == nil {
					resp.Body.Close()
				}
			}()
		}
	}
	code, _, said := w.command(home, nil, browser, "login", "--no-browser")
	if code != 0 || !strings.Contains(said, "signed in as ana@example.com, approver") {
		t.Fatalf("login: %d\n%s", code, said)
	}
	path := filepath.Join(home, ".config", "modelfleet", "context.json")
	if mode := must(os.Stat(path))(t).Mode().Perm(); mode != 0o600 {
		t.Errorf("the context file has mode %o", mode)
	}
	kept := must(api.LoadContext(path))(t)
	if db := must(os.ReadFile(filepath.Join(w.opts.Data, "coordinator.db-wal")))(t); strings.Contains(string(db), kept.Token) {
		t.Error("the store holds the session's token itself")
	}
	if code, out, _ := w.command(home, nil, nil, "whoami"); code != 0 || !strings.Contains(out, "ana@example.com") || !strings.Contains(out, "sign-in") {
		t.Errorf("whoami: %d\n%s", code, out)
	}
	i.Set(func(i *oidctest.Issuer) { i.Down = true })
	if code, _, said := w.command(home, nil, nil, "members", "list"); code != 0 {
		t.Errorf("with the issuer away, who is signed in: %d\n%s", code, said)
	}
	if code, _, said := w.command(t.TempDir(), nil, nil, "login", "--device"); code != fault.Transient.Exit() || !strings.Contains(said, "is the issuer up") {
		t.Errorf("with the issuer away, who signs in: %d\n%s", code, said)
	}
	if code, _, said := w.command(home, nil, nil, "logout"); code != 0 {
		t.Errorf("logout: %d\n%s", code, said)
	}
	c := must(kept.Client())(t)
	defer c.Close()
	if _, err := c.Fleet(t.Context()); !fault.Is(err, fault.Denied) || !strings.Contains(fault.Hint(err), "modelfleet login") {
		t.Errorf("a copied token after signing out: %v, hint %q", err, fault.Hint(err))
	}
	w.checkAudit("operator.signed-in", "operator.signed-out")
}

func TestPeopleSignInWithoutABrowser(t *testing.T) {
	w, i := issuedWorld(t)
	i.Set(func(i *oidctest.Issuer) { i.Claims = oidctest.Person("eu-1", "eu@example.com", "eu") })
	home := t.TempDir()
	code, _, said := w.command(home, nil, func(said string) {
		if strings.Contains(said, "WDJB-MJHT") {
			i.AllowDevice()
		}
	}, "login", "--device")
	if code != 0 || !strings.Contains(said, "viewer for region=eu") {
		t.Errorf("by device: %d\n%s", code, said)
	}
	in, typed := io.Pipe()
	code, _, said = w.command(t.TempDir(), in, func(said string) {
		at := address.FindString(said)
		if at == "" {
			return
		}
		go func() {
			elsewhere := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			resp, err := elsewhere.Get(at)
			if err != nil {
				typed.CloseWithError(err)
				return
			}
			resp.Body.Close()
			io.WriteString(typed, resp.Header.Get("Location")+"\n")
		}()
	}, "login", "--paste")
	if code != 0 || !strings.Contains(said, "signed in as eu@example.com") {
		t.Errorf("by pasting: %d\n%s", code, said)
	}
	wrong := strings.NewReader("http://127.0.0.1:1/?code=x&state=guessed\n")
	if code, _, said := w.command(t.TempDir(), wrong, nil, "login", "--paste"); code != fault.Denied.Exit() || !strings.Contains(said, "another sign-in") {
		t.Errorf("an address of another sign-in: %d\n%s", code, said)
	}
}

// signIn is a person's client, signed in as a command would.
func (w *world) signIn(i *oidctest.Issuer, claims map[string]any) *api.Client {
	w.t.Helper()
	i.Set(func(i *oidctest.Issuer) { i.Claims = claims })
	anon := must(api.NewClient(api.Options{URL: w.addr.URL, Pin: w.addr.Pin}))(w.t)
	defer anon.Close()
	info := must(anon.LoginInfo(w.t.Context()))(w.t)
	q := api.LoginRequest{Redirect: "http://127.0.0.1:9/", Nonce: strings.Repeat("n", 32), Verifier: strings.Repeat("v", 64)}
	at := info.AuthURL + "?" + url.Values{
		"client_id": {info.ClientID}, "response_type": {"code"}, "scope": {strings.Join(info.Scopes, " ")}, "redirect_uri": {q.Redirect},
		"state": {"s"}, "nonce": {q.Nonce}, "code_challenge_method": {"S256"}, "code_challenge": {challenge(q.Verifier)},
	}.Encode()
	elsewhere := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp := must(elsewhere.Get(at))(w.t)
	resp.Body.Close()
	back := must(url.Parse(resp.Header.Get("Location")))(w.t)
	q.Code = back.Query().Get("code")
	op := must(anon.Login(w.t.Context(), q))(w.t)
	w.lastToken = op.Text
	c := must(api.NewClient(api.Options{URL: w.addr.URL, Pin: w.addr.Pin, Token: op.Text}))(w.t)
	w.t.Cleanup(c.Close)
	return c
}

// One person signed in twice, and with a token they made, is one person.
func TestOnePersonApprovesOnce(t *testing.T) {
	w, i := issuedWorld(t)
	w.join(1)
	w.admit("1.0.0")
	ana, again := w.signIn(i, oidctest.Person("ana", "ana@example.com", "chiefs")), w.signIn(i, oidctest.Person("ana", "ana.new@example.com", "chiefs"))
	bo, cyd := w.signIn(i, oidctest.Person("bo", "bo@example.com", "ml")), w.signIn(i, oidctest.Person("cyd", "cyd@example.com", "ml"))
	made := must(ana.CreateOperator(t.Context(), api.OperatorRequest{Name: "robot", Role: api.Approver}))(t)
	robot := must(api.NewClient(api.Options{URL: w.addr.URL, Pin: w.addr.Pin, Token: made.Text}))(t)
	defer robot.Close()
	spec := []byte(`{"stages": [{"name": "all", "percent": 100, "soak": "1h", "approval": 2}]}`)
	x := must(ana.StartRollout(t.Context(), api.RolloutRequest{Model: model, Version: "1.0.0", Spec: spec}))(t)
	state := func() api.RolloutInfo { return must(ana.Rollout(t.Context(), x.ID))(t) }
	w.eventually("approval is asked for", func() bool { return state().State == "AwaitingApproval" })
	for name, c := range map[string]*api.Client{"the author": ana, "the author by another name": again, "a token of the author's": robot} {
		if _, err := c.Command(t.Context(), x.ID, api.Approve, api.CommandRequest{}); !fault.Is(err, fault.Denied) {
			t.Errorf("%s approves: %v", name, err)
		}
	}
	must(bo.Command(t.Context(), x.ID, api.Approve, api.CommandRequest{}))(t)
	w.eventually("bo's counts", func() bool { return len(state().Approvals) == 1 })
	ok(t, ana.DeleteOperator(t.Context(), "bo@example.com"))
	w.eventually("and no more once bo is out", func() bool { return len(state().Approvals) == 0 })
	if _, err := bo.Fleet(t.Context()); !fault.Is(err, fault.Denied) {
		t.Errorf("bo still sees: %v", err)
	}
	must(cyd.Command(t.Context(), x.ID, api.Approve, api.CommandRequest{}))(t)
	must(w.admin.Command(t.Context(), x.ID, api.Approve, api.CommandRequest{}))(t)
	w.eventually("two others' do", func() bool { return state().State == "Running" })
}

func TestOperatorTokensEndAndAreRotated(t *testing.T) {
	w := newWorld(t)
	w.start()
	client := func(text string) *api.Client {
		c := must(api.NewClient(api.Options{URL: w.addr.URL, Pin: w.addr.Pin, Token: text, Attempts: 1}))(t)
		t.Cleanup(c.Close)
		return c
	}
	short := client(must(w.admin.CreateOperator(t.Context(), api.OperatorRequest{Name: "short", Role: api.Viewer, TTL: 1_000_000_000}))(t).Text)
	w.eventually("it ends", func() bool {
		_, err := short.Fleet(t.Context())
		return fault.Is(err, fault.Denied) && strings.Contains(err.Error(), "ended at") && strings.Contains(fault.Hint(err), "rotate short")
	})
	old := client(must(w.admin.CreateOperator(t.Context(), api.OperatorRequest{Name: "vi", Role: api.Viewer}))(t).Text)
	if _, err := old.RotateOperator(t.Context(), "admin", api.RotateRequest{}); !fault.Is(err, fault.Denied) {
		t.Errorf("a viewer rotated the admin's token: %v", err)
	}
	fresh := client(must(old.RotateOperator(t.Context(), "vi", api.RotateRequest{}))(t).Text)
	if _, err := old.Fleet(t.Context()); !fault.Is(err, fault.Denied) {
		t.Errorf("the old token: %v", err)
	}
	must(fresh.Fleet(t.Context()))(t)
	for _, o := range must(w.admin.Operators(t.Context()))(t) {
		if o.Name == "vi" && (o.Used.IsZero() || o.By != "admin" || o.Text != "") {
			t.Errorf("vi is listed as %+v", o)
		}
	}
	// Nobody but an admin makes a token live longer than it was given to live.
	temp := client(must(w.admin.CreateOperator(t.Context(), api.OperatorRequest{Name: "temp", Role: api.Operator, TTL: fleet.Duration(time.Hour)}))(t).Text)
	if _, err := temp.RotateOperator(t.Context(), "temp", api.RotateRequest{TTL: fleet.Duration(24 * time.Hour)}); !fault.Is(err, fault.Denied) {
		t.Errorf("a token of an hour made itself one of a day: %v, want Denied", err)
	}
	if o := must(temp.RotateOperator(t.Context(), "temp", api.RotateRequest{}))(t); o.Expires.IsZero() || time.Until(o.Expires) > time.Hour {
		t.Errorf("a token of an hour made itself one until %s", o.Expires)
	}
	if o := must(w.admin.RotateOperator(t.Context(), "temp", api.RotateRequest{TTL: fleet.Duration(24 * time.Hour)}))(t); time.Until(o.Expires) < 23*time.Hour {
		t.Errorf("an admin made it last until %s", o.Expires)
	}
	w.checkAudit("operator.rotated")
}

func TestAStreamEndsWithItsSession(t *testing.T) {
	t.Parallel() // it ends with a heartbeat, in 15 s
	w, i := issuedWorld(t)
	c := w.signIn(i, oidctest.Person("ana", "ana@example.com", "ml"))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- c.Events(ctx, func(api.Event) error { return nil }) }()
	w.eventually("it streams", func() bool { return strings.Contains(w.logs.String(), "operator signed in") })
	ok(t, c.Logout(t.Context(), false))
	if err := <-ended; ctx.Err() != nil {
		t.Errorf("the stream goes on after signing out: %v", err)
	}
}

// challenge is PKCE's S256 of a verifier.
func challenge(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Whatever the moment in which an approver is deleted, what they approved does not
// count afterwards.
func TestAnApprovalInTheMomentOfADeletionDoesNotCount(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.join(1)
	w.admit("1.0.0")
	spec := []byte(`{"stages": [{"name": "all", "percent": 100, "soak": "1h", "approval": 3}]}`)
	x := must(w.operator("author", api.Operator).StartRollout(t.Context(), api.RolloutRequest{Model: model, Version: "1.0.0", Spec: spec}))(t)
	state := func() api.RolloutInfo { return must(w.admin.Rollout(t.Context(), x.ID))(t) }
	w.eventually("approval is asked for", func() bool { return state().State == "AwaitingApproval" })
	command := func(c api.Command, then string) {
		must(w.admin.Command(t.Context(), x.ID, c, api.CommandRequest{}))(t)
		w.eventually(then, func() bool { return state().State == then })
	}
	for i := range 6 {
		name := fmt.Sprint("ap", i)
		c := w.operator(name, api.Approver)
		done := make(chan error, 1)
		go func() {
			_, err := c.Command(context.Background(), x.ID, api.Approve, api.CommandRequest{})
			done <- err
		}()
		ok(t, w.admin.DeleteOperator(t.Context(), name))
		if err := <-done; err != nil && !fault.Is(err, fault.Denied) {
			t.Errorf("%s: %v", name, err)
		}
		command(api.Pause, "Paused") // all that was said before is taken
		if n := len(state().Approvals); n != 0 {
			t.Fatalf("%d approvals count after %s was deleted", n, name)
		}
		command(api.Resume, "AwaitingApproval")
	}
}
