package api

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// ProblemType is the media type of a [Problem].
const ProblemType = "application/problem+json"

// problemBase is where problem types are named; the rest of the URI is the kind.
const problemBase = "https://modelfleet.dev/problems/"

// maxProblem bounds what is read of an error's body.
const maxProblem = 64 << 10

// WriteProblem answers a request with err: its kind gives the status. What is
// inside an Internal error stays out of the answer, since it is for our log.
func WriteProblem(w http.ResponseWriter, err error) {
	kind := fault.KindOf(err)
	p := Problem{
		Type:   problemBase + kind.String(),
		Title:  kind.String(),
		Status: kind.Status(),
		Detail: err.Error(),
		Kind:   kind.String(),
		Hint:   fault.Hint(err),
	}
	if kind == fault.Internal {
		p.Detail = "the coordinator met an error of its own"
		p.Hint = "look for it in the coordinator's log"
	}
	h := w.Header()
	h.Set("Content-Type", ProblemType)
	h.Set("Cache-Control", "no-store")
	if kind.Retry() && h.Get("Retry-After") == "" {
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(p.Status)
	// The client is told by the status alone if the body does not get through.
	_ = json.NewEncoder(w).Encode(p)
}

// ReadProblem is the error that an answer other than 2xx and 304 carries. The
// kind is the body's when it is a problem, else it is derived from the status.
func ReadProblem(resp *http.Response, op, subject string) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	var p Problem
	if err == nil && json.Unmarshal(body, &p) == nil && p.Kind != "" {
		f := fault.New(fault.ParseKind(p.Kind), op, subject, errors.New(p.Detail))
		if p.Hint != "" {
			f = f.WithHint("%s", p.Hint)
		}
		return f
	}
	return fault.Newf(kindOfStatus(resp.StatusCode), op, subject, "answered %s", resp.Status)
}

// kindOfStatus classifies an answer that did not come from our own handlers:
// a proxy's, or an object store's.
func kindOfStatus(status int) fault.Kind {
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return fault.Denied
	case status == http.StatusNotFound || status == http.StatusGone:
		return fault.NotFound
	case status == http.StatusConflict || status == http.StatusPreconditionFailed:
		return fault.Conflict
	case status == http.StatusRequestTimeout || status == http.StatusTooManyRequests || status >= 500:
		return fault.Transient
	case status >= 400:
		return fault.Invalid
	default:
		return fault.Internal
	}
}
