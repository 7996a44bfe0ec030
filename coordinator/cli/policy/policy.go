// Package policy reads a rollout's policy file: YAML with the names of
// fleet.Spec, strict. It turns YAML into JSON by itself, so that there is one
// decoder and one set of checks (fleet.ParseSpec), and finds the line that an
// error is about.
//
//	spec, text, err := policy.Parse("policy.yaml", data)
//
// What YAML can do beyond JSON is refused: anchors, tags, several documents and
// keys given twice.
package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// MaxBytes bounds a policy file.
const MaxBytes = 256 << 10

// maxDepth bounds how deep values lie in one another.
const maxDepth = 32

// Parse reads a policy. name is the file's, for messages. It returns the spec
// with its defaults, and the JSON as the author wrote it, to send on.
func Parse(name string, data []byte) (fleet.Spec, json.RawMessage, error) {
	const op = "read policy"
	if len(data) > MaxBytes {
		return fleet.Spec{}, nil, fault.Newf(fault.Invalid, op, name, "it has %d bytes, more than %d", len(data), MaxBytes)
	}
	doc, err := document(data)
	if err != nil {
		return fleet.Spec{}, nil, fault.New(fault.Invalid, op, name, err)
	}
	var out bytes.Buffer
	if err := encode(&out, doc, 0); err != nil {
		return fleet.Spec{}, nil, fault.New(fault.Invalid, op, name, err)
	}
	spec, err := fleet.ParseSpec(out.Bytes())
	if err != nil {
		f := fault.New(fault.Invalid, op, place(name, doc, err), plain(err))
		if hint := fault.Hint(err); hint != "" {
			f = f.WithHint("%s", hint)
		}
		return fleet.Spec{}, nil, f
	}
	return spec, out.Bytes(), nil
}

// document is the one document's one mapping.
func document(data []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("it is empty")
	case err != nil:
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("it holds more than one document")
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("it is no mapping of names to values")
	}
	return doc.Content[0], nil
}

// encode writes a node as JSON.
func encode(out *bytes.Buffer, n *yaml.Node, depth int) error {
	at := func(format string, args ...any) error {
		return fmt.Errorf("line %d: "+format, append([]any{n.Line}, args...)...)
	}
	if depth > maxDepth {
		return at("values lie more than %d deep", maxDepth)
	}
	if n.Anchor != "" || n.Kind == yaml.AliasNode {
		return at("anchors and aliases are not used here")
	}
	switch n.Kind {
	case yaml.MappingNode:
		return encodeMapping(out, n, depth)
	case yaml.SequenceNode:
		out.WriteByte('[')
		for i, c := range n.Content {
			if i > 0 {
				out.WriteByte(',')
			}
			if err := encode(out, c, depth+1); err != nil {
				return err
			}
		}
		out.WriteByte(']')
		return nil
	case yaml.ScalarNode:
		v, err := scalar(n)
		if err != nil {
			return at("%w", err)
		}
		b, err := json.Marshal(v)
		if err != nil {
			return at("%w", err)
		}
		out.Write(b)
		return nil
	default:
		return at("this is no value")
	}
}

func encodeMapping(out *bytes.Buffer, n *yaml.Node, depth int) error {
	seen := map[string]bool{}
	out.WriteByte('{')
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		switch {
		case k.Kind != yaml.ScalarNode || k.ShortTag() == "!!merge":
			return fmt.Errorf("line %d: this is no name", k.Line)
		case seen[k.Value]:
			return fmt.Errorf("line %d: %s is given twice", k.Line, k.Value)
		}
		seen[k.Value] = true
		if i > 0 {
			out.WriteByte(',')
		}
		name, err := json.Marshal(k.Value)
		if err != nil {
			return fmt.Errorf("line %d: %w", k.Line, err)
		}
		out.Write(name)
		out.WriteByte(':')
		if err := encode(out, n.Content[i+1], depth+1); err != nil {
			return err
		}
	}
	out.WriteByte('}')
	return nil
}

