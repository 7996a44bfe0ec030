// Package modelfleet_test holds the house to its plan: which way imports run,
// what pure packages may do, how long files and functions get, and what each
// binary links. ARCHITECTURE.md says why.
package modelfleet_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/modelfleet/modelfleet/"

var update = flag.Bool("update", false, "rewrite infra/deps from what is linked now")

// pkg is what `go list -json` tells of a package, as far as the rules need it.
type pkg struct {
	ImportPath, Dir, Name   string
	Imports, TestImports    []string
	XTestImports            []string
	GoFiles, TestGoFiles    []string
	XTestGoFiles            []string
	DepsErrors, MissingDeps []string
}

// rel is the package's path below the module's root.
func (p pkg) rel() string { return strings.TrimPrefix(p.ImportPath, module) }

func list(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,Name,Imports,TestImports,XTestImports,GoFiles,TestGoFiles,XTestGoFiles", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func under(path string, rooms ...string) bool {
	return slices.ContainsFunc(rooms, func(room string) bool {
		return path == room || strings.HasPrefix(path, room+"/")
	})
}

// Imports run one way: pkg imports nothing of ours above it; agent, coordinator
// and functions import pkg and never each other; nothing imports infra.
func TestImportsRunOneWay(t *testing.T) {
	t.Parallel()
	for _, p := range list(t) {
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			from := p.rel()
			room, _, _ := strings.Cut(from, "/")
			switch {
			case room == "infra":
			case room == "pkg" && !under(to, "pkg"):
				t.Errorf("%s imports %s: pkg imports nothing of ours above it", from, to)
			case !under(to, "pkg", room):
				t.Errorf("%s imports %s: rooms never import each other, and nobody imports infra", from, to)
			case under(from, "pkg/fleet", "pkg/fault", "pkg/oms", "pkg/strict") && to != "pkg/fault" && to != "pkg/strict":
				t.Errorf("%s imports %s: the vocabulary stands alone", from, to)
			case under(from, "coordinator/cli") && under(to, "coordinator") && !under(to, "coordinator/cli", "coordinator/health", "coordinator/analysis"):
				t.Errorf("%s imports %s: the operator's commands speak to the coordinator over its API, and share what only decides", from, to)
			}
		}
	}
}

// pure lists the packages that decide: functions of (state, facts, now).
var pure = []string{"agent/update", "coordinator/rollout", "coordinator/analysis", "coordinator/analysis/evalue", "pkg/fleet", "pkg/fault", "pkg/strict"}

// A pure package does no I/O, reads no clock, draws no random number and starts
// no goroutine.
func TestPurePackagesOnlyDecide(t *testing.T) {
	t.Parallel()
	allowed := []string{"bytes", "cmp", "context", "crypto/sha256", "encoding", "encoding/binary", "encoding/hex", "encoding/json", "errors", "fmt",
		"io", "iter", "maps", "math", "math/bits", "net/http", "reflect", "regexp", "slices", "sort", "strconv", "strings", "time",
		module + "pkg/fleet", module + "pkg/fault", module + "pkg/strict"}
	for _, p := range list(t) {
		if !slices.Contains(pure, p.rel()) {
			continue
		}
		for _, imp := range p.Imports {
			decides := slices.Contains(pure, strings.TrimPrefix(imp, module))
			if !decides && !slices.Contains(allowed, imp) || (imp == "net/http" && p.rel() != "pkg/fault") {
				t.Errorf("%s imports %s: it only decides", p.rel(), imp)
			}
		}
		for _, name := range p.GoFiles {
			_, file := parse(t, filepath.Join(p.Dir, name))
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.GoStmt:
					t.Errorf("%s/%s starts a goroutine", p.rel(), name)
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After", "NewTimer", "Tick"}, n.Sel.Name) {
						t.Errorf("%s/%s reads the clock: time.%s", p.rel(), name, n.Sel.Name)
					}
				}
				return true
			})
		}
	}
}

func parse(t *testing.T, path string) (*token.FileSet, *ast.File) {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	return fset, file
}

// goFiles visits every Go file of the repository.
func goFiles(t *testing.T, visit func(path string, fset *token.FileSet, file *ast.File)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || d.Name() == "testdata" || path == "bin" || path == "out"):
			return fs.SkipDir
		case strings.HasSuffix(path, ".go"):
			fset, file := parse(t, path)
			visit(path, fset, file)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Files stay within 500 lines and functions within 80 (tests and flat switches
// within 120), there is no init, and a main only parses, wires and runs.
func TestFilesAndFunctionsStaySmall(t *testing.T) {
	t.Parallel()
	goFiles(t, func(path string, fset *token.FileSet, file *ast.File) {
		lines := fset.File(file.Pos()).LineCount()
		isTest := strings.HasSuffix(path, "_test.go")
		if lines > 500 && !isTest {
			t.Errorf("%s has %d lines: split it", path, lines)
		}
		if file.Name.Name == "main" && !isTest && lines > 60 {
			t.Errorf("%s has %d lines: a main only parses, wires and runs", path, lines)
		}
		for _, decl := range file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if fn.Name.Name == "init" && fn.Recv == nil {
				t.Errorf("%s: init()", path)
			}
			limit := 80
			if isTest || slices.Contains(pure, filepath.Dir(path)) {
				limit = 120
			}
			if n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1; n > limit {
				t.Errorf("%s: %s has %d lines, more than %d", path, fn.Name.Name, n, limit)
			}
		}
	})
}

