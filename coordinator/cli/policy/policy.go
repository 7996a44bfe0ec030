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
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
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
// with its defaults, and the JSON as the author wrote it, to send on. Every error is
// about a line: NAME:LINE.
func Parse(name string, data []byte) (fleet.Spec, json.RawMessage, error) {
	if len(data) > MaxBytes {
		return fleet.Spec{}, nil, mistake(name, at(1, "it has %d bytes, more than %d", len(data), MaxBytes))
	}
	doc, err := document(data)
	if err != nil {
		return fleet.Spec{}, nil, mistake(name, err)
	}
	var out bytes.Buffer
	if err := encode(&out, doc, 0); err != nil {
		return fleet.Spec{}, nil, mistake(name, err)
	}
	if err := check(doc, reflect.TypeFor[fleet.Spec]()); err != nil {
		return fleet.Spec{}, nil, mistake(name, err)
	}
	spec, err := fleet.ParseSpec(out.Bytes())
	if err != nil {
		return fleet.Spec{}, nil, mistake(name, &lineError{lineOf(doc, err), about(err), fault.Hint(err)})
	}
	return spec, out.Bytes(), nil
}

// lineError is an error on a line.
type lineError struct {
	line int
	err  error
	hint string
}

func (e *lineError) Error() string { return e.err.Error() }
func (e *lineError) Unwrap() error { return e.err }

func at(line int, format string, args ...any) error {
	return &lineError{line, fmt.Errorf(format, args...), ""}
}

// mistake is what a person is told.
func mistake(name string, err error) error {
	line, hint := 1, ""
	if e, ok := errors.AsType[*lineError](err); ok {
		line, hint = e.line, e.hint
	}
	return fault.New(fault.Invalid, "read policy", fmt.Sprintf("%s:%d", name, line), err).
		WithHint("%s", cmp.Or(hint, "`modelfleet rollout start --help` shows a policy with every setting"))
}

// document is the one document's one mapping.
func document(data []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, at(1, "it is empty")
	case err != nil:
		text := strings.TrimPrefix(err.Error(), "yaml: ")
		if m := yamlLine.FindStringSubmatch(text); m != nil {
			line, _ := strconv.Atoi(m[1]) // the expression took digits only
			return nil, at(line, "%s", m[2])
		}
		return nil, at(1, "%s", text)
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, at(max(1, more.Line), "a second document begins; a policy is one")
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, at(max(1, doc.Line), "it is no mapping of names to values")
	}
	return doc.Content[0], nil
}

// encode writes a node as JSON.
func encode(out *bytes.Buffer, n *yaml.Node, depth int) error {
	if depth > maxDepth {
		return at(n.Line, "values are nested more than %d deep", maxDepth)
	}
	if n.Anchor != "" || n.Kind == yaml.AliasNode {
		return at(n.Line, "anchors and aliases are not allowed in a policy")
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
			return at(n.Line, "%w", err)
		}
		b, err := json.Marshal(v)
		if err != nil {
			return at(n.Line, "%w", err)
		}
		out.Write(b)
		return nil
	default:
		return at(n.Line, "this is no value")
	}
}

func encodeMapping(out *bytes.Buffer, n *yaml.Node, depth int) error {
	seen := map[string]bool{}
	out.WriteByte('{')
	for i := 0; i+1 < len(n.Content); i += 2 {
		k := n.Content[i]
		switch {
		case k.Kind != yaml.ScalarNode || k.ShortTag() == "!!merge":
			return at(k.Line, "this is no name of a setting")
		case seen[k.Value]:
			return at(k.Line, "%s is given twice", k.Value)
		}
		seen[k.Value] = true
		if i > 0 {
			out.WriteByte(',')
		}
		name, err := json.Marshal(k.Value)
		if err != nil {
			return at(k.Line, "%w", err)
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
		return nil, fmt.Errorf("tag %s is not allowed in a policy", n.Tag)
	}
}

// yamlLine is how the YAML parser says where a mistake is.
var yamlLine = regexp.MustCompile(`^line (\d+): (.*)$`)