// scalar is the value of a plain or quoted scalar.
func scalar(n *yaml.Node) (any, error) {
	switch n.ShortTag() {
	case "!!str", "!!timestamp":
		return n.Value, nil
	case "!!null":
		return nil, nil
	case "!!bool":
		var v bool
		return v, n.Decode(&v)
	case "!!int":
		var v int64
		if err := n.Decode(&v); err != nil {
			return nil, fmt.Errorf("%s is no number", n.Value)
		}
		return v, nil
	case "!!float":
		v, err := strconv.ParseFloat(n.Value, 64)
		if err != nil {
			return nil, fmt.Errorf("%s is no number", n.Value)
		}
		return v, nil
	default:
		return nil, fmt.Errorf("tag %s is not used here", n.Tag)
	}
}

var (
	unknownField = regexp.MustCompile(`unknown field "([^"]+)"`)
	numbered     = regexp.MustCompile(`^(stage|gate) (\d+) `)
)

// place is the file and, where it can be found, the line that err is about.
func place(name string, doc *yaml.Node, err error) string {
	line := 0
	var typ *json.UnmarshalTypeError
	if m := unknownField.FindStringSubmatch(err.Error()); m != nil {
		line = lineOfKey(doc, m[1])
	} else if errors.As(err, &typ) {
		line = lineOfPath(doc, strings.Split(typ.Field, "."))
	} else {
		for e := err; e != nil; e = errors.Unwrap(e) {
			if f, ok := e.(*fault.Error); ok && f.Subject != "" { // each level's own subject
				if l := lineOfSubject(doc, f.Subject); l > 0 {
					line = l
				}
			}
		}
	}
	if line == 0 {
		return name
	}
	return fmt.Sprintf("%s:%d", name, line)
}

// lineOfSubject finds what a fault of fleet.ParseSpec names: a stage, a gate, a
// name of the top level, or a value.
func lineOfSubject(doc *yaml.Node, subject string) int {
	if m := numbered.FindStringSubmatch(subject); m != nil {
		i, _ := strconv.Atoi(m[2]) // the expression took digits only
		if list := value(doc, m[1]+"s"); list != nil && i >= 1 && i <= len(list.Content) {
			return list.Content[i-1].Line
		}
	}
	if v := value(doc, subject); v != nil {
		return v.Line
	}
	text := subject
	if s, err := strconv.Unquote(subject); err == nil {
		text = s
	}
	return lineOfValue(doc, text)
}

// value is what the mapping n holds under key.
func value(n *yaml.Node, key string) *yaml.Node {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// lineOfKey is where a name is first used, at any depth.
func lineOfKey(n *yaml.Node, key string) int {
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			if strings.EqualFold(c.Value, key) {
				return c.Line
			}
			continue
		}
		if l := lineOfKey(c, key); l > 0 {
			return l
		}
	}
	return 0
}

// lineOfPath is where the last name of a path is first used; the first of the
// path that leads through lists cannot say which element it was.
func lineOfPath(n *yaml.Node, path []string) int {
	if len(path) == 0 {
		return n.Line
	}
	switch n.Kind {
	case yaml.MappingNode:
		if v := value(n, path[0]); v != nil {
			return lineOfPath(v, path[1:])
		}
	case yaml.SequenceNode:
		for _, c := range n.Content {
			if l := lineOfPath(c, path); l > 0 {
				return l
			}
		}
	}
	return 0
}

// lineOfValue is where a scalar with this text is first used.
func lineOfValue(n *yaml.Node, text string) int {
	if n.Kind == yaml.ScalarNode && n.Value == text {
		return n.Line
	}
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			continue
		}
		if l := lineOfValue(c, text); l > 0 {
			return l
		}
	}
	return 0
}

// plain is err in a policy's words, not the decoder's.
func plain(err error) error {
	var typ *json.UnmarshalTypeError
	switch {
	case errors.As(err, &typ):
		return fmt.Errorf("%s cannot be a %s", typ.Field, typ.Value)
	case unknownField.MatchString(err.Error()):
		return fmt.Errorf("there is no setting %q", unknownField.FindStringSubmatch(err.Error())[1])
	}
	// "read rollout spec" is what we said already: go on with its cause.
	for e := err; e != nil; e = errors.Unwrap(e) {
		if f, ok := e.(*fault.Error); ok && f.Subject != "" {
			return f
		}
	}
	return err
}
