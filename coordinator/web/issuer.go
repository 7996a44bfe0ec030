package web

import (
	"crypto/subtle"
	"net/http"
	"strings"

	"github.com/modelfleet/modelfleet/coordinator/oidc"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/coordinator/throttle"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// toIssuer begins a sign-in at the issuer and remembers it in the browser.
func (s *site) toIssuer(w http.ResponseWriter, r *http.Request) {
	next := local(r.FormValue("next"))
	if s.Issuer == nil {
		s.notIn(w, r, next, fault.Newf(fault.NotFound, "sign in", "", "this coordinator has no issuer").WithHint("sign in with an operator token"))
		return
	}
	flow := oidc.NewFlow(s.callback(r))
	to, err := s.Issuer.AuthURL(r.Context(), flow)
	if err != nil {
		s.notIn(w, r, next, err)
		return
	}
	text, err := s.seal.lock(signIn{Flow: flow, Next: next, Expires: s.Now().Add(signInTime)})
	if err != nil {
		s.notIn(w, r, next, err)
		return
	}
	http.SetCookie(w, cookie(r, signInCookie, text, int(signInTime.Seconds())))
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// callback is where the issuer sends browsers.
func (s *site) callback(r *http.Request) string {
	if s.URL != "" {
		return strings.TrimSuffix(s.URL, "/") + oidc.RedirectPath
	}
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	return scheme + r.Host + oidc.RedirectPath
}

// fromIssuer ends a sign-in that this browser began.
func (s *site) fromIssuer(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	deny := func(format string, args ...any) {
		s.notIn(w, r, "/", fault.Newf(fault.Denied, "sign in", "", format, args...).WithHint("begin again"))
	}
	c, err := r.Cookie(cookieName(r, signInCookie))
	if err != nil || s.Issuer == nil {
		deny("no sign-in was begun in this browser")
		return
	}
	http.SetCookie(w, cookie(r, signInCookie, "", -1)) // it ends here, well or not
	flow, ok := s.seal.open(c.Value, s.Now())
	switch {
	case !ok:
		deny("the sign-in took longer than %s, or is another coordinator's", signInTime)
		return
	case subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(flow.State)) != 1:
		deny("the answer belongs to another sign-in than this browser's last")
		return
	case q.Get("error") != "":
		deny("the issuer refused: %.200s %.200s", q.Get("error"), q.Get("error_description"))
		return
	}
	if err = s.Throttle.Check(throttle.Address(r)); err != nil {
		s.notIn(w, r, flow.Next, err)
		return
	}
	person, err := s.Issuer.Exchange(r.Context(), flow.Flow, q.Get("code"))
	if err != nil {
		s.notIn(w, r, flow.Next, err)
		return
	}
	op, err := s.Source.SignIn(r.Context(), store.BrowserSession, person)
	if err != nil {
		s.notIn(w, r, flow.Next, err)
		return
	}
	s.enter(w, r, op, flow.Next)
}
