package trust_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
	"github.com/modelfleet/modelfleet/pkg/trust/trusttest"
)

var update = flag.Bool("update", false, "make the test vectors anew")

// vector is what a reader in any language must get out of testdata/pack.zst when
// it was given root.json, at the time of the vector.
type vector struct {
	Group     fleet.Group      `json:"group"`
	Now       string           `json:"now"`
	Pin       fleet.Digest     `json:"pin"`
	Fleet     string           `json:"fleet"`
	Expires   string           `json:"expires"`
	Versions  map[string]int64 `json:"versions"`
	Directive fleet.Directive  `json:"directive"`
	Digest    fleet.Digest     `json:"digest"`
	Refused   []string         `json:"refused"`
	JoinToken string           `json:"joinToken"` // whose fields are those in the test
}

// The committed pack is read by this and every later version as it was by the
// one that wrote it.
func TestCommittedPackIsStillRead(t *testing.T) {
	t.Parallel()
	file := func(name string) string { return filepath.Join("testdata", "vector", name) }
	if *update {
		f := trusttest.New(t, nil)
		r1, r2 := f.Release("detector", "1.0.0"), f.Release("detector", "2.0.0")
		gone := f.Release("scorer", "1.0.0")
		f.Publish(repository.Change{Delist: []string{"scorer@1.0.0"}})
		pack := f.Sign(fleet.Directive{Group: fleet.DefaultGroup, Issued: f.Now, Models: []fleet.Placement{
			{Model: "detector", Stable: &r1, Rollout: &fleet.Exposure{ID: "detector-2.0.0-1", Release: r2, AsOf: f.Now, Rules: []fleet.Rule{{Bound: 1 << 62}}}},
			{Model: "scorer", Stable: &gone},
		}})
		for name, body := range map[string][]byte{"root.json": f.Genesis.Root, "pack.zst": pack} {
			if err := os.WriteFile(file(name), body, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	read := func(name string) []byte {
		t.Helper()
		b, err := os.ReadFile(file(name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	root, now := read("root.json"), trusttest.Start()
	st, err := trust.NewState(root, fleet.DigestOf(root))
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := trust.Verify(read("pack.zst"), st, fleet.Facts{Group: fleet.DefaultGroup}, now)
	if err != nil {
		t.Fatal(err)
	}
	text, err := token().Encode()
	if err != nil {
		t.Fatal(err)
	}
	have := vector{
		Group: fleet.DefaultGroup, Now: now.Format("2006-01-02T15:04:05Z07:00"), Pin: fleet.DigestOf(root), Fleet: got.Fleet,
		Expires: got.Expires.Format("2006-01-02T15:04:05Z07:00"), Versions: got.Versions, Directive: got.Directive, Digest: got.Digest, JoinToken: text,
	}
	for _, r := range got.Refused {
		have.Refused = append(have.Refused, r.Release+" by rule "+string(trust.RuleOf(r.Err)))
	}
	text2, err := json.MarshalIndent(have, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file("trusted.json"), append(text2, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(read("trusted.json")), string(text2)+"\n"); diff != "" {
		t.Errorf("the pack is read differently (-committed +now):\n%s", diff)
	}
}
