package lambdasim

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
)

// maxPayload is AWS's limit on events and responses.
const maxPayload = 6 << 20

func (b *box) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", b.serveNext)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/response", b.serveResponse)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/error", b.serveError)
	mux.HandleFunc("POST /2018-06-01/runtime/init/error", b.serveInitError)
	b.extensionRoutes(mux)
	return mux
}

// refuse answers as AWS does.
func refuse(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"errorType": kind, "errorMessage": message})
}

func accept(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	io.WriteString(w, `{"status":"OK"}`)
}

// serveNext holds the runtime until there is an event. A runtime that asks
// again has finished with the one before.
func (b *box) serveNext(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	b.waiting = true
	b.freezeIfIdle()
	b.bump()
	for b.event == nil {
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
		case <-r.Context().Done():
			b.mu.Lock()
			b.waiting = false
			b.mu.Unlock()
			return
		}
		b.mu.Lock()
	}
	inv := b.event
	b.event, b.waiting = nil, false
	b.mu.Unlock()
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Lambda-Runtime-Aws-Request-Id", inv.id)
	h.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(inv.deadline.UnixMilli(), 10))
	h.Set("Lambda-Runtime-Invoked-Function-Arn", b.env.f.ARN())
	h.Set("Lambda-Runtime-Trace-Id", inv.trace)
	w.Write(inv.payload)
}

func (b *box) serveResponse(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPayload))
	if _, big := errors.AsType[*http.MaxBytesError](err); big {
		ferr := &functionError{"Function.ResponseSizeTooLarge", "Response payload size exceeded maximum allowed payload size (6291456 bytes)."}
		if b.finish(r.PathValue("id"), ferr.document(r.PathValue("id")), unhandled) {
			refuse(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", ferr.message)
			return
		}
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, "InvalidRequest", err.Error())
		return
	}
	kind := ""
	if t := r.Trailer.Get("Lambda-Runtime-Function-Error-Type"); t != "" { // a streamed response broke off
		kind = unhandled
	}
	b.answer(w, r, body, kind)
}

func (b *box) serveError(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPayload))
	if err != nil {
		refuse(w, http.StatusBadRequest, "InvalidRequest", err.Error())
		return
	}
	b.answer(w, r, body, unhandled)
}

func (b *box) answer(w http.ResponseWriter, r *http.Request, body []byte, kind string) {
	if !b.finish(r.PathValue("id"), body, kind) {
		refuse(w, http.StatusBadRequest, "InvalidRequestID", "Invalid request ID")
		return
	}
	accept(w)
}

// finish records the answer to the current invocation; false when id is not
// the current one's or it was answered before.
func (b *box) finish(id string, body []byte, kind string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	inv := b.current
	if inv == nil || inv.id != id || inv.done {
		return false
	}
	inv.answer, inv.errorKind, inv.done = body, kind, true
	b.bump()
	return true
}

func (b *box) serveInitError(w http.ResponseWriter, r *http.Request) {
	var doc struct {
		ErrorType    string `json:"errorType"`
		ErrorMessage string `json:"errorMessage"`
	}
	// A body that does not parse still means that init failed.
	_ = json.NewDecoder(http.MaxBytesReader(w, r.Body, maxPayload)).Decode(&doc)
	if doc.ErrorType == "" {
		doc.ErrorType = r.Header.Get("Lambda-Runtime-Function-Error-Type")
	}
	if doc.ErrorType == "" {
		doc.ErrorType = "Runtime.Unknown"
	}
	accept(w)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dead == nil && b.current == nil {
		b.dead = &functionError{doc.ErrorType, doc.ErrorMessage}
	}
	b.bump()
}