// Nobody sleeps for luck: production code waits on timers it can give up, and
// tests, with the packages that serve them (gossiptest), run in a synctest
// bubble, whose clock jumps.
func TestNobodySleeps(t *testing.T) {
	t.Parallel()
	goFiles(t, func(path string, _ *token.FileSet, file *ast.File) {
		bubble := strings.HasSuffix(filepath.Dir(path), "test") || slices.ContainsFunc(file.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"testing/synctest"` })
		ast.Inspect(file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" && sel.Sel.Name == "Sleep" && !bubble {
				t.Errorf("%s sleeps", path)
			}
			return true
		})
	})
}

// Every package says what it is for, and at least 95 % of what packages export
// is explained.
func TestEverythingIsExplained(t *testing.T) {
	t.Parallel()
	documented := map[string]bool{}
	exported, explained := 0, 0
	var missing []string
	count := func(path, name string, docs ...*ast.CommentGroup) {
		if !ast.IsExported(name) {
			return
		}
		exported++
		if slices.ContainsFunc(docs, func(d *ast.CommentGroup) bool { return d != nil }) {
			explained++
		} else {
			missing = append(missing, path+": "+name)
		}
	}
	goFiles(t, func(path string, _ *token.FileSet, file *ast.File) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		dir := filepath.Dir(path)
		documented[dir] = documented[dir] || file.Doc != nil
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil || receiverIsExported(d) {
					count(path, d.Name.Name, d.Doc)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch s := spec.(type) {
					case *ast.TypeSpec:
						count(path, s.Name.Name, d.Doc, s.Doc)
					case *ast.ValueSpec:
						for _, n := range s.Names {
							count(path, n.Name, d.Doc, s.Doc, s.Comment)
						}
					}
				}
			}
		}
	})
	for dir, ok := range documented {
		if !ok {
			t.Errorf("package %s has no doc comment", dir)
		}
	}
	if explained*100 < exported*95 {
		t.Errorf("%d of %d exported names are explained:\n%s", explained, exported, strings.Join(missing, "\n"))
	}
}

func receiverIsExported(d *ast.FuncDecl) bool {
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if index, ok := typ.(*ast.IndexExpr); ok {
		typ = index.X
	}
	id, ok := typ.(*ast.Ident)
	return ok && ast.IsExported(id.Name)
}

// What a binary links is on record in infra/deps, and bounded: a device should
// not carry a cloud SDK, and nobody links what must stay out. `go test -run
// Dependencies -update .` rewrites the record.
func TestDependenciesAreOnRecord(t *testing.T) {
	t.Parallel()
	for _, b := range []struct {
		dir    string
		limit  int
		banned []string
	}{
		{"agent/cmd/modelfleet-agent", 45, []string{"github.com/aws/aws-sdk-go-v2", "github.com/coreos/go-oidc/v3", "github.com/sigstore/sigstore-go", "modernc.org/sqlite", "github.com/versity/versitygw"}},
		{"functions/scorer", 50, []string{"github.com/aws/aws-sdk-go-v2/service/kms", "github.com/hashicorp/memberlist", "github.com/sigstore/sigstore-go", "modernc.org/sqlite"}},
		{"functions/heartbeat", 50, []string{"github.com/hashicorp/memberlist", "github.com/sigstore/sigstore-go", "modernc.org/sqlite"}},
		{"coordinator/cmd/modelfleet-coordinator", 70, []string{"github.com/sigstore/sigstore-go", "github.com/versity/versitygw"}},
		{"coordinator/cmd/modelfleet", 70, []string{"github.com/sigstore/sigstore-go", "github.com/versity/versitygw", "modernc.org/sqlite"}},
	} {
		out, err := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", "./"+b.dir).Output()
		if err != nil {
			t.Errorf("%s: go list: %v", b.dir, err)
			continue
		}
		mods := strings.Fields(string(out))
		slices.Sort(mods)
		mods = slices.DeleteFunc(slices.Compact(mods), func(m string) bool { return m == strings.TrimSuffix(module, "/") })
		if len(mods) > b.limit {
			t.Errorf("%s links %d modules, more than %d", b.dir, len(mods), b.limit)
		}
		for _, m := range mods {
			if slices.Contains(b.banned, m) {
				t.Errorf("%s links %s", b.dir, m)
			}
		}
		record := filepath.Join("infra", "deps", filepath.Base(b.dir)+".txt")
		text := strings.Join(mods, "\n") + "\n"
		if *update {
			if err := os.WriteFile(record, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(record); err != nil || string(want) != text {
			t.Errorf("%s: %s is not what is linked (%v); see what came in, then run with -update\n%s", b.dir, record, err, diff(string(want), text))
		}
	}
}

func diff(old, now string) string {
	var s strings.Builder
	was, is := strings.Fields(old), strings.Fields(now)
	for _, m := range is {
		if !slices.Contains(was, m) {
			fmt.Fprintln(&s, "+", m)
		}
	}
	for _, m := range was {
		if !slices.Contains(is, m) {
			fmt.Fprintln(&s, "-", m)
		}
	}
	return s.String()
}
