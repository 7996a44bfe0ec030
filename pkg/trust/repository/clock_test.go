package repository_test

import (
	"strings"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

// The coordinator's clock was a month ahead for one publication. Once it is mended
// nothing is signed that members would take for stale; it says so, and with another
// key of the timestamp coordinator and members go on, as the runbook has it.
func TestAClockThatWasAheadIsNamedAndMended(t *testing.T) {
	t.Parallel()
	f := trusttest.New(t, nil)
	r := f.Release("detector", "1.0.0")
	right := f.Now
	f.Now = right.AddDate(0, 1, 0)
	_, st, err := trust.Verify(f.Direct(r), f.State(), f.Member(), f.Now)
	if err != nil {
		t.Fatal(err)
	}
	f.Now = right.Add(time.Hour)
	d := fleet.Directive{Group: fleet.DefaultGroup, Sequence: 2, Issued: f.Now, Models: []fleet.Placement{{Model: "detector", Stable: &r}}}
	for name, repo := range map[string]*repository.Repository{"running": f.Repo, "started again": f.Open(f.Genesis.Root)} {
		_, err = repo.Sign(d, f.Now)
		if !fault.Is(err, fault.Transient) {
			t.Fatalf("%s: %v", name, err)
		}
		for _, want := range []string{"2026-06-01T13:00:00Z", "2026-07-01T12:00:00Z", "key rotate timestamp"} {
			if text := err.Error() + fault.Hint(err); !strings.Contains(text, want) {
				t.Errorf("%s: %q does not say %q", name, text, want)
			}
		}
	}
	if _, err := f.Repo.Sign(d, right.AddDate(0, 1, 0).Add(-4*time.Minute)); err != nil {
		t.Errorf("clocks a little apart: %v", err)
	}
	rotates(t, f)
	f.Repo = f.Open(f.Genesis.Root)
	got, _, err := trust.Verify(f.Direct(r), st, f.Member(), f.Now)
	if err != nil || got.Expired != "" {
		t.Errorf("after the rotation: expired %q, %v", got.Expired, err)
	}
}
