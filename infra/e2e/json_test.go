package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// condition is PATH=VALUE, PATH~REGEXP or PATH!=VALUE about a JSON document. A
// path is names and indices with dots between; a name steps into each element of
// a list. One of the values that the path leads to must be so; for !=, none.
var condition = regexp.MustCompile(`^([\w.-]+)(=|~|!=)(.*)$`)

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
	var conditions [][]string
	for len(args) > 0 && condition.MatchString(args[0]) {
		conditions = append(conditions, condition.FindStringSubmatch(args[0]))
		args = args[1:]
	}
	if len(conditions) == 0 || len(args) == 0 {
		ts.Fatalf("usage: wait-for CONDITION... COMMAND...")
	}
	var last string
	holds := func() bool {
		meanwhile()
		out, said, err := s.run(ts, args)
		if err != nil {
			last = fmt.Sprintf("%v: %s", err, said)
			return false
		}
		last = string(out)
		for _, c := range conditions {
			values, err := lookup(out, c[1])
			if err != nil || !matches(ts, values, c[2], c[3]) {
				return false
			}
		}
		return true
	}
	if !until(holds, func() bool { return false }) {
		ts.Fatalf("it never came to %q; last:\n%s", conditions, last)
	}
}

func matches(ts *testscript.TestScript, values []string, operator, want string) bool {
	re, err := regexp.Compile(want)
	if operator == "~" {
		ts.Check(err)
	}
	for _, v := range values {
		if operator == "!=" && v == want {
			return false
		}
		if operator == "=" && v == want || operator == "~" && re.MatchString(v) {
			return true
		}
	}
	return operator == "!="
}

// get is "get NAME PATH COMMAND...": a variable from the JSON that the command
// prints.
func get(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: get NAME PATH COMMAND...")
	}
	out, said, err := on(ts).run(ts, args[2:])
	if err != nil {
		ts.Fatalf("%v: %s", err, said)
	}
	values, err := lookup(out, args[1])
	ts.Check(err)
	if len(values) == 0 {
		ts.Fatalf("there is no %s in %s", args[1], out)
	}
	ts.Setenv(args[0], values[0])
}
