// Package guard keeps a bug from becoming an outage. Bytes from outside meet code
// of ours and of others; should one of them bring it to panic, the device must not
// stop serving. [Do] stands where such bytes are judged and where an effect is
// carried out, and nowhere else: what is run there either answers or changed
// nothing that lasts.
package guard

import (
	"log/slog"
	"runtime/debug"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// Do runs f and returns its error. A panic in f is logged with its stack and
// comes back as an Internal error that says op and subject. f must not hold a lock
// that it would not let go of when it panics.
func Do(log *slog.Logger, op, subject string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fault.Newf(fault.Internal, op, subject, "panic: %v", p).
				WithHint("this is a bug; report it with the stack in the log")
			log.Error("panic survived", "op", op, "subject", subject, "err", err, "stack", string(debug.Stack()))
		}
	}()
	return f()
}
