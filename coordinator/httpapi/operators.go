package httpapi

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// operatorRoutes are the calls of operators.
func (s *server) operatorRoutes(mux *http.ServeMux) {
	d := s.Desk
	see(s, mux, "GET /v1/fleet", func(r *http.Request, by api.OperatorToken) (api.FleetInfo, error) { return d.Fleet(r.Context(), by) })
	see(s, mux, "GET /v1/health", func(r *http.Request, by api.OperatorToken) (api.Health, error) { return d.Health(r.Context(), by) })
	see(s, mux, "GET /v1/members", func(r *http.Request, by api.OperatorToken) ([]api.MemberInfo, error) {
		sel, err := fleet.ParseSelector(r.URL.Query().Get("selector"))
		if err != nil {
			return nil, err
		}
		return d.Members(r.Context(), by, sel)
	})
	see(s, mux, "GET /v1/members/{id}", func(r *http.Request, by api.OperatorToken) (api.MemberInfo, error) {
		return d.Member(r.Context(), by, memberID(r))
	})
	see(s, mux, "GET /v1/members/{id}/explain", func(r *http.Request, by api.OperatorToken) (api.Explanation, error) {
		return d.Explain(r.Context(), by, memberID(r))
	})
	see(s, mux, "GET /v1/releases", func(r *http.Request, by api.OperatorToken) ([]api.ReleaseInfo, error) {
		return d.Releases(r.Context(), by)
	})
	see(s, mux, "GET /v1/rollouts", func(r *http.Request, by api.OperatorToken) ([]api.RolloutInfo, error) {
		return d.Rollouts(r.Context(), by)
	})
	see(s, mux, "GET /v1/rollouts/{id}", func(r *http.Request, by api.OperatorToken) (api.RolloutInfo, error) {
		return d.Rollout(r.Context(), by, rolloutID(r))
	})
	see(s, mux, "GET /v1/tokens", func(r *http.Request, by api.OperatorToken) ([]api.Token, error) { return d.Tokens(r.Context(), by) })
	see(s, mux, "GET /v1/operators", func(r *http.Request, by api.OperatorToken) ([]api.OperatorToken, error) {
		return d.Operators(r.Context(), by)
	})
	see(s, mux, "GET /v1/audit", func(r *http.Request, by api.OperatorToken) ([]api.AuditEntry, error) {
		after, limit, err := page(r)
		if err != nil {
			return nil, err
		}
		return d.Audit(r.Context(), by, after, limit)
	})

	tell(s, mux, "POST /v1/releases", d.Admit)
	tell(s, mux, "POST /v1/rollouts", d.StartRollout)
	tell(s, mux, "POST /v1/tokens", d.CreateToken)
	tell(s, mux, "POST /v1/operators", d.CreateOperator)
	s.handle(mux, "POST /v1/operators/{name}/rotate", s.rotate)
	s.handle(mux, "POST /v1/rollouts/{id}/{command}", s.command)
	s.handle(mux, "POST /v1/members/{id}/revoke", s.revoke)
	s.handle(mux, "DELETE /v1/tokens/{id}", func(w http.ResponseWriter, r *http.Request) error {
		return s.remove(w, r, d.DeleteToken, r.PathValue("id"))
	})
	s.handle(mux, "DELETE /v1/operators/{name}", func(w http.ResponseWriter, r *http.Request) error {
		return s.remove(w, r, d.DeleteOperator, r.PathValue("name"))
	})
	s.handle(mux, "GET /v1/events", s.events)
}

func memberID(r *http.Request) fleet.MemberID { return fleet.MemberID(r.PathValue("id")) }

func rolloutID(r *http.Request) fleet.RolloutID { return fleet.RolloutID(r.PathValue("id")) }

// see serves something to see; the call's rule says to whom.
func see[T any](s *server, mux *http.ServeMux, pattern string, get func(*http.Request, api.OperatorToken) (T, error)) {
	s.handle(mux, pattern, func(w http.ResponseWriter, r *http.Request) error {
		by, err := s.operator(r)
		if err != nil {
			return err
		}
		v, err := get(r, by)
		if err != nil {
			return err
		}
		return answer(w, v)
	})
}

