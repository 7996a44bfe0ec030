package e2e_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// exits is "exits CODE COMMAND...": the command ends with just this code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		code, ok := strings.CutPrefix(err.Error(), "exit status ")
		if !ok {
			ts.Fatalf("%v", err)
		}
		got, err = strconv.Atoi(code)
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// blob is "blob FILE BYTES": a file of that many bytes that do not compress.
func blob(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	b := make([]byte, n)
	x := uint64(n)
	for i := range b {
		x = x*6364136223846793005 + 1442695040888963407
		b[i] = byte(x >> 56)
	}
	path := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
	ts.Check(os.WriteFile(path, b, 0o644))
}

// flip is "flip GLOB OFFSET": somebody changes one bit of each such file that is
// long enough.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	at, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	paths, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	flipped := false
	for _, p := range paths {
		b, err := os.ReadFile(p)
		ts.Check(err)
		if int64(len(b)) <= at {
			continue
		}
		b[at] ^= 1
		ts.Check(os.Chmod(p, 0o644))
		ts.Check(os.WriteFile(p, b, 0o644))
		flipped = true
	}
	if !flipped {
		ts.Fatalf("no file to flip a bit of: %v", paths)
	}
}
