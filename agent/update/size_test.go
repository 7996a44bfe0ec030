package update_test

import (
	"testing"
	"time"

	"github.com/modelfleet/modelfleet/agent/update"
)

func TestAFetchIsToldInMiB(t *testing.T) {
	t.Parallel()
	o := offer(1)
	o.Size = 57028320
	st, _ := update.Step(update.State{}, update.Event{Kind: update.Assigned, Offer: o, At: time.Unix(1e9, 0)})
	if want := "fetching 54.4 MiB"; st.Why != want {
		t.Errorf("got %q, want %q", st.Why, want)
	}
}