// tell serves something that an operator tells; the desk checks role and scope.
func tell[Q, A any](s *server, mux *http.ServeMux, pattern string, do func(context.Context, api.OperatorToken, Q) (A, error)) {
	s.handle(mux, pattern, func(w http.ResponseWriter, r *http.Request) error {
		by, err := s.operator(r)
		if err != nil {
			return err
		}
		q, err := read[Q](w, r)
		if err != nil {
			return err
		}
		a, err := do(r.Context(), by, q)
		if err != nil {
			return err
		}
		return answer(w, a)
	})
}

func (s *server) command(w http.ResponseWriter, r *http.Request) error {
	by, err := s.operator(r)
	if err != nil {
		return err
	}
	req, err := read[api.CommandRequest](w, r)
	if err != nil {
		return err
	}
	if err := s.Desk.Command(r.Context(), by, rolloutID(r), api.Command(r.PathValue("command")), req); err != nil {
		return err
	}
	info, err := s.Desk.Rollout(r.Context(), by, rolloutID(r))
	if err != nil {
		return err
	}
	return answer(w, info)
}

func (s *server) revoke(w http.ResponseWriter, r *http.Request) error {
	by, err := s.operator(r)
	if err != nil {
		return err
	}
	req, err := read[api.RevokeRequest](w, r)
	if err != nil {
		return err
	}
	if err := s.Desk.Revoke(r.Context(), by, memberID(r), req.Reason); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) rotate(w http.ResponseWriter, r *http.Request) error {
	by, err := s.operator(r)
	if err != nil {
		return err
	}
	q, err := read[api.RotateRequest](w, r)
	if err != nil {
		return err
	}
	o, err := s.Desk.RotateOperator(r.Context(), by, r.PathValue("name"), q)
	if err != nil {
		return err
	}
	return answer(w, o)
}

func (s *server) remove(w http.ResponseWriter, r *http.Request, do func(context.Context, api.OperatorToken, string) error, name string) error {
	by, err := s.operator(r)
	if err != nil {
		return err
	}
	if err := do(r.Context(), by, name); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// page reads after and limit.
func page(r *http.Request) (after uint64, limit int, err error) {
	q := r.URL.Query()
	if t := q.Get("after"); t != "" {
		if after, err = strconv.ParseUint(t, 10, 63); err != nil {
			return 0, 0, fault.New(fault.Invalid, "list audit log", "after", err)
		}
	}
	if t := q.Get("limit"); t != "" {
		if limit, err = strconv.Atoi(t); err != nil {
			return 0, 0, fault.New(fault.Invalid, "list audit log", "limit", err)
		}
	}
	return after, limit, nil
}

// heartbeat keeps proxies from closing a quiet stream.
const heartbeat = 15 * time.Second

// events streams what happens until the client leaves.
func (s *server) events(w http.ResponseWriter, r *http.Request) error {
	by, err := s.operator(r)
	if err != nil {
		return err
	}
	if leave, ok := s.streams.enter(by.Person()); ok {
		defer leave()
	} else {
		return fault.Newf(fault.Exhausted, "stream events", by.Name, "%d streams are open already", maxStreams).
			WithHint("close some: each browser tab and each `rollout watch` holds one")
	}
	rc := http.NewResponseController(w)
	ch := s.Desk.Subscribe(r.Context(), by)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		// In place of the server's: a stream may last, a reader may not stand still.
		if err := rc.SetWriteDeadline(time.Now().Add(2 * heartbeat)); err != nil {
			return fault.New(fault.Internal, "stream events", "", err)
		}
		if err := rc.Flush(); err != nil {
			return err
		}
		select {
		case ev, ok := <-ch:
			if !ok {
				return nil
			}
			if err := api.WriteEvent(w, ev); err != nil {
				return err
			}
		case <-beat.C:
			if _, err := s.operator(r); err != nil {
				return nil // signed out meanwhile: the stream ends, and the next says why
			}
			if _, err := w.Write([]byte(": still here\n\n")); err != nil {
				return err
			}
		case <-s.Stopping:
			return nil
		}
	}
}
