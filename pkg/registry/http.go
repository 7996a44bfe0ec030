package registry

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// StatusError is the error for an HTTP status that is not a success: the one
// table from a store's answers to kinds. The cause may be nil.
func StatusError(op, key string, status int, header http.Header, cause error) error {
	if cause == nil {
		cause = errors.New("HTTP " + strconv.Itoa(status) + " " + http.StatusText(status))
	}
	switch {
	case status == http.StatusNotFound:
		return fault.New(fault.NotFound, op, key, cause)
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		return fault.New(fault.Denied, op, key, cause)
	case status == http.StatusPreconditionFailed, status == http.StatusConflict:
		return fault.New(fault.Conflict, op, key, cause)
	case status == http.StatusInsufficientStorage:
		return fault.New(fault.Exhausted, op, key, cause)
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status >= 500:
		if after, ok := parseRetryAfter(header.Get("Retry-After")); ok {
			cause = errors.Join(cause, Busy{After: after})
		}
		return fault.New(fault.Transient, op, key, cause)
	case status >= 400:
		return fault.New(fault.Invalid, op, key, cause)
	}
	return fault.New(fault.Transient, op, key, cause) // an answer that makes no sense here
}

// TransportError is the error for a request that got no answer: Transient, or
// Canceled when the caller gave up.
func TransportError(ctx context.Context, op, key string, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return fault.New(fault.Canceled, op, key, err)
	}
	return fault.New(fault.Transient, op, key, err)
}

// CheckRange is the error for an answer to a request for length bytes from
// offset that is not just those: a server that ignores ranges, or sends others.
// total is the Content-Length, -1 when it is not known.
func CheckRange(key string, offset, length int64, status int, contentRange string, total int64) error {
	if status == http.StatusOK && contentRange == "" && offset == 0 && total == length {
		return nil // the whole object was asked for
	}
	if contentRange == "" {
		return fault.Newf(fault.Invalid, "read range", key, "the server ignores ranges")
	}
	if from, n, ok := parseContentRange(contentRange); !ok || from != offset || n != length || (total >= 0 && total != length) {
		return fault.Newf(fault.Invalid, "read range", key, "asked for %d bytes from %d, answered %q", length, offset, contentRange)
	}
	return nil
}

// parseContentRange reads "bytes FROM-TO/SIZE".
func parseContentRange(v string) (from, n int64, ok bool) {
	rest, ok := strings.CutPrefix(v, "bytes ")
	span, _, ok2 := strings.Cut(rest, "/")
	a, b, ok3 := strings.Cut(span, "-")
	first, err1 := strconv.ParseInt(a, 10, 64)
	last, err2 := strconv.ParseInt(b, 10, 64)
	return first, last - first + 1, ok && ok2 && ok3 && err1 == nil && err2 == nil && last >= first
}

// parseRetryAfter reads the header's seconds; the date form, which no object
// store sends, would need a clock that agrees with theirs.
func parseRetryAfter(v string) (time.Duration, bool) {
	n, err := strconv.ParseUint(v, 10, 16)
	return time.Duration(n) * time.Second, err == nil
}
