package lambdasim

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"time"
)

// extension is one registered, or expected, extension; the box's mu guards it.
type extension struct {
	id       string // "" until it registers
	name     string
	external bool
	process  *process // nil: internal, part of the runtime's process
	invoke   bool     // wants INVOKE
	shutdown bool     // wants SHUTDOWN
	waiting  bool     // is in Next
	events   [][]byte
}

const extensionHeader = "Lambda-Extension-Identifier"

func (b *box) extensionRoutes(mux *http.ServeMux) {
	mux.HandleFunc("POST /2020-01-01/extension/register", b.serveRegister)
	mux.HandleFunc("GET /2020-01-01/extension/event/next", b.serveEvent)
	mux.HandleFunc("POST /2020-01-01/extension/init/error", b.serveExtensionError)
	mux.HandleFunc("POST /2020-01-01/extension/exit/error", b.serveExtensionError)
	mux.HandleFunc("PUT /2022-07-01/telemetry", b.serveTelemetry)
}

func (b *box) serveRegister(w http.ResponseWriter, r *http.Request) {
	name := r.Header.Get("Lambda-Extension-Name")
	var body struct {
		Events []string `json:"events"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&body); err != nil || name == "" {
		refuse(w, http.StatusBadRequest, "InvalidRequestFormat", "want a name in the header and a JSON body")
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.extensions, func(x *extension) bool { return x.name == name })
	var x *extension
	switch {
	case i >= 0 && b.extensions[i].id == "":
		x = b.extensions[i]
	case i >= 0:
		refuse(w, http.StatusForbidden, "Extension.AlreadyRegistered", name+" has registered before")
		return
	default:
		x = &extension{name: name}
	}
	for _, e := range body.Events {
		switch {
		case e == "INVOKE":
			x.invoke = true
		case e == "SHUTDOWN" && x.external:
			x.shutdown = true
		default: // an internal extension may not wait for the end of its own process
			refuse(w, http.StatusForbidden, "ShutdownEventNotSupportedForInternalExtension", "event "+e+" cannot be registered")
			return
		}
	}
	if b.current != nil {
		refuse(w, http.StatusForbidden, "Extension.RegistrationClosed", "initialization is over")
		return
	}
	x.id = newRequestID()
	if i < 0 {
		b.extensions = append(b.extensions, x)
	}
	b.bump()
	w.Header().Set(extensionHeader, x.id)
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]string{
		"functionName": b.env.f.opts.Name, "functionVersion": "$LATEST", "handler": b.env.f.opts.Handler,
	})
}

// byID finds the registered extension that sent r; the caller holds mu.
func (b *box) byID(r *http.Request) *extension {
	id := r.Header.Get(extensionHeader)
	for _, x := range b.extensions {
		if id != "" && x.id == id {
			return x
		}
	}
	return nil
}

func (b *box) serveEvent(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	x := b.byID(r)
	if x == nil {
		b.mu.Unlock()
		refuse(w, http.StatusForbidden, "Extension.UnknownExtensionIdentifier", "unknown extension identifier")
		return
	}
	x.waiting = true
	b.freezeIfIdle()
	b.bump()
	for len(x.events) == 0 {
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
		case <-r.Context().Done():
			b.mu.Lock()
			x.waiting = false
			b.mu.Unlock()
			return
		}
		b.mu.Lock()
	}
	event := x.events[0]
	x.events, x.waiting = x.events[1:], false
	b.mu.Unlock()
	w.Header().Set(extensionHeader, x.id)
	w.Header().Set("Content-Type", "application/json")
	w.Write(event)
}

// serveExtensionError: an extension gives up, and with it the environment.
func (b *box) serveExtensionError(w http.ResponseWriter, r *http.Request) {
	kind := r.Header.Get("Lambda-Extension-Function-Error-Type")
	b.mu.Lock()
	defer b.mu.Unlock()
	x := b.byID(r)
	if x == nil || kind == "" {
		refuse(w, http.StatusForbidden, "Extension.UnknownExtensionIdentifier", "unknown extension identifier or no error type")
		return
	}
	if b.dead == nil {
		b.dead = &functionError{kind, "extension " + x.name + " gave up"}
	}
	b.bump()
	accept(w)
}

func (b *box) serveTelemetry(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	known := b.byID(r) != nil
	b.mu.Unlock()
	if !known {
		refuse(w, http.StatusForbidden, "Extension.UnknownExtensionIdentifier", "unknown extension identifier")
		return
	}
	w.WriteHeader(http.StatusAccepted)
	io.WriteString(w, `{"errorMessage":"Telemetry API is not supported","errorType":"Telemetry.NotSupported"}`)
}

func invokeEvent(inv *invocation, arn string) []byte {
	b, _ := json.Marshal(map[string]any{ // strings and an integer always marshal
		"eventType":          "INVOKE",
		"deadlineMs":         inv.deadline.UnixMilli(),
		"requestId":          inv.id,
		"invokedFunctionArn": arn,
		"tracing":            map[string]string{"type": "X-Amzn-Trace-Id", "value": inv.trace},
	})
	return b
}

func shutdownEvent(reason shutdownReason, deadline time.Time) []byte {
	b, _ := json.Marshal(map[string]any{
		"eventType": "SHUTDOWN", "shutdownReason": reason, "deadlineMs": deadline.UnixMilli(),
	})
	return b
}
