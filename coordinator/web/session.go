package web

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

const cookieName = "modelfleet_session"

// errNoSession is a visitor without a valid cookie.
var errNoSession = errors.New("not signed in")

// session is what the cookie carries, sealed: the token itself, so that every
// request is judged by the coordinator's present list of operators.
type session struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

// sealer encrypts and authenticates cookies.
type sealer struct{ aead cipher.AEAD }

func newSealer(secret []byte) (sealer, error) {
	if len(secret) == 0 {
		secret = make([]byte, 32)
		rand.Read(secret) // never fails
	}
	// The caller's secret may serve elsewhere too: derive a key of our own.
	key := sha256.Sum256(append([]byte("modelfleet/web-session/v1\x00"), secret...))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return sealer{}, fault.New(fault.Internal, "make session key", "", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return sealer{}, fault.New(fault.Internal, "make session key", "", err)
	}
	return sealer{aead}, nil
}

// lock is the cookie's text for a session.
func (s sealer) lock(v session) (string, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(s.aead.Seal(nil, nil, plain, nil)), nil
}

// open is the session of a cookie's text, or errNoSession.
func (s sealer) open(text string, now time.Time) (session, error) {
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return session{}, errNoSession
	}
	plain, err := s.aead.Open(nil, nil, sealed, nil)
	if err != nil {
		return session{}, errNoSession
	}
	var v session
	if json.Unmarshal(plain, &v) != nil || !now.Before(v.Expires) {
		return session{}, errNoSession
	}
	return v, nil
}

// visitor is who a request comes from.
func (s *site) visitor(r *http.Request) (visitor, error) {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return visitor{}, errNoSession
	}
	v, err := s.seal.open(c.Value, s.Now())
	if err != nil {
		return visitor{}, err
	}
	return s.who(r.Context(), v.Token)
}

func (s *site) who(ctx context.Context, token string) (visitor, error) {
	op, err := s.Source.Authenticate(ctx, token)
	return visitor{op}, err
}

// signedIn lets only operators through; others are asked to sign in and brought
// back to where they wanted to go.
func (s *site) signedIn(next func(http.ResponseWriter, *http.Request, visitor)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := s.visitor(r)
		switch {
		case err == nil:
			next(w, r, who)
		case isDenied(err):
			to := "/login"
			if r.Method == http.MethodGet && r.URL.Path != "/" && r.URL.Path != "/events" {
				to += "?next=" + url.QueryEscape(r.URL.RequestURI())
			}
			http.Redirect(w, r, to, http.StatusSeeOther)
		default:
			s.problem(w, r, err, visitor{})
		}
	})
}

// isDenied tells a wrong token from a coordinator that cannot answer.
func isDenied(err error) bool { return fault.Is(err, fault.Denied) || errors.Is(err, errNoSession) }

// loginPage is what the sign-in form shows.
type loginPage struct {
	Next, Problem string
}

func (s *site) loginForm(w http.ResponseWriter, r *http.Request) {
	if _, err := s.visitor(r); err == nil {
		http.Redirect(w, r, local(r.FormValue("next")), http.StatusSeeOther)
		return
	}
	s.render(w, r, http.StatusOK, view{page: "login", title: "Sign in", data: loginPage{Next: local(r.FormValue("next"))}}, visitor{})
}

func (s *site) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 8<<10)
	token, next := strings.TrimSpace(r.FormValue("token")), local(r.FormValue("next"))
	if _, err := s.who(r.Context(), token); err != nil {
		if !isDenied(err) {
			s.problem(w, r, err, visitor{})
			return
		}
		s.render(w, r, http.StatusForbidden, view{page: "login", title: "Sign in", data: loginPage{
			Next: next, Problem: "The coordinator knows no operator by that token.",
		}}, visitor{})
		return
	}
	text, err := s.seal.lock(session{Token: token, Expires: s.Now().Add(s.Session)})
	if err != nil {
		s.problem(w, r, err, visitor{})
		return
	}
	http.SetCookie(w, s.cookie(r, text, int(s.Session.Seconds())))
	http.Redirect(w, r, next, http.StatusSeeOther)
}

func (s *site) logout(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, s.cookie(r, "", -1))
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

func (s *site) cookie(r *http.Request, text string, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name: cookieName, Value: text, Path: "/", MaxAge: maxAge,
		HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode,
	}
}

// local keeps a redirect on this site: anything but a path of ours is "/".
func local(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.Contains(next, `\`) {
		return "/"
	}
	return next
}
