package httpapi

import (
	"context"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Audit is what the calls about the audit log need.
type Audit struct {
	Log *audit.Log
	// Witness takes signed checkpoints that a member cannot make agree with its own.
	Witness func(ctx context.Context, id fleet.MemberID, notes []string) error
	// Splits counts the evidence of other histories.
	Splits func(ctx context.Context) (int, error)
}

// audit gives the log's figures.
func (c fleetCollector) audit(send func(*prometheus.Desc, prometheus.ValueType, float64, ...string)) {
	if c.o.Audit.Log == nil {
		return
	}
	cp := c.o.Audit.Log.Head()
	send(desc("audit_entries", "Entries of the audit log that its newest checkpoint covers."), prometheus.GaugeValue, float64(cp.Size))
	n, err := c.o.Audit.Splits(context.Background())
	if err != nil {
		c.o.Logger.Error("split views not counted", "err", err)
		return
	}
	send(desc("audit_splits", "Pieces of evidence that somebody was shown another history."), prometheus.GaugeValue, float64(n))
}

// maxNotes is how many checkpoints a member tells of at once.
const maxNotes = 8

// auditRoutes are the calls about the log's checkpoints and proofs, which
// authenticate themselves.
func (s *server) auditRoutes(mux *http.ServeMux) {
	s.handle(mux, "GET /v1/audit/checkpoint", func(w http.ResponseWriter, _ *http.Request) error {
		if head := s.Audit.Log.Head(); head.Note != "" {
			return answer(w, api.AuditCheckpoint{Note: head.Note, Key: head.Key})
		}
		return fault.Newf(fault.NotFound, "get checkpoint", "", "the audit log has no signed checkpoint").
			WithHint("give the coordinator an audit key: -audit-key")
	})
	s.handle(mux, "GET /v1/audit/consistency", s.consistency)
	s.handle(mux, "POST /v1/audit/witness", func(w http.ResponseWriter, r *http.Request) error {
		m, _, err := s.member(r)
		if err != nil {
			return err
		}
		req, err := read[api.AuditWitness](w, r)
		if err != nil {
			return err
		}
		if len(req.Notes) > maxNotes {
			return fault.Newf(fault.Invalid, "take checkpoints", string(m.Facts.ID), "%d of them, at most %d", len(req.Notes), maxNotes)
		}
		if err := s.Audit.Witness(r.Context(), m.Facts.ID, req.Notes); err != nil {
			return err
		}
		return answer(w, struct{}{})
	})
	see(s, mux, "GET /v1/audit/entries/{n}", func(r *http.Request, _ api.OperatorToken) (api.AuditProof, error) {
		n, err := strconv.ParseUint(r.PathValue("n"), 10, 62)
		if err != nil || n == 0 {
			return api.AuditProof{}, fault.Newf(fault.Invalid, "show entry", r.PathValue("n"), "it is no number of an entry")
		}
		return s.Audit.Log.Entry(r.Context(), n-1)
	})
	see(s, mux, "GET /v1/audit/splits", func(r *http.Request, by api.OperatorToken) ([]api.AuditSplit, error) {
		return s.Desk.Splits(r.Context(), by)
	})
}

func (s *server) consistency(w http.ResponseWriter, r *http.Request) error {
	const op = "prove consistency"
	var sizes [2]uint64
	for i, name := range []string{"from", "to"} {
		n, err := strconv.ParseUint(r.URL.Query().Get(name), 10, 62)
		if err != nil {
			return fault.New(fault.Invalid, op, name, err)
		}
		sizes[i] = n
	}
	root, path, err := s.Audit.Log.Consistency(r.Context(), sizes[0], sizes[1])
	if err != nil {
		return err
	}
	return answer(w, api.AuditConsistency{From: sizes[0], To: sizes[1], Root: root, Path: path})
}
