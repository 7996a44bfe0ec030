package local

import (
	"context"
	"net"
	"net/http"
	"os"
	"slices"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// peerKey is the context key of the user at the other end of the socket.
type peerKey struct{}

// withPeer notes which user connected, where the system says so.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	if uid, ok := peerUser(c); ok {
		return context.WithValue(ctx, peerKey{}, uid)
	}
	return ctx
}

// lift lets a release be tried again. It is a person's decision: applications,
// which run as other users, may not take it.
func (s *Server) lift(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("model")
	uid, known := r.Context().Value(peerKey{}).(int)
	if !known || (uid != 0 && uid != os.Getuid()) {
		return fault.Newf(fault.Denied, "lift quarantine", name, "only root and the agent's own user may").
			WithHint("do it with sudo; an application reports what it observes instead")
	}
	var req LiftRequest
	if err := body(r, &req); err != nil {
		return err
	}
	m, err := s.model(name)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(m.Quarantined, func(q Refused) bool { return q.Root == req.Root }) {
		return fault.Newf(fault.NotFound, "lift quarantine", name, "no release with that root is quarantined here").
			WithHint("modelfleet-agent status -json lists them")
	}
	s.o.Host.Lift(m.Name, req.Root)
	w.WriteHeader(http.StatusNoContent)
	return nil
}
