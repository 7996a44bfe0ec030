package guard_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/guard"
)

func explode(b []byte) byte { return b[len(b)] }

func TestAPanicIsAnErrorAndIsLoggedWithItsStack(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	err := guard.Do(slog.New(slog.NewTextHandler(&out, nil)), "judge pack", "cell", func() error {
		explode([]byte("outside"))
		return nil
	})
	if !fault.Is(err, fault.Internal) || !strings.Contains(err.Error(), "judge pack cell: panic: runtime error: index out of range") || fault.Hint(err) == "" {
		t.Errorf("error is %v", err)
	}
	if log := out.String(); strings.Count(log, "panic survived") != 1 || !strings.Contains(log, "explode") {
		t.Errorf("log is %q", log)
	}
}

func TestWithoutAPanicTheErrorPasses(t *testing.T) {
	t.Parallel()
	want := errors.New("as it is")
	for _, e := range []error{nil, want} {
		if err := guard.Do(slog.New(slog.DiscardHandler), "op", "", func() error { return e }); !errors.Is(err, e) {
			t.Errorf("returned %v, want %v", err, e)
		}
	}
}
