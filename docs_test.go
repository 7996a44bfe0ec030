package modelfleet_test

import (
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every test that ARCHITECTURE.md names as the guard of an invariant is in the
// package that it names.
func TestInvariantsHaveTheirGuards(t *testing.T) {
	t.Parallel()
	have := map[string]bool{} // "package: test"
	goFiles(t, func(path string, _ *token.FileSet, file *ast.File) {
		for _, d := range file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				have[fmt.Sprintf("%s: %s", filepath.ToSlash(filepath.Dir(path)), fn.Name.Name)] = true
			}
		}
	})
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, invariants, _ := strings.Cut(string(text), "## Invariants")
	guards := 0
	for _, m := range regexp.MustCompile("- `([a-z0-9/]+)`: ((?:`\\w+`,?\\s+)+)").FindAllStringSubmatch(invariants, -1) {
		for _, name := range regexp.MustCompile(`\w+`).FindAllString(m[2], -1) {
			if guards++; !have[m[1]+": "+name] {
				t.Errorf("%s has no %s", m[1], name)
			}
		}
	}
	if guards < 50 {
		t.Errorf("only %d guards were found in ARCHITECTURE.md", guards)
	}
}

// Every relative link of the documents leads to something.
func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	err := filepath.WalkDir(".", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".md" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
