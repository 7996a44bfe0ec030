package coordinator_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A session key that cannot be used is made anew, and said so: people wonder why
// they must sign in again.
func TestADamagedSessionKeyIsMadeAnewAndSaidSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const warning = "session key is made anew"
	path := filepath.Join(w.opts.Data, "session.key")
	w.start()
	first := must(os.ReadFile(path))(t)
	ok(t, w.stop())
	w.start()
	if b := must(os.ReadFile(path))(t); !bytes.Equal(b, first) || strings.Contains(w.logs.String(), warning) {
		t.Errorf("a good key was made anew:\n%s", w.logs)
	}
	ok(t, w.stop())
	ok(t, os.WriteFile(path, first[:7], 0o600))
	w.start()
	if log := w.logs.String(); strings.Count(log, warning) != 1 || !strings.Contains(log, "it has 7 bytes, want 32") {
		t.Errorf("log:\n%s", log)
	}
	if b := must(os.ReadFile(path))(t); len(b) != 32 || bytes.Equal(b, first) {
		t.Errorf("the key is %x", b)
	}
}
