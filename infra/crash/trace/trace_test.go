package trace_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/infra/crash/trace"
)

const sample = `7 openat(AT_FDCWD<\x2f\x77>, "\x2f\x61", O_RDWR|O_CREAT|O_CLOEXEC, 0644) = 5<\x2f\x61>
8 close(5<\x2f\x61> <unfinished ...>
7 pwrite64(9<\x2f\x62>, "\x00\x2c\x29", 3, 4096 <unfinished ...>
9 openat(AT_FDCWD<\x2f\x77>, "\x2f\x63", O_RDONLY) = 5<\x2f\x63>
8 <... close resumed>)                    = 0
7 <... pwrite64 resumed>)                 = 3
7 fsync(9<\x2f\x62>)                      = -1 EIO (Input/output error)
7 fcntl(9<\x2f\x62>, F_GETFL)             = 0x8802 (flags O_RDWR|O_NONBLOCK|O_LARGEFILE)
7 rename("\x2f\x61", "\x2f\x62" <unfinished ...>
7 +++ killed by SIGKILL +++
`

func TestCallsAreReadInTheOrderOfTheirEffect(t *testing.T) {
	t.Parallel()
	calls, err := trace.Parse(strings.NewReader(sample))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range calls {
		names = append(names, c.Name)
	}
	// The close frees 5 before the open is given it, and what never came back is left out.
	if d := cmp.Diff([]string{"openat", "close", "openat", "pwrite64", "fsync", "fcntl"}, names); d != "" {
		t.Fatal(d)
	}
	w := calls[3]
	data, err := w.Bytes(1)
	off, offErr := w.Int(3)
	fd, fdErr := w.Int(0)
	if string(data) != "\x00,)" || off != 4096 || fd != 9 || w.Start != 3 || w.End != 6 || err != nil || offErr != nil || fdErr != nil {
		t.Errorf("the write is %+v: %q at %d of %d: %v %v %v", w, data, off, fd, err, offErr, fdErr)
	}
	if !calls[4].Failed() || !calls[0].Has(2, "O_CREAT") || calls[0].Has(2, "O_TRUNC") || calls[5].Ret != 0x8802 {
		t.Errorf("read as %+v", calls)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sample)
	f.Add("1 a() = ?\n1 <... b resumed>) = 0")
	f.Fuzz(func(t *testing.T, text string) {
		calls, err := trace.Parse(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, c := range calls {
			for i := range c.Args { // an argument may be anything, but never a panic
				_, _ = c.Bytes(i)
				_, _ = c.Int(i)
			}
		}
	})
}
