package httpapi

import (
	"encoding/hex"
	"net/http"

	"golang.org/x/time/rate"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// clockwork bounds how often the time is signed: each signature may cost a call
// of KMS. Members, who show a certificate or a token, are not kept waiting by
// strangers.
type clockwork struct{ members, strangers *rate.Limiter }

func newClockwork() clockwork {
	return clockwork{members: rate.NewLimiter(5, 50), strangers: rate.NewLimiter(0.2, 5)}
}

// signedTime answers a nonce with the time. Anyone may ask: what ends TLS on the
// way also takes away who asks, and the signature is what the answer is judged by.
func (s *server) signedTime(w http.ResponseWriter, r *http.Request) error {
	const op = "sign time"
	raw, err := hex.DecodeString(r.URL.Query().Get("nonce"))
	if err != nil || len(raw) != len(trust.Nonce{}) {
		return fault.Newf(fault.Invalid, op, "nonce", "it is not %d bytes in hex", len(trust.Nonce{}))
	}
	budget := s.clockwork.strangers
	if s.functionToken(r) == nil {
		budget = s.clockwork.members
	} else if _, _, err := s.member(r); err == nil {
		budget = s.clockwork.members
	}
	if !budget.Allow() {
		w.Header().Set("Retry-After", "60")
		return fault.Newf(fault.Transient, op, "", "too many ask at once").WithHint("ask again in a minute")
	}
	at, err := s.Publisher.SignTime(r.Context(), trust.Nonce(raw), s.Now())
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return answer(w, at)
}
