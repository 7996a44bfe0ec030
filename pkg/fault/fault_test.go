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

// An error says each thing once, however many levels name it.
func TestWhatIsSaidTwiceIsSaidOnce(t *testing.T) {
	t.Parallel()
	fail := errors.New("it is not enrolled")
	for want, err := range map[string]error{
		"get member m1: it is not enrolled": fault.New(fault.NotFound, "get member", "m1", fault.New(fault.NotFound, "find member", "m1", fail)),
		"read key a.pem: no such file":      fault.New(fault.NotFound, "read key", "a.pem", errors.New("open a.pem: no such file")),
		"admit releases vision: pub-vision: rule publisher: expired": fault.New(fault.Untrusted, "admit releases", "vision",
			fault.Newf(fault.Untrusted, "admit release", "pub-vision", "rule publisher: expired")),
		"start rollout: no reason":                                   fault.New(fault.Invalid, "start rollout", "", fault.New(fault.Invalid, "start rollout", "", errors.New("no reason"))),
		"publish r1: read file a/b: it is not enrolled":              fault.New(fault.NotFound, "publish", "r1", fault.New(fault.NotFound, "read file", "a/b", fail)),
		"check m1: 3 of 5 keys of m1: too few":                       fault.Newf(fault.Untrusted, "check", "m1", "3 of 5 keys of m1: too few"),
		"publish root: not signed by root: 1 of 2 keys":              fault.Newf(fault.Untrusted, "publish", "root", "not signed by root: 1 of 2 keys"),
		"read file a.json: unknown field in a.json: line 3":          fault.Newf(fault.Invalid, "read file", "a.json", "unknown field in a.json: line 3"),
		"read: reading is over":                                      fault.Newf(fault.Invalid, "read", "", "reading is over"),
		"read: read more than it says":                               fault.Newf(fault.Invalid, "read", "", "read more than it says"),
		"get rollout r1: it ended":                                   fault.New(fault.Conflict, "get rollout", "r1", fmt.Errorf("get rollout r1: %w", errors.New("it ended"))),
		"read policy p.yaml: line 3 of p.yaml: there is no such key": fault.Newf(fault.Invalid, "read policy", "p.yaml", "line 3 of p.yaml: there is no such key"),
	} {
		if got := err.Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
