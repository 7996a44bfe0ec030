package httpapi

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/modelfleet/modelfleet/coordinator/oidc"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/coordinator/throttle"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
)

// loginRoutes are the calls by which people become operators for a while.
func (s *server) loginRoutes(mux *http.ServeMux) {
	s.handle(mux, "GET /v1/login", func(w http.ResponseWriter, r *http.Request) error {
		return s.signingIn(r, func(i *oidc.Issuer) error {
			info, err := i.Info(r.Context())
			if err != nil {
				return err
			}
			return answer(w, info)
		})
	})
	s.handle(mux, "POST /v1/login", s.login)
	s.handle(mux, "POST /v1/login/device", s.beginDevice)
	s.handle(mux, "POST /v1/login/device/poll", s.pollDevice)
	see(s, mux, "GET /v1/whoami", func(_ *http.Request, by api.OperatorToken) (api.OperatorToken, error) { return by, nil })
	s.handle(mux, "DELETE /v1/session", s.logout)
}

// signingIn does a part of a sign-in, unless its caller failed too often. The
// issuer is asked by whoever comes, so this bounds what it is asked, too.
func (s *server) signingIn(r *http.Request, do func(*oidc.Issuer) error) error {
	if s.Issuer == nil {
		return fault.Newf(fault.NotFound, "sign in", "", "this coordinator has no issuer to sign in at").
			WithHint("use an operator token; the coordinator's -oidc option says where people sign in")
	}
	from := throttle.Address(r)
	if err := s.Throttle.Check(from); err != nil {
		return err
	}
	err := do(s.Issuer)
	if k := fault.KindOf(err); err != nil && (k == fault.Denied || k == fault.Untrusted || k == fault.Invalid) {
		s.Throttle.Failed(from)
		s.Logger.Warn("sign-in refused", "from", from, "err", err)
	}
	return err
}

// login ends a sign-in that a command began in a browser on its own machine.
func (s *server) login(w http.ResponseWriter, r *http.Request) error {
	return s.signingIn(r, func(i *oidc.Issuer) error {
		q, err := read[api.LoginRequest](w, r)
		if err != nil {
			return err
		}
		if err := oidc.CheckLoopback(q.Redirect); err != nil {
			return err
		}
		if len(q.Nonce) < 16 || len(q.Verifier) < 43 { // RFC 7636: 43 characters at least
			return fault.Newf(fault.Invalid, "sign in", "", "nonce or verifier is too short to be chance")
		}
		p, err := i.Exchange(r.Context(), oidc.Flow{Redirect: q.Redirect, Nonce: q.Nonce, Verifier: q.Verifier}, q.Code)
		if err != nil {
			return err
		}
		op, err := s.Desk.SignIn(r.Context(), store.CommandSession, p)
		if err != nil {
			return err
		}
		s.Throttle.Succeeded(throttle.Address(r))
		return answer(w, op)
	})
}

// handle seals the issuer's device code: whoever polls needs not know it, and
// nothing is kept here of sign-ins that nobody ends.
type handle struct {
	Code    string    `json:"code"`
	Expires time.Time `json:"expires"`
}

func (s *server) beginDevice(w http.ResponseWriter, r *http.Request) error {
	return s.signingIn(r, func(i *oidc.Issuer) error {
		s.Throttle.Failed(throttle.Address(r)) // each makes work and a code to phish with, so each counts
		d, err := i.BeginDevice(r.Context())
		if err != nil {
			return err
		}
		if d.Handle, err = s.seal(handle{d.Code, d.Expires}); err != nil {
			return fault.New(fault.Internal, "sign in by device code", "", err)
		}
		return answer(w, d.DeviceLogin)
	})
}

func (s *server) pollDevice(w http.ResponseWriter, r *http.Request) error {
	q, err := read[api.DevicePoll](w, r)
	if err != nil {
		return err
	}
	return s.signingIn(r, func(i *oidc.Issuer) error {
		h, ok := s.unseal(q.Handle)
		if !ok || !s.Now().Before(h.Expires) {
			return fault.Newf(fault.Denied, "sign in by device code", "", "the code is over, or another coordinator's").WithHint("begin again: `modelfleet login --device`")
		}
		p, err := i.PollDevice(r.Context(), h.Code)
		if errors.Is(err, oidc.ErrPending) {
			return answer(w, api.DeviceReply{Pending: true})
		}
		if err != nil {
			return err
		}
		op, err := s.Desk.SignIn(context.WithoutCancel(r.Context()), store.CommandSession, p) // the code is spent: begin what it was for
		if err != nil {
			return err
		}
		s.Throttle.Succeeded(throttle.Address(r))
		return answer(w, api.DeviceReply{Token: &op})
	})
}

// seal encrypts and authenticates a handle with a key of this process.
func (s *server) seal(h handle) (string, error) {
	aead, err := chacha20poly1305.NewX(s.key[:])
	if err != nil {
		return "", err
	}
	plain, err := json.Marshal(h)
	if err != nil {
		return "", err
	}
	nonce := make([]byte, aead.NonceSize())
	rand.Read(nonce) // never fails
	return base64.RawURLEncoding.EncodeToString(aead.Seal(nonce, nonce, plain, nil)), nil
}

func (s *server) unseal(text string) (h handle, ok bool) {
	aead, err := chacha20poly1305.NewX(s.key[:])
	if err != nil {
		return h, false
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) < aead.NonceSize() {
		return h, false
	}
	plain, err := aead.Open(nil, b[:aead.NonceSize()], b[aead.NonceSize():], nil)
	return h, err == nil && json.Unmarshal(plain, &h) == nil
}

// logout ends the session that is shown, or every session of its holder. That
// one which is over already can be ended is no mistake.
func (s *server) logout(w http.ResponseWriter, r *http.Request) error {
	by, err := s.operator(r)
	if err != nil {
		return err
	}
	if !by.Session {
		return fault.Newf(fault.Invalid, "sign out", by.Name, "a token is no session").
			WithHint("`modelfleet operator delete %s` makes it worthless, `operator rotate` gives another", by.Name)
	}
	if err := s.Desk.SignOut(r.Context(), bearer(r), r.URL.Query().Get("all") == "true"); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
