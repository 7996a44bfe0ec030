package telemetry

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// What a message begins with.
const (
	KindRow    = 1
	KindWindow = 2
	version    = 1
)

var (
	errShort     = errors.New("cut short")
	errCanonical = errors.New("not in canonical form")
)

// reader takes a message apart and keeps the first thing that was wrong.
type reader struct {
	b   []byte
	err error
}

func (r *reader) bytes(n int) []byte {
	if r.err != nil || len(r.b) < n {
		r.fail(errShort)
		return make([]byte, n)
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) byte() byte { return r.bytes(1)[0] }

func (r *reader) prefix() Prefix { return Prefix(r.bytes(len(Prefix{}))) }

// uint reads a base-128 number as encoding/binary writes it.
func (r *reader) uint() uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail(errShort)
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// below reads one byte that numbers one of n things.
func (r *reader) below(what string, n int) int {
	v := int(r.byte())
	if v >= n {
		r.fail(fmt.Errorf("%s %d is not known", what, v))
		return 0
	}
	return v
}

func (r *reader) header(kind byte) {
	if k := r.byte(); r.err == nil && k != kind {
		r.fail(fmt.Errorf("kind is %d, want %d", k, kind))
	}
	if v := r.byte(); r.err == nil && v != version {
		r.fail(fmt.Errorf("version %d is not known", v))
	}
}

func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.fail(errors.New("bytes after the end"))
	}
	return r.err
}

func appendUint(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }
