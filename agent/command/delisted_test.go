package command

import (
	"bytes"
	"strings"
	"testing"

	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// A stable release that its publisher delisted is said to be so, whether the device
// serves it still or holds it in quarantine.
func TestStatusSaysDelisted(t *testing.T) {
	t.Parallel()
	const why = "delisted by its publisher: role pub-vision version 4 lists it no longer"
	for name, m := range map[string]local.Model{
		"served":     {Name: "detector", Want: "detector@1.0.0", Serving: &local.Release{Ref: "detector@1.0.0"}, Phase: fleet.Healthy, Revoked: why},
		"not served": {Name: "detector", Want: "detector@1.0.0", Phase: fleet.Quarantined, Revoked: why, Quarantined: []local.Refused{{Ref: "detector@1.0.0", Code: update.CodeRevoked, Text: why}}},
	} {
		var out bytes.Buffer
		if err := table(&out, []local.Model{m}); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(out.String(), why); n != 1 {
			t.Errorf("%s: it says so %d times, want once:\n%s", name, n, out.String())
		}
	}
}
