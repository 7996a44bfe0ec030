package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// condition is PATH=VALUE, PATH~REGEXP or PATH!=VALUE about a JSON document. A
// path is names and indices with dots between; a name steps into each element of
// a list. One of the values that the path leads to must be so; for !=, none.
type condition struct{ path, operator, want string }

var conditionForm = regexp.MustCompile(`^([\w.-]+)(=|~|!=)(.*)$`)

func parseCondition(text string) (condition, bool) {
	m := conditionForm.FindStringSubmatch(text)
	if m == nil {
		return condition{}, false
	}
	return condition{m[1], m[2], m[3]}, true
}

// holds reports whether the condition does, of the document.
func (c condition) holds(document []byte) (bool, error) {
	values, err := lookup(document, c.path)
	if err != nil {
		return false, err
	}
	switch c.operator {
	case "=":
		return slices.Contains(values, c.want), nil
	case "!=":
		return !slices.Contains(values, c.want), nil
	}
	re, err := regexp.Compile(c.want)
	return err == nil && slices.ContainsFunc(values, re.MatchString), err
}

func find(v any, path []string) []any {
	if len(path) == 0 {
		return []any{v}
	}
	switch v := v.(type) {
	case map[string]any:
		if next, ok := v[path[0]]; ok {
			return find(next, path[1:])
		}
	case []any:
		if i, err := strconv.Atoi(path[0]); err == nil {
			if i < len(v) {
				return find(v[i], path[1:])
			}
			return nil
		}
		var all []any
		for _, element := range v {
			all = append(all, find(element, path)...)
		}
		return all
	}
	return nil
}

// lookup finds the values in a document, as text.
func lookup(document []byte, path string) ([]string, error) {
	dec := json.NewDecoder(strings.NewReader(string(document)))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("not JSON: %w: %.300s", err, document)
	}
	var found []string
	for _, x := range find(v, strings.Split(path, ".")) {
		if s, ok := x.(string); ok {
			found = append(found, s)
			continue
		}
		b, err := json.Marshal(x)
		if err != nil {
			return nil, err
		}
		found = append(found, string(b))
	}
	return found, nil
}

// waitFor is "wait-for CONDITION... COMMAND...": the command prints JSON of
// which all conditions hold, sooner or later.
func waitFor(ts *testscript.TestScript, _ bool, args []string) {
	s := on(ts)
	meanwhile := func() {}
	if len(args) > 2 && args[0] == "-invoke" {
		site := args[1]
		meanwhile = func() { s.invokeOnce(context.Background(), ts, site) }
		args = args[2:]
	}
	var conditions []condition
	for len(args) > 0 {
		c, ok := parseCondition(args[0])
		if !ok {
			break
		}
		conditions, args = append(conditions, c), args[1:]
	}
	if len(conditions) == 0 || len(args) == 0 {
		ts.Fatalf("usage: wait-for CONDITION... COMMAND...")
	}
	var last string
	holds := func() bool {
		meanwhile()
		out, err := s.run(ts, args)
		if err != nil {
			last = err.Error()
			return false
		}
		last = string(out)
		for _, c := range conditions {
			if held, err := c.holds(out); err != nil || !held {
				return false
			}
		}
		return true
	}
	if !until(holds) {
		ts.Fatalf("it never came to %q; last:\n%s", conditions, last)
	}
}

// get is "get NAME PATH COMMAND...": a variable from the JSON that the command
// prints.
func get(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: get NAME PATH COMMAND...")
	}
	out, err := on(ts).run(ts, args[2:])
	ts.Check(err)
	values, err := lookup(out, args[1])
	ts.Check(err)
	if len(values) == 0 {
		ts.Fatalf("there is no %s in %s", args[1], out)
	}
	ts.Setenv(args[0], values[0])
}
