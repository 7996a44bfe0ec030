package cli

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/oauth2"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// loginTime is how long a person has to sign in.
const loginTime = 10 * time.Minute

// login is `login`.
type login struct {
	*desk
	device, paste, noBrowser bool
}

func (d *desk) loginCommand() *cobra.Command {
	o := &login{desk: d}
	cmd := &cobra.Command{
		Use: "login", Short: "Sign in with the fleet's OpenID issuer", Args: cobra.NoArgs,
		Long: `Sign in with the OpenID issuer that the coordinator names. A browser opens on this
machine; once you have signed in, the context file holds a session token that is
valid for some hours. Without a browser here, --device shows a code to enter on
another machine, and --paste accepts the final address of a browser elsewhere.

The first time, give the coordinator's address with --url and --pin.`,
		Example: `  modelfleet login --url https://fleet.example:8443 --pin 1048cb...
  modelfleet login --device`,
		RunE: run(func(ctx context.Context, _ []string) error { return o.run(ctx) }),
	}
	cmd.Flags().BoolVar(&o.device, "device", false, "sign in on another device with a code")
	cmd.Flags().BoolVar(&o.paste, "paste", false, "sign in with a browser elsewhere and paste its final address")
	cmd.Flags().BoolVar(&o.noBrowser, "no-browser", false, "print the address instead of opening a browser")
	return cmd
}

func (o *login) run(ctx context.Context) error {
	conf, err := o.context()
	if err != nil {
		return err
	}
	conf.Token = ""
	client, err := conf.Client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, loginTime, fault.Newf(fault.Canceled, "sign in", "", "nobody did within %s", loginTime))
	defer cancel()
	var op api.OperatorToken
	switch {
	case o.device && o.paste:
		return fault.Newf(fault.Invalid, "sign in", "", "both --device and --paste are given").WithHint("give one of them")
	case o.device:
		op, err = o.byDevice(ctx, client)
	default:
		op, err = o.byBrowser(ctx, client)
	}
	if err != nil {
		return err
	}
	conf.Token = op.Text
	if conf.Fleet == "" {
		known, err := conf.Client()
		if err != nil {
			return err
		}
		info, err := known.Fleet(ctx)
		if err != nil {
			return err
		}
		conf.Fleet = info.Name
	}
	path, _ := o.contextFile()
	if err := keepContext(path, conf); err != nil {
		return err
	}
	op.Text = ""
	if o.json() {
		return o.JSON(op)
	}
	o.Say("signed in as %s, %s, until %s (%s)", op.Name, standing(op), op.Expires.Local().Format("15:04"), path)
	return nil
}

// standing is a role with its scope.
func standing(op api.OperatorToken) string {
	if op.Scope.IsZero() {
		return string(op.Role)
	}
	return string(op.Role) + " for " + op.Scope.String()
}

// byBrowser has the issuer send its code to a listener on this machine, or, with
// paste, to an address that a person copies.
func (o *login) byBrowser(ctx context.Context, client *api.Client) (api.OperatorToken, error) {
	info, err := client.LoginInfo(ctx)
	if err != nil {
		return api.OperatorToken{}, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return api.OperatorToken{}, fault.New(fault.Internal, "listen for the browser", "127.0.0.1", err).WithHint("use --device")
	}
	defer ln.Close()
	q := api.LoginRequest{Redirect: "http://" + ln.Addr().String() + "/", Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier()}
	state := rand.Text()
	conf := oauth2.Config{ClientID: info.ClientID, RedirectURL: q.Redirect, Scopes: info.Scopes, Endpoint: oauth2.Endpoint{AuthURL: info.AuthURL}}
	at := conf.AuthCodeURL(state, oauth2.SetAuthURLParam("nonce", q.Nonce), oauth2.S256ChallengeOption(q.Verifier))
	o.Say("Sign in at %s:\n\n  %s\n", info.Issuer, at)
	var back url.Values
	if o.paste {
		back, err = o.pasted(ctx)
	} else {
		if !o.noBrowser && browse(at) != nil {
			o.Say("no browser opened: open the address yourself, or use --device or --paste")
		}
		back, err = o.called(ctx, ln, state)
	}
	if err != nil {
		return api.OperatorToken{}, err
	}
	if q.Code, err = codeOf(back, state); err != nil {
		return api.OperatorToken{}, err
	}
	return client.Login(ctx, q)
}

// codeOf is the code in what the issuer sent back.
func codeOf(back url.Values, state string) (string, error) {
	switch {
	case subtle.ConstantTimeCompare([]byte(back.Get("state")), []byte(state)) != 1:
		return "", fault.Newf(fault.Denied, "sign in", "", "what came back belongs to another sign-in").WithHint("run `modelfleet login` again")
	case back.Get("error") != "":
		return "", fault.Newf(fault.Denied, "sign in", "", "the issuer refused: %s %s", back.Get("error"), back.Get("error_description"))
	case back.Get("code") == "":
		return "", fault.Newf(fault.Invalid, "sign in", "", "there is no code in what came back")
	}
	return back.Get("code"), nil
}

