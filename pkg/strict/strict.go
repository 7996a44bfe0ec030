// Package strict holds JSON to the names that its structs give their fields.
//
// encoding/json matches keys without regard to case, and lets the last of two win.
// Two programs that read the same signed bytes may then understand them
// differently. What passes here has one reading.
package strict

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// Decode decodes one JSON value: unknown names, names in another case, names that
// stand twice and trailing bytes are errors.
func Decode(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("bytes after the end of the JSON value")
	}
	w := walker{data: data, fields: map[reflect.Type][]field{}}
	return w.value(reflect.TypeOf(v))
}

// walker goes through JSON that encoding/json found well formed, next to the type
// it was decoded into.
type walker struct {
	data   []byte
	at     int
	fields map[reflect.Type][]field
}

type field struct {
	name string
	typ  reflect.Type
}

// token skips white space and gives the byte that begins or ends what follows.
func (w *walker) token() byte {
	for strings.IndexByte(" \t\r\n,:", w.data[w.at]) >= 0 {
		w.at++
	}
	return w.data[w.at]
}

// value goes over one value. A nil type, or one that reads its own JSON, is not
// looked into.
func (w *walker) value(t reflect.Type) error {
	for t != nil && t.Kind() == reflect.Pointer && !readsItself(t) {
		t = t.Elem()
	}
	if t != nil && (t.Kind() == reflect.Interface || readsItself(t)) {
		t = nil
	}
	switch w.token() {
	case '{':
		return w.object(t)
	case '[':
		if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
			t = t.Elem()
		} else {
			t = nil
		}
		for w.at++; w.token() != ']'; {
			if err := w.value(t); err != nil {
				return err
			}
		}
		w.at++
	case '"':
		w.text()
	default: // a number or a word: it goes on until something else begins
		for w.at < len(w.data) && strings.IndexByte(" \t\r\n,:]}", w.data[w.at]) < 0 {
			w.at++
		}
	}
	return nil
}

func (w *walker) object(t reflect.Type) error {
	var known []field
	var elem reflect.Type
	isStruct := t != nil && t.Kind() == reflect.Struct
	switch {
	case isStruct:
		known = w.of(t)
	case t != nil && t.Kind() == reflect.Map:
		elem = t.Elem()
	}
	seen := make([]bool, len(known))
	for w.at++; w.token() != '}'; {
		key := w.text()
		of := elem
		if isStruct {
			i, err := find(known, key)
			if err != nil {
				return err
			}
			if seen[i] {
				return fmt.Errorf("field %q stands twice", known[i].name)
			}
			seen[i], of = true, known[i].typ
		}
		if err := w.value(of); err != nil {
			return err
		}
	}
	w.at++
	return nil
}

// text goes over a string and gives it as it is written, without its quotes.
func (w *walker) text() []byte {
	start := w.at
	for w.at++; w.data[w.at] != '"'; w.at++ {
		if w.data[w.at] == '\\' {
			w.at++
		}
	}
	w.at++
	return w.data[start+1 : w.at-1]
}

// find is the field that a key names. The key has to be written as the name is:
// names need no escapes.
func find(known []field, key []byte) (int, error) {
	for i, f := range known {
		if f.name == string(key) {
			return i, nil
		}
	}
	for _, f := range known {
		if strings.EqualFold(f.name, string(key)) {
			return 0, fmt.Errorf("unknown field %q: it is spelt %q", key, f.name)
		}
	}
	return 0, fmt.Errorf("unknown field %q", key)
}

// of lists the fields of a struct as encoding/json names them. Those of embedded
// structs come last: what lies further out hides them.
func (w *walker) of(t reflect.Type) []field {
	if fs, ok := w.fields[t]; ok {
		return fs
	}
	var out, within []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		inner := f.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		switch {
		case f.Tag.Get("json") == "-":
		case f.Anonymous && name == "" && inner.Kind() == reflect.Struct:
			within = append(within, w.of(inner)...)
		case f.IsExported():
			if name == "" {
				name = f.Name
			}
			out = append(out, field{name, f.Type})
		}
	}
	out = append(out, within...)
	w.fields[t] = out
	return out
}

// readsItself reports whether a type decodes its own JSON.
func readsItself(t reflect.Type) bool {
	p := t
	if p.Kind() != reflect.Pointer {
		p = reflect.PointerTo(t)
	}
	return p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}
