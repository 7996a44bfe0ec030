package policy

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

// check holds a node to the type that it is decoded into, so that a setting that
// there is not, or a value that cannot be, is found on its own line.
func check(n *yaml.Node, t reflect.Type) error {
	if n.ShortTag() == "!!null" {
		return nil
	}
	switch {
	case readsItself(t):
		return value(n, t)
	case t.Kind() == reflect.Struct && n.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			of, ok := setting(t, k.Value)
			if !ok {
				return unknown(k, t)
			}
			if err := check(n.Content[i+1], of); err != nil {
				return err
			}
		}
		return nil
	case t.Kind() == reflect.Slice && n.Kind == yaml.SequenceNode:
		for _, c := range n.Content {
			if err := check(c, t.Elem()); err != nil {
				return err
			}
		}
		return nil
	case t.Kind() == reflect.Map && n.Kind == yaml.MappingNode:
		for i := 1; i < len(n.Content); i += 2 {
			if err := check(n.Content[i], t.Elem()); err != nil {
				return err
			}
		}
		return nil
	}
	return value(n, t)
}

// value decodes a node alone.
func value(n *yaml.Node, t reflect.Type) error {
	var out bytes.Buffer
	if err := encode(&out, n, 0); err != nil {
		return err
	}
	err := json.Unmarshal(out.Bytes(), reflect.New(t).Interface())
	if typ, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return at(n.Line, "want %s, got %s", kindText(t), strings.TrimSpace(typ.Value+" "+n.Value))
	}
	if err != nil {
		return &lineError{n.Line, err, fault.Hint(err)}
	}
	return nil
}

func readsItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// kindText is what a value should be, for people.
func kindText(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text"
	case reflect.Slice:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "a mapping of names to values"
	}
	return "a number"
}

// settings are the names that a struct's fields have in a file.
func settings(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

func setting(t reflect.Type, name string) (reflect.Type, bool) {
	i := slices.Index(settings(t), name)
	if i < 0 {
		return nil, false
	}
	return t.Field(i).Type, true
}

// unknown says that there is no such setting there, and which was meant.
func unknown(k *yaml.Node, t reflect.Type) error {
	names := settings(t)
	slices.Sort(names)
	e := &lineError{k.Line, fmt.Errorf("there is no setting %q here", k.Value), "the settings here are " + strings.Join(names, ", ")}
	best := slices.MinFunc(names, func(a, b string) int { return distance(k.Value, a) - distance(k.Value, b) })
	if distance(k.Value, best) <= 1+len(best)/4 {
		e.err = fmt.Errorf("%w; did you mean %q?", e.err, best)
	}
	return e
}

// distance is how many letters have to be put in, taken out or changed to make b of
// a, whatever their case.
func distance(a, b string) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// numbered is how fleet.ParseSpec names one of a list.
var numbered = regexp.MustCompile(`^(stage|gate|window) (\d+) `)

// lineOf is the line of what an error of fleet.ParseSpec is about: one of a list or a
// setting of the top level; else the first.
func lineOf(doc *yaml.Node, err error) int {
	for e := err; e != nil; e = errors.Unwrap(e) {
		f, ok := e.(*fault.Error)
		if !ok {
			continue
		}
		key, i := f.Subject, 0
		if m := numbered.FindStringSubmatch(f.Subject); m != nil {
			key = m[1] + "s"
			i, _ = strconv.Atoi(m[2]) // the expression took digits only
		}
		for k := 0; k+1 < len(doc.Content); k += 2 {
			if name, v := doc.Content[k], doc.Content[k+1]; name.Value == key {
				if i >= 1 && i <= len(v.Content) {
					return v.Content[i-1].Line
				}
				return name.Line
			}
		}
	}
	return 1
}

// about is err from the level on that names a part of the policy.
func about(err error) error {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if f, ok := e.(*fault.Error); ok && f.Subject != "" {
			g := *f
			g.Op, g.Subject = f.Subject, ""
			return &g
		}
	}
	return err
}
