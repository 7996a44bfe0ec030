package lambdasim

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// environment is one execution environment: a folder that stays and the
// processes (box) that come and go with crashes and timeouts. Who took it from
// the function's idle list owns it; mu guards what look reads meanwhile.
type environment struct {
	f           *Function
	id          string
	temp        string
	provisioned bool
	settling    bool // guarded by the function's mu

	mu          sync.Mutex
	box         *box // nil before the first start and after a reset
	starts      int
	invocations int
}

func (e *environment) look() Environment {
	e.mu.Lock()
	defer e.mu.Unlock()
	v := Environment{ID: e.id, Status: Starting, Temp: e.temp, Invocations: e.invocations, Starts: e.starts}
	if e.box != nil {
		v.Status, v.PID = e.box.status()
	}
	return v
}

func (e *environment) setBox(b *box) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.box = b
	if b != nil {
		e.starts++
	}
}

// start initializes the environment. A failure leaves it reset.
func (e *environment) start(limit time.Duration) (time.Duration, *functionError) {
	began := time.Now()
	b, err := newBox(e)
	if err != nil {
		return 0, &functionError{"Runtime.InvalidEntrypoint", err.Error()}
	}
	e.setBox(b)
	if ferr := b.initialize(limit); ferr != nil {
		e.reset(reasonFailure)
		return 0, ferr
	}
	return time.Since(began), nil
}

// reset ends the processes; the next invocation starts them again.
func (e *environment) reset(reason shutdownReason) {
	if b := e.box; b != nil {
		b.shutdown(reason)
		e.setBox(nil)
	}
}

func (e *environment) shutdown() { e.reset(reasonSpindown) }

func (e *environment) kill() {
	e.mu.Lock()
	b := e.box
	e.mu.Unlock()
	if b != nil {
		b.kill()
	}
}

// invoke runs one invocation to its very end; the response is sent as soon as
// it is known.
func (e *environment) invoke(payload []byte, result chan<- Response) {
	inv := &invocation{
		id:      newRequestID(),
		payload: payload,
		trace:   newTraceID(),
	}
	resp := Response{RequestID: inv.id, Environment: e.id, Cold: e.box == nil}
	inv.deadline = time.Now().Add(e.f.opts.Timeout)
	if resp.Cold {
		took, ferr := e.start(e.f.opts.InitTimeout)
		inv.deadline = time.Now().Add(e.f.opts.Timeout)
		if ferr != nil { // once more, now on the invocation's own time
			took, ferr = e.start(e.f.opts.Timeout)
		}
		if ferr != nil {
			resp.fail(ferr, inv.id)
			e.f.answered(e)
			result <- resp
			return
		}
		resp.Init = took
	}
	e.mu.Lock()
	e.invocations++
	e.mu.Unlock()
	b := e.box
	began := time.Now()
	b.begin(inv)
	end := b.await(inv.deadline, b.answered)
	resp.Duration = time.Since(began)
	switch end {
	case reached:
		resp.Payload, resp.FunctionError = inv.answer, inv.errorKind
	case late:
		resp.fail(e.timedOut(), inv.id)
	case died:
		resp.fail(b.cause(), inv.id)
	}
	e.f.answered(e)
	result <- resp
	if end == reached {
		end = b.await(inv.deadline, b.settled)
	}
	switch end {
	case late:
		e.reset(reasonTimeout)
	case died:
		e.reset(reasonFailure)
	}
}

func (e *environment) timedOut() *functionError {
	return &functionError{"Sandbox.Timedout", fmt.Sprintf("Task timed out after %.2f seconds", e.f.opts.Timeout.Seconds())}
}

// functionError is what AWS says when a function could not answer for itself.
type functionError struct {
	kind, message string
}

func (f *functionError) Error() string { return f.kind + ": " + f.message }

func (r *Response) fail(err *functionError, requestID string) {
	r.FunctionError = unhandled
	r.Payload = err.document(requestID)
}

func (f *functionError) document(requestID string) []byte {
	b, _ := json.Marshal(map[string]string{ // two strings always marshal
		"errorType":    f.kind,
		"errorMessage": "RequestId: " + requestID + " Error: " + f.message,
	})
	return b
}

// unhandled is AWS's X-Amz-Function-Error.
const unhandled = "Unhandled"

// environ is the whole environment of the processes, as documented by AWS.
func (e *environment) environ(api string) []string {
	o, kind := e.f.opts, "on-demand"
	if e.provisioned {
		kind = "provisioned-concurrency"
	}
	return append([]string{
		"PATH=/usr/local/bin:/usr/bin:/bin:/opt/bin",
		"LANG=en_US.UTF-8",
		"TZ=:UTC",
		"TMPDIR=" + e.temp, // Lambda has a /tmp for each environment; without root this is how
		"LAMBDA_TASK_ROOT=" + o.TaskRoot,
		"LAMBDA_RUNTIME_DIR=/var/runtime",
		"AWS_REGION=" + o.Region,
		"AWS_DEFAULT_REGION=" + o.Region,
		"AWS_LAMBDA_FUNCTION_NAME=" + o.Name,
		"AWS_LAMBDA_FUNCTION_VERSION=$LATEST",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=" + strconv.Itoa(o.MemoryMB),
		"AWS_LAMBDA_INITIALIZATION_TYPE=" + kind,
		"AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/" + o.Name,
		"AWS_LAMBDA_LOG_STREAM_NAME=[$LATEST]" + e.id,
		"AWS_LAMBDA_RUNTIME_API=" + api,
		"_HANDLER=" + o.Handler,
	}, o.Env...)
}

// newRequestID is a random UUID, version 4.
func newRequestID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// newTraceID is an X-Ray trace header that asks for no sampling.
func newTraceID() string {
	var b [20]byte
	rand.Read(b[:])
	return fmt.Sprintf("Root=1-%08x-%s;Parent=%s;Sampled=0", time.Now().Unix(), hex.EncodeToString(b[:12]), hex.EncodeToString(b[12:]))
}
