package fault_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/fault"
)

func TestKindSurvivesWrapping(t *testing.T) {
	t.Parallel()
	cause := errors.New("signature does not match")
	err := fmt.Errorf("start rollout: %w", fault.New(fault.Untrusted, "verify pack", "default", cause).WithHint("fetch a fresh %s", "pack"))
	if got := fault.KindOf(err); got != fault.Untrusted {
		t.Errorf("KindOf = %v, want untrusted", got)
	}
	if !errors.Is(err, cause) {
		t.Error("the cause is not reachable")
	}
	if got, want := err.Error(), "start rollout: verify pack default: signature does not match"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
	if got := fault.Hint(err); got != "fetch a fresh pack" {
		t.Errorf("Hint = %q", got)
	}
}

func TestUnclassifiedErrors(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]fault.Kind{
		errors.New("boom"):       fault.Internal,
		context.Canceled:         fault.Canceled,
		context.DeadlineExceeded: fault.Transient,
	} {
		if got := fault.KindOf(err); got != want {
			t.Errorf("KindOf(%v) = %v, want %v", err, got, want)
		}
	}
	if fault.Is(nil, fault.Internal) {
		t.Error("nil is an error of no kind")
	}
}

// Every kind has its own wire name and exit code, and only Transient is retried.
func TestKindTable(t *testing.T) {
	t.Parallel()
	names, exits := map[string]bool{}, map[int]bool{}
	for k := fault.Internal; k <= fault.Canceled; k++ {
		if names[k.String()] || exits[k.Exit()] || k.Exit() == 0 {
			t.Errorf("%v: name or exit code %d is taken", k, k.Exit())
		}
		names[k.String()], exits[k.Exit()] = true, true
		if fault.ParseKind(k.String()) != k {
			t.Errorf("%v does not parse back", k)
		}
		if k.Status() < 400 || k.Status() > 599 {
			t.Errorf("%v: status %d is not an error", k, k.Status())
		}
		if k.Retry() != (k == fault.Transient) {
			t.Errorf("%v: Retry = %v", k, k.Retry())
		}
	}
	if fault.ParseKind("no such") != fault.Internal {
		t.Error("an unknown name is not internal")
	}
}
