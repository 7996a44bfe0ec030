package oms

import (
	"errors"
	"fmt"
)

// Class says which check refused a folder or a bundle.
type Class uint8

// The classes.
const (
	Unclassified Class = iota
	Malformed          // the bundle, its statement or its manifest is not well-formed OMS v1.0
	Unsupported        // well-formed, but a method, hash or algorithm this package does not do
	Signature          // no given key made the signature
	Certificate        // the chain does not lead to a given root, now, for code signing
	Root               // the root digest is not that of the resources
	Missing            // a signed file is not there
	Extra              // a file is there that was not signed
	Changed            // a file's bytes are not the signed ones
	Uncovered          // the shards of a file do not cover it from its first byte to its last
	Irregular          // a symbolic link, a special file, or a name that is not a clean path
	Empty              // nothing to sign, or an empty file in shards
	TooLarge           // over a size cap
	Reading            // the file system failed, or the caller gave up
)

// String is the class's name.
func (c Class) String() string {
	names := [...]string{"unclassified", "malformed", "unsupported", "signature", "certificate", "root",
		"missing", "extra", "changed", "uncovered", "irregular", "empty", "too-large", "reading"}
	if int(c) < len(names) {
		return names[c]
	}
	return names[0]
}

// Error is why a folder could not be signed or a bundle not be believed.
type Error struct {
	Class Class
	Path  string // the file concerned, or ""
	Err   error
}

// Error is "path: cause (class)".
func (e *Error) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("%v (%s)", e.Err, e.Class)
	}
	return fmt.Sprintf("%q: %v (%s)", e.Path, e.Err, e.Class)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ClassOf is the class of the first [*Error] in err's chain, or Unclassified.
func ClassOf(err error) Class {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Class
	}
	return Unclassified
}

func errf(c Class, path, format string, args ...any) error {
	return &Error{Class: c, Path: path, Err: fmt.Errorf(format, args...)}
}
