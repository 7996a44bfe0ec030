package audit_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/audit"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// pages is a log that is read in pages of two.
type pages []api.AuditEntry

func (p pages) Audit(_ context.Context, after uint64, _ int) ([]api.AuditEntry, error) {
	var out []api.AuditEntry
	for _, e := range p {
		if e.Index > after && len(out) < 2 {
			out = append(out, e)
		}
	}
	return out, nil
}

func chain(t *testing.T, n int) pages {
	var log pages
	var last api.AuditEntry
	for i := range n {
		e, err := audit.Note{At: time.Unix(int64(i), 0), Actor: "ann", Action: audit.TokenCreated, Detail: map[string]string{"html": "<b>"}}.Entry(last)
		if err != nil {
			t.Fatal(err)
		}
		log, last = append(log, e), e
	}
	return log
}

func TestAWholeLogVerifiesPageByPage(t *testing.T) {
	log := chain(t, 7)
	n, head, err := audit.Verify(t.Context(), log)
	if err != nil || n != 7 || head != log[6].Hash {
		t.Errorf("verified %d, %s: %v", n, head.Short(), err)
	}
	if n, head, err := audit.Verify(t.Context(), pages{}); err != nil || n != 0 || head != (fleet.Digest{}) {
		t.Errorf("an empty log: %d, %v", n, err)
	}
}

func TestAGapBetweenPagesIsSeen(t *testing.T) {
	for _, cut := range []int{0, 1, 2, 3, 5} {
		log := chain(t, 7)
		log = append(log[:cut:cut], log[cut+1:]...)
		if _, _, err := audit.Verify(t.Context(), log); !fault.Is(err, fault.Untrusted) {
			t.Errorf("without entry %d: %v, want Untrusted", cut+1, err)
		}
	}
}

func TestADetailThatIsNotJSONIsRefused(t *testing.T) {
	_, err := audit.Note{Detail: make(chan int)}.Entry(api.AuditEntry{})
	if _, ok := errors.AsType[*fault.Error](err); !ok {
		t.Errorf("got %v, want a fault", err)
	}
}
