package attack_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The guide names each test of this package, and every test that it names exists.
func TestTheGuideNamesEveryTest(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile("../../docs/guides/threat-model.md")
	sure(t, err)
	named := map[string]string{} // test -> folder
	for _, m := range regexp.MustCompile("(?:`([a-z/]+)`: )?`(Test\\w+)`").FindAllStringSubmatch(string(guide), -1) {
		folder := "."
		if m[1] != "" {
			folder = filepath.Join("../..", m[1])
		}
		named[m[2]] = folder
	}
	for _, name := range tests(t, ".") {
		if named[name] == "" && name != t.Name() {
			t.Errorf("the guide does not name %s", name)
		}
	}
	for name, folder := range named {
		found := false
		for _, have := range tests(t, folder) {
			found = found || have == name
		}
		if !found {
			t.Errorf("the guide names %s, which is not in %s", name, folder)
		}
	}
}

// tests are the tests of a folder.
func tests(t *testing.T, folder string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	sure(t, err)
	for _, path := range files {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		sure(t, err)
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") && fn.Name.Name != "TestMain" {
				names = append(names, fn.Name.Name)
			}
		}
	}
	return names
}
