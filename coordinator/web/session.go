package web

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/throttle"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// The cookies. Over TLS they are named so that browsers take them from this host
// alone: a neighbour in the domain cannot plant one.
const (
	sessionCookie = "modelfleet_session"
	signInCookie  = "modelfleet_signin"
)

// formField carries a session's secret of forms, so that a post comes from a page
// that this session was shown.
const formField = "form"

// errNoSession is a visitor without a cookie.
var errNoSession = errors.New("not signed in")

// visitor is who a request comes from.
func (s *site) visitor(r *http.Request, active bool) (visitor, error) {
	c, err := r.Cookie(cookieName(r, sessionCookie))
	if err != nil {
		return visitor{}, errNoSession
	}
	op, err := s.Source.Visit(r.Context(), c.Value, active)
	if err != nil {
		return visitor{}, err
	}
	sum := sha256.Sum256([]byte("modelfleet/form/v1\x00" + c.Value))
	return visitor{op, hex.EncodeToString(sum[:])}, nil
}

// navigates tells a person who goes somewhere from a page that refreshes itself:
// only the former is somebody at work. Browsers that do not say count as people.
func navigates(r *http.Request) bool {
	mode := r.Header.Get("Sec-Fetch-Mode")
	return mode == "" || mode == "navigate"
}

// signedIn lets only operators through; others are asked to sign in and brought
// back to where they wanted to go. A post must carry its session's form secret.
func (s *site) signedIn(next func(http.ResponseWriter, *http.Request, visitor)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := s.visitor(r, navigates(r))
		switch {
		case err == nil && r.Method == http.MethodPost:
			r.Body = http.MaxBytesReader(w, r.Body, 8<<10)
			if subtle.ConstantTimeCompare([]byte(r.PostFormValue(formField)), []byte(who.Form)) != 1 {
				s.problem(w, r, fault.Newf(fault.Denied, "take form", r.URL.Path, "it is not of a page of this session").
					WithHint("go back, load the page again and repeat it"), who)
				return
			}
			next(w, r, who)
		case err == nil:
			next(w, r, who)
		case isDenied(err):
			q := url.Values{}
			if r.Method == http.MethodGet && r.URL.Path != "/" && r.URL.Path != "/events" {
				q.Set("next", r.URL.RequestURI())
			}
			if !errors.Is(err, errNoSession) {
				q.Set("over", "1")
			}
			http.Redirect(w, r, withQuery("/login", q), http.StatusSeeOther)
		default:
			s.problem(w, r, err, visitor{})
		}
	})
}

func withQuery(path string, q url.Values) string {
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}

// isDenied tells who may not from a coordinator that cannot answer.
func isDenied(err error) bool { return fault.Is(err, fault.Denied) || errors.Is(err, errNoSession) }

// loginPage is what the sign-in form shows.
type loginPage struct {
	Next, Problem, Hint string
	Issuer              string // "": by token only
	Over                bool   // a session ended
}

func (s *site) loginPage(next string) loginPage {
	p := loginPage{Next: next}
	if s.Issuer != nil {
		p.Issuer = s.Issuer.Host()
	}
	return p
}

func (s *site) loginForm(w http.ResponseWriter, r *http.Request) {
	if _, err := s.visitor(r, false); err == nil {
		http.Redirect(w, r, local(r.FormValue("next")), http.StatusSeeOther)
		return
	}
	p := s.loginPage(local(r.FormValue("next")))
	p.Over = r.FormValue("over") != ""
	s.render(w, r, http.StatusOK, view{page: "login", title: "Sign in", data: p}, visitor{})
}

// notIn shows the sign-in page again, with why it did not work.
func (s *site) notIn(w http.ResponseWriter, r *http.Request, next string, err error) {
	kind := fault.KindOf(err)
	if kind == fault.Internal {
		s.Logger.Error("sign-in failed", "err", err)
	}
	if kind == fault.Denied || kind == fault.Untrusted {
		s.Throttle.Failed(throttle.Address(r))
		s.Logger.Warn("sign-in refused", "from", throttle.Address(r), "err", err)
	}
	p := s.loginPage(next)
	p.Problem, p.Hint = err.Error(), fault.Hint(err)
	s.render(w, r, kind.Status(), view{page: "login", title: "Sign in", data: p}, visitor{})
}

func (s *site) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 8<<10)
	token, next := strings.TrimSpace(r.PostFormValue("token")), local(r.PostFormValue("next"))
	err := s.Throttle.Check(throttle.Address(r))
	var op api.OperatorToken
	if err == nil {
		op, err = s.Source.SignInByToken(r.Context(), token)
	}
	if err != nil {
		s.notIn(w, r, next, err)
		return
	}
	s.enter(w, r, op, next)
}

// enter gives the browser its session: always a new one, whatever it had.
func (s *site) enter(w http.ResponseWriter, r *http.Request, op api.OperatorToken, next string) {
	s.Throttle.Succeeded(throttle.Address(r))
	if c, err := r.Cookie(cookieName(r, sessionCookie)); err == nil {
		if err := s.Source.SignOut(r.Context(), c.Value, false); err != nil {
			s.problem(w, r, err, visitor{})
			return
		}
	}
	http.SetCookie(w, cookie(r, sessionCookie, op.Text, int(op.Expires.Sub(s.Now()).Seconds())))
	http.Redirect(w, r, next, http.StatusSeeOther)
}

// logout ends the session, and with "all" every session of its holder.
func (s *site) logout(w http.ResponseWriter, r *http.Request, _ visitor) {
	c, err := r.Cookie(cookieName(r, sessionCookie))
	if err == nil {
		err = s.Source.SignOut(r.Context(), c.Value, r.PostFormValue("all") != "")
	}
	if err != nil {
		s.problem(w, r, err, visitor{})
		return
	}
	http.SetCookie(w, cookie(r, sessionCookie, "", -1))
	w.Header().Set("Clear-Site-Data", `"cache", "cookies", "storage"`)
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// cookie is sent with navigations from elsewhere, as the issuer's way back is
// one, and never with a post, a frame or a script from there.
func cookie(r *http.Request, name, text string, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name: cookieName(r, name), Value: text, Path: "/", MaxAge: maxAge,
		HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteLaxMode,
	}
}

func cookieName(r *http.Request, name string) string {
	if r.TLS != nil {
		return "__Host-" + name
	}
	return name
}

// local keeps a redirect on this site: anything but a path of ours is "/".
func local(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.Contains(next, `\`) {
		return "/"
	}
	return next
}

// signInTime is how long a person has to sign in at the issuer.
const signInTime = 10 * time.Minute
