package oms

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds how deep the JSON that is read may nest.
const maxDepth = 32

// reader reads JSON in one pass, by asking for what must come next. Where
// encoding/json gives two readings of one text it gives none: a key must be
// spelt exactly, may not stand twice nor twice but for case, and text must be
// Unicode. Anything it accepts encoding/json accepts, with the same meaning.
type reader struct {
	data  []byte
	at    int
	depth int
}

func (r *reader) errf(format string, args ...any) error {
	return fmt.Errorf("at byte %d: "+format, append([]any{r.at}, args...)...)
}

// peek is the first byte of the next token, or 0 at the end.
func (r *reader) peek() byte {
	for ; r.at < len(r.data); r.at++ {
		switch c := r.data[r.at]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

func (r *reader) expect(c byte) error {
	if got := r.peek(); got != c || r.at == len(r.data) {
		return r.errf("want %q", c)
	}
	r.at++
	return nil
}

// end is nil when nothing follows.
func (r *reader) end() error {
	if r.peek() != 0 || r.at < len(r.data) {
		return r.errf("something follows the JSON value")
	}
	return nil
}

// open reads the bracket that begins a list.
func (r *reader) open(bracket byte) error {
	if err := r.expect(bracket); err != nil {
		return err
	}
	if r.depth++; r.depth > maxDepth {
		return r.errf("nested deeper than %d", maxDepth)
	}
	return nil
}

// more reports whether an item follows the n before it, having read the comma
// that divides them, or else the bracket that ends the list.
func (r *reader) more(n int, bracket byte) (bool, error) {
	if r.peek() == bracket {
		r.at++
		r.depth--
		return false, nil
	}
	if n == 0 {
		return true, nil
	}
	return true, r.expect(',')
}

// array reads an array; item reads each of its values.
func (r *reader) array(item func() error) error {
	if err := r.open('['); err != nil {
		return err
	}
	for n := 0; ; n++ {
		if more, err := r.more(n, ']'); err != nil || !more {
			return err
		}
		if err := item(); err != nil {
			return err
		}
	}
}

// object reads an object; member is called with each key, and reads its value.
// The key may be the reader's own bytes: it must not be changed.
func (r *reader) object(member func(key []byte) error) error {
	if err := r.open('{'); err != nil {
		return err
	}
	var seen keys
	for n := 0; ; n++ {
		if more, err := r.more(n, '}'); err != nil || !more {
			return err
		}
		key, err := r.raw()
		if err != nil {
			return err
		}
		if !seen.add(key) {
			return r.errf("key %q twice, or twice but for case", key)
		}
		if err := r.expect(':'); err != nil {
			return err
		}
		if err := member(key); err != nil {
			return err
		}
	}
}

// unknown refuses a key of an object that the format closes.
func (r *reader) unknown(where string, key []byte) error {
	return r.errf("unknown key %q in %s", key, where)
}

// text reads a string.
func (r *reader) text(to *string) error {
	b, err := r.raw()
	*to = string(b)
	return err
}

// raw reads a string. The bytes may be the reader's own: they must not be changed.
func (r *reader) raw() ([]byte, error) {
	if err := r.expect('"'); err != nil {
		return nil, err
	}
	start := r.at
	for ; r.at < len(r.data); r.at++ {
		switch c := r.data[r.at]; {
		case c == '"':
			s := r.data[start:r.at]
			r.at++
			if !utf8.Valid(s) {
				return nil, r.errf("text that is not UTF-8")
			}
			return s, nil
		case c == '\\':
			return r.escaped(bytes.Clone(r.data[start:r.at]))
		case c < ' ':
			return nil, r.errf("control character in text")
		}
	}
	return nil, r.errf("text without end")
}

// escaped reads on from the first backslash of a string that began with s.
func (r *reader) escaped(s []byte) ([]byte, error) {
	for r.at < len(r.data) {
		c := r.data[r.at]
		r.at++
		switch {
		case c == '"':
			if !utf8.Valid(s) {
				return nil, r.errf("text that is not UTF-8")
			}
			return s, nil
		case c < ' ':
			return nil, r.errf("control character in text")
		case c != '\\':
			s = append(s, c)
			continue
		}
		u, err := r.escape()
		if err != nil {
			return nil, err
		}
		s = utf8.AppendRune(s, u)
	}
	return nil, r.errf("text without end")
}

// escape reads what follows a backslash.
func (r *reader) escape() (rune, error) {
	if r.at == len(r.data) {
		return 0, r.errf("text without end")
	}
	c := r.data[r.at]
	r.at++
	switch c {
	case '"', '\\', '/':
		return rune(c), nil
	case 'b':
		return '\b', nil
	case 'f':
		return '\f', nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'u':
		u, err := r.hex4()
		if err != nil || !utf16.IsSurrogate(u) {
			return u, err
		}
		if bytes.HasPrefix(r.data[r.at:], []byte(`\u`)) {
			r.at += 2
			low, err := r.hex4()
			if err != nil {
				return 0, err
			}
			if u = utf16.DecodeRune(u, low); u != utf8.RuneError {
				return u, nil
			}
		}
		return 0, r.errf("half a surrogate pair")
	}
	return 0, r.errf("unknown escape")
}

func (r *reader) hex4() (rune, error) {
	if len(r.data)-r.at < 4 {
		return 0, r.errf("text without end")
	}
	var u rune
	for _, c := range r.data[r.at : r.at+4] {
		switch {
		case '0' <= c && c <= '9':
			u = u<<4 | rune(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			u = u<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, r.errf("escape without four hex digits")
		}
	}
	r.at += 4
	return u, nil
}

// base64 reads a string of standard base64 with padding.
func (r *reader) base64(to *[]byte) error {
	s, err := r.raw()
	if err != nil {
		return err
	}
	if bytes.ContainsAny(s, "\r\n") {
		return r.errf("base64 with line ends")
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(s)))
	n, err := base64.StdEncoding.Strict().Decode(out, s)
	*to = out[:n]
	if err != nil {
		return r.errf("%w", err)
	}
	return nil
}

// number reads a number and gives it as it is written.
func (r *reader) number() (string, error) {
	r.peek()
	start := r.at
	digits := func() bool {
		from := r.at
		for r.at < len(r.data) && '0' <= r.data[r.at] && r.data[r.at] <= '9' {
			r.at++
		}
		return r.at > from
	}
	one := func(set string) bool {
		if r.at < len(r.data) && bytes.IndexByte([]byte(set), r.data[r.at]) >= 0 {
			r.at++
			return true
		}
		return false
	}
	one("-")
	ok := one("0") || digits()
	if one(".") {
		ok = digits() && ok
	}
	if one("eE") {
		one("+-")
		ok = digits() && ok
	}
	if !ok {
		return "", r.errf("not a number")
	}
	return string(r.data[start:r.at]), nil
}

// boolean reads true or false.
func (r *reader) boolean() (bool, error) {
	if r.word("true") {
		return true, nil
	}
	if r.word("false") {
		return false, nil
	}
	return false, r.errf("want true or false")
}

// word reads the word w if it is next.
func (r *reader) word(w string) bool {
	if r.peek(); !bytes.HasPrefix(r.data[r.at:], []byte(w)) {
		return false
	}
	r.at += len(w)
	return true
}

// skip reads over any value, with the same rules.
func (r *reader) skip() error {
	switch c := r.peek(); c {
	case '{':
		return r.object(func([]byte) error { return r.skip() })
	case '[':
		return r.array(r.skip)
	case '"':
		_, err := r.raw()
		return err
	case 't', 'f':
		_, err := r.boolean()
		return err
	case 'n':
		if r.word("null") {
			return nil
		}
		return r.errf("not a JSON value")
	default:
		_, err := r.number()
		return err
	}
}

// wholeNumber reads a number written 400, 400.0 or 4e2 as an integer.
func (r *reader) wholeNumber() (int64, error) {
	s, err := r.number()
	if err != nil {
		return 0, err
	}
	if v, err := strconv.ParseInt(s, 10, 64); err == nil {
		return v, nil
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || v != float64(int64(v)) || v > 1<<53 || v < -1<<53 {
		return 0, r.errf("%s is not a whole number", s)
	}
	return int64(v), nil
}
