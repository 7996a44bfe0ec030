package httpapi

import (
	"context"
	"net/http"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// enrolRoutes are what operators have to say about who is let in.
func (s *server) enrolRoutes(mux *http.ServeMux) {
	d := s.Desk
	see(s, mux, "GET /v1/pending", func(r *http.Request, by api.OperatorToken) ([]api.PendingMember, error) {
		return d.Pending(r.Context(), by)
	})
	ofMember(s, mux, "POST /v1/pending/{id}/approve", d.Approve)
	ofMember(s, mux, "POST /v1/pending/{id}/deny", d.Deny)
	ofMember(s, mux, "POST /v1/members/{id}/unlock", d.Unlock)
	ofMember(s, mux, "POST /v1/members/{id}/allow-comeback", func(ctx context.Context, by api.OperatorToken, id fleet.MemberID, _ struct{}) error {
		return d.AllowComeback(ctx, by, id)
	})
}

// ofMember serves something that an operator tells about a member.
func ofMember[T any](s *server, mux *http.ServeMux, pattern string, do func(context.Context, api.OperatorToken, fleet.MemberID, T) error) {
	s.handle(mux, pattern, func(w http.ResponseWriter, r *http.Request) error {
		by, err := s.operator(r)
		if err != nil {
			return err
		}
		req, err := read[T](w, r)
		if err != nil {
			return err
		}
		if err := do(r.Context(), by, memberID(r), req); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
}
