package disk_test

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/infra/crash/disk"
	"github.com/modelfleet/modelfleet/infra/crash/trace"
)

var plain = regexp.MustCompile(`(/d|\b[a-z])(/[a-z]+)*([">])`)

// parsed is a trace that a person wrote, with its paths, which all begin with /d or
// are one letter, as strace writes them.
func parsed(t *testing.T, text string) []trace.Call {
	t.Helper()
	text = plain.ReplaceAllStringFunc(strings.TrimLeft(text, "\n"), func(s string) string {
		var b strings.Builder
		for _, c := range []byte(s[:len(s)-1]) {
			b.WriteString(`\x` + hex.EncodeToString([]byte{c}))
		}
		return b.String() + s[len(s)-1:]
	})
	calls, err := trace.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return calls
}

// Two threads work at once: one moves a to b in the folder l and syncs l, the other
// then removes x. Whether a power cut may leave the folder with neither b nor x, as
// if the second had not waited, is decided by which calls ran beside each other.
func TestOverlappingCalls(t *testing.T) {
	t.Parallel()
	const opened = `
1 openat(AT_FDCWD</>, "/d/l", O_RDONLY|O_CLOEXEC) = 5</d/l>
1 openat(AT_FDCWD</>, "/d/r", O_RDONLY|O_CLOEXEC) = 6</d/r>
`
	for _, c := range []struct {
		name, calls string
		hole        bool // x may be gone and b not be there
	}{
		{"one after the other", `
1 renameat(5</d/l>, "a", 5</d/l>, "b") = 0
1 fsync(5</d/l>) = 0
2 unlinkat(6</d/r>, "x", 0) = 0
`, false},
		{"told in two pieces, and yet one after the other", `
1 renameat(5</d/l>, "a", 5</d/l>, "b" <unfinished ...>
2 lseek(6</d/r>, 0, SEEK_SET <unfinished ...>
1 <... renameat resumed>) = 0
1 fsync(5</d/l> <unfinished ...>
2 <... lseek resumed>) = 0
1 <... fsync resumed>) = 0
2 unlinkat(6</d/r>, "x", 0) = 0
`, false},
		{"on another thread after the rename", `
1 renameat(5</d/l>, "a", 5</d/l>, "b" <unfinished ...>
2 lseek(6</d/r>, 0, SEEK_SET) = 0
1 <... renameat resumed>) = 0
3 fsync(5</d/l>) = 0
2 unlinkat(6</d/r>, "x", 0) = 0
`, false},
		{"a sync that begins before the rename has ended promises nothing", `
1 renameat(5</d/l>, "a", 5</d/l>, "b" <unfinished ...>
3 fsync(5</d/l> <unfinished ...>
1 <... renameat resumed>) = 0
3 <... fsync resumed>) = 0
2 unlinkat(6</d/r>, "x", 0) = 0
`, true},
		{"nor one that has ended before it has", `
1 renameat(5</d/l>, "a", 5</d/l>, "b" <unfinished ...>
3 fsync(5</d/l>) = 0
1 <... renameat resumed>) = 0
2 unlinkat(6</d/r>, "x", 0) = 0
`, true},
		{"the removal does not wait for the sync to end", `
1 renameat(5</d/l>, "a", 5</d/l>, "b") = 0
1 fsync(5</d/l> <unfinished ...>
2 unlinkat(6</d/r>, "x", 0) = 0
1 <... fsync resumed>) = 0
`, true},
		{"the removal begins before the sync has ended", `
1 renameat(5</d/l>, "a", 5</d/l>, "b") = 0
1 fsync(5</d/l> <unfinished ...>
2 unlinkat(6</d/r>, "x", 0 <unfinished ...>
1 <... fsync resumed>) = 0
2 <... unlinkat resumed>) = 0
`, true},
		{"a sync that failed", `
1 renameat(5</d/l>, "a", 5</d/l>, "b") = 0
1 fsync(5</d/l>) = -1 EIO (Input/output error)
2 unlinkat(6</d/r>, "x", 0) = 0
`, true},
		{"a number that another thread is given while its close has not come back", `
2 close(6</d/r> <unfinished ...>
1 openat(AT_FDCWD</>, "/d/l", O_RDONLY|O_CLOEXEC) = 6</d/l>
1 renameat(6</d/l>, "a", 6</d/l>, "b") = 0
1 fsync(6</d/l>) = 0
2 <... close resumed>) = 0
2 openat(AT_FDCWD</>, "/d/r", O_RDONLY|O_CLOEXEC) = 7</d/r>
2 unlinkat(7</d/r>, "x", 0) = 0
`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			before := t.TempDir()
			for _, name := range []string{"l/a", "r/x"} {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(before, name)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(before, name), []byte(name), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			seen, end := left(t, before, parsed(t, opened+c.calls))
			if got := slices.Contains(seen, "a"); got != c.hole {
				t.Errorf("a disk with a and without x: %t, want %t; seen %q", got, c.hole, seen)
			}
			if d := cmp.Diff([]string{"b"}, end); d != "" {
				t.Errorf("the end, when nothing is lost (-want +got):\n%s", d)
			}
		})
	}
}

// left are the disks, as the names on them, that a cut after any step may leave, and
// what the program itself sees in the end.
func left(t *testing.T, before string, calls []trace.Call) (seen, end []string) {
	t.Helper()
	d, err := disk.Load(before, "/d", calls, 1)
	if err != nil {
		t.Fatal(err)
	}
	names := func(im *disk.Image) string {
		dir := filepath.Join(t.TempDir(), "image")
		if err := im.Write(dir); err != nil {
			t.Fatal(err)
		}
		found, err := filepath.Glob(filepath.Join(dir, "?", "?"))
		if err != nil {
			t.Fatal(err)
		}
		for i, f := range found {
			found[i] = filepath.Base(f)
		}
		return strings.Join(found, " ")
	}
	for d.Next() {
		for im := range d.Crashes(40) {
			if s := names(im); !slices.Contains(seen, s) {
				seen = append(seen, s)
			}
		}
	}
	if err := d.Err(); err != nil {
		t.Fatal(err)
	}
	return seen, []string{names(d.Live())}
}

// A sync that the model cannot place is an error, not a sync that was never made.
func TestADescriptorThatWasMissedIsSaid(t *testing.T) {
	t.Parallel()
	before := t.TempDir()
	d, err := disk.Load(before, "/d", parsed(t, "1 fsync(5</d>) = 0\n"), 1)
	if err != nil {
		t.Fatal(err)
	}
	if d.Next() || d.Err() == nil {
		t.Error("a sync of a descriptor that nobody opened was passed over")
	}
}