// called serves the one request that brings the code. Others, a stranger's on
// this machine or the browser's for an icon, change nothing.
func (o *login) called(ctx context.Context, ln net.Listener, state string) (url.Values, error) {
	got := make(chan url.Values, 1)
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if r.URL.Path != "/" || subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(state)) != 1 {
			http.NotFound(w, r)
			return
		}
		select {
		case got <- q:
		default:
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Connection", "close")
		_, _ = w.Write([]byte("You can close this page: modelfleet goes on in the terminal.\n")) // the terminal says how it went
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if err := server.Shutdown(stop); err != nil {
			server.Close()
		}
		<-served
	}()
	select {
	case q := <-got:
		return q, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// pasted reads the address that a browser ended at.
func (o *login) pasted(ctx context.Context) (url.Values, error) {
	o.Say("The browser will end at a page that it cannot open. Paste that page's address here:")
	type line struct {
		text string
		err  error
	}
	lines := make(chan line, 1)
	go func() { // ends with the process at the latest: a terminal's read cannot be cancelled
		text, err := bufio.NewReader(o.In).ReadString('\n')
		lines <- line{text, err}
	}()
	select {
	case l := <-lines:
		u, err := url.Parse(strings.TrimSpace(l.text))
		if err != nil || u.RawQuery == "" {
			return nil, fault.New(fault.Invalid, "sign in", "", cmp.Or(err, l.err, errors.New("that is no address with a code"))).
				WithHint("copy the whole address: it begins with http://127.0.0.1")
		}
		return u.Query(), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// byDevice has the person sign in on another device and waits.
func (o *login) byDevice(ctx context.Context, client *api.Client) (api.OperatorToken, error) {
	d, err := client.BeginDevice(ctx)
	if err != nil {
		return api.OperatorToken{}, err
	}
	o.Say("On any device, open\n\n  %s\n\nand type in the code  %s\n", d.URL, d.UserCode)
	if d.CompleteURL != "" {
		o.Say("or open %s and compare the code", d.CompleteURL)
	}
	tick := time.NewTicker(time.Duration(d.Interval) * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return api.OperatorToken{}, context.Cause(ctx)
		}
		reply, err := client.PollDevice(ctx, d.Handle)
		switch {
		case fault.Is(err, fault.Transient):
			continue // the coordinator or the issuer was away for a moment
		case err != nil:
			return api.OperatorToken{}, err
		case reply.Token != nil:
			return *reply.Token, nil
		}
	}
}

// browse opens an address in the person's browser.
func browse(address string) error {
	switch runtime.GOOS {
	case "darwin":
		return exec.Command("open", address).Start()
	case "windows":
		return exec.Command("rundll32", "url.dll,FileProtocolHandler", address).Start()
	}
	return exec.Command("xdg-open", address).Start()
}

func (d *desk) logoutCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "logout", Short: "Sign out of this context", Args: cobra.NoArgs,
		Long: `Sign out: end this context's session at the coordinator and remove it from the file.
--all ends all your sessions, on every machine and in every browser.`,
		Example: "  modelfleet logout\n  modelfleet logout --all",
		RunE: run(func(ctx context.Context, _ []string) error {
			conf, err := d.context()
			if err != nil {
				return err
			}
			client, err := conf.Client()
			if err != nil {
				return err
			}
			// One that is over already is as good as ended.
			if err := client.Logout(ctx, all); err != nil && !fault.Is(err, fault.Denied) {
				return err
			}
			conf.Token = ""
			path, _ := d.contextFile()
			if err := keepContext(path, conf); err != nil {
				return err
			}
			d.Say("signed out (%s)", path)
			return nil
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "end all your sessions")
	return cmd
}

func (d *desk) whoamiCommand() *cobra.Command {
	return &cobra.Command{
		Use: "whoami", Short: "Show your identity and role", Args: cobra.NoArgs,
		Example: "  modelfleet whoami",
		RunE: ask(d, func(ctx context.Context, c *api.Client, _ []string) (api.OperatorToken, error) { return c.Whoami(ctx) },
			func(me api.OperatorToken) error {
				how, until := "operator token", "it is deleted"
				if me.Session {
					how = "sign-in"
				}
				if !me.Expires.IsZero() {
					until = me.Expires.Local().Format(time.RFC3339)
				}
				return d.Pairs("name", me.Name, "role", string(me.Role), "members", me.Scope.Members.String(), "models", strings.Join(me.Scope.Models, ", "), "by", how, "until", until)
			}),
	}
}
