// Package fault is the one error type of modelfleet and the table that says
// what each kind of error means to a caller: the HTTP status it travels as,
// the exit code a command ends with, and whether trying again can help.
//
// A package that returns an error someone decides on wraps it once, at its
// boundary, with the kind, what was attempted and on what:
//
//	return fault.New(fault.Untrusted, "verify pack", group, err).
//		WithHint("ask the operator for a fresh pack, or enrol again")
//
// Kinds cross the wire (problem+json); messages are for people.
package fault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Kind says what went wrong in the terms a caller decides on.
type Kind uint8

// The kinds. Internal is the zero value: an error nobody classified is our bug.
const (
	Internal  Kind = iota // a bug or a broken invariant of ours
	Invalid               // the input is wrong; the caller must change it
	NotFound              // the named thing does not exist
	Conflict              // the thing exists or changed meanwhile
	Denied                // the caller may not do this
	Untrusted             // a signature, digest, role or freshness rule refused it
	Exhausted             // no room: disk, memory, quota, budget
	Transient             // the network or a peer failed; trying again can help
	Canceled              // the caller gave up
)

// traits is what a kind means at the edges.
type traits struct {
	name   string
	status int
	exit   int
	retry  bool
}

func (k Kind) traits() traits {
	switch k {
	case Invalid:
		return traits{"invalid", http.StatusBadRequest, 2, false}
	case NotFound:
		return traits{"not-found", http.StatusNotFound, 3, false}
	case Conflict:
		return traits{"conflict", http.StatusConflict, 4, false}
	case Denied:
		return traits{"denied", http.StatusForbidden, 5, false}
	case Untrusted:
		return traits{"untrusted", http.StatusUnprocessableEntity, 6, false}
	case Exhausted:
		return traits{"exhausted", http.StatusInsufficientStorage, 7, false}
	case Transient:
		return traits{"transient", http.StatusServiceUnavailable, 8, true}
	case Canceled:
		return traits{"canceled", 499, 130, false}
	default:
		return traits{"internal", http.StatusInternalServerError, 1, false}
	}
}

// String is the kind's wire name, for example "not-found".
func (k Kind) String() string { return k.traits().name }

// Status is the HTTP status an error of this kind is answered with.
func (k Kind) Status() int { return k.traits().status }

// Exit is the process exit code a command ends with on an error of this kind.
func (k Kind) Exit() int { return k.traits().exit }

// Retry reports whether the same call may succeed later.
func (k Kind) Retry() bool { return k.traits().retry }

// ParseKind is the inverse of [Kind.String]; an unknown name is Internal.
func ParseKind(name string) Kind {
	for k := Internal; k <= Canceled; k++ {
		if k.String() == name {
			return k
		}
	}
	return Internal
}

// Error is a classified error.
type Error struct {
	Kind    Kind
	Op      string // what was attempted, lower case: "verify pack"
	Subject string // the thing it was attempted on: a path, a member, a key
	Err     error  // the cause; may be nil
	Hint    string // the next move for a person; may be empty
}

// New returns a classified error that wraps cause, which may be nil.
func New(kind Kind, op, subject string, cause error) *Error {
	return &Error{Kind: kind, Op: op, Subject: subject, Err: cause}
}

// Newf returns a classified error whose cause is formatted as by [fmt.Errorf].
func Newf(kind Kind, op, subject, format string, args ...any) *Error {
	return New(kind, op, subject, fmt.Errorf(format, args...))
}

// WithHint returns a copy of e that ends with a next move for a person.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// Error is "op subject: cause", without the hint. What the cause says again of the
// op or the subject is left out: "get member m1: find member m1: no such member" is
// "get member m1: no such member".
func (e *Error) Error() string {
	s := e.Op
	if e.Subject != "" {
		s += " " + e.Subject
	}
	if e.Err != nil {
		s += ": " + once(e.Op, e.Subject, e.Err.Error())
	}
	return s
}

// once is a cause without the "op subject: " that it begins with, where the subject
// is the same, and without the op alone where only that is the same.
func once(op, subject, cause string) string {
	if before, after, ok := strings.Cut(cause, " "+subject+": "); ok && subject != "" && isOp(before) {
		return after
	}
	for _, same := range []string{op, op + "s", strings.TrimSuffix(op, "s")} {
		if after, ok := strings.CutPrefix(cause, same); ok && same != "" {
			if after, ok := strings.CutPrefix(after, ": "); ok {
				return after
			}
			if after, ok := strings.CutPrefix(after, " "); ok && strings.Contains(after, ": ") {
				return after
			}
		}
	}
	return cause
}

// isOp reports whether text is what an op consists of: a few lower-case words, and none
// by which it says something of the subject: "not signed by root" is no op on root.
func isOp(text string) bool {
	says := []string{"by", "cannot", "for", "from", "in", "may", "no", "nobody", "not", "nothing", "of", "than", "unknown", "with"}
	words := strings.Fields(text)
	return len(words) > 0 && len(words) <= 5 &&
		!strings.ContainsFunc(text, func(r rune) bool { return (r < 'a' || r > 'z') && r != ' ' }) &&
		!slices.ContainsFunc(words, func(w string) bool { return slices.Contains(says, w) })
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf is the kind of the outermost classified error in err's chain.
// Context errors are Canceled, or Transient for a deadline; anything else that
// nobody classified is Internal.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	switch {
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return Transient
	}
	return Internal
}

// Is reports whether err is of the given kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }

// Hint is the first hint in err's chain, or "".
func Hint(err error) string {
	for err != nil {
		e, ok := errors.AsType[*Error](err)
		if !ok {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}
