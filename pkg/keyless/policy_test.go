package keyless_test

import (
	"testing"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/keyless"
)

func TestPolicyIsReadStrictly(t *testing.T) {
	t.Parallel()
	p := keyless.Policy{Teams: map[fleet.Team][]keyless.Identity{"vision": {{Issuer: "https://ci", Subject: "https://ci/train"}}}}
	raw, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := keyless.ParsePolicy(raw)
	if err != nil || again.Teams["vision"][0] != p.Teams["vision"][0] {
		t.Errorf("read %v, %v", again, err)
	}
	if none, err := keyless.ParsePolicy(nil); err != nil || len(none.Teams) > 0 {
		t.Errorf("of nothing: %v, %v", none, err)
	}
	for name, text := range map[string]string{
		"a typo":            `{"team":{}}`,
		"a team twice":      `{"teams":{"vision":[{"issuer":"a","subject":"b"}],"vision":[{"issuer":"c","subject":"d"}]}}`,
		"nobody":            `{"teams":{"vision":[]}}`,
		"no issuer":         `{"teams":{"vision":[{"subject":"b"}]}}`,
		"a pattern of none": `{"teams":{"vision":[{"issuer":"a","pattern":"("}]}}`,
		"a team of no name": `{"teams":{"":[{"issuer":"a","subject":"b"}]}}`,
		"not JSON":          `teams`,
	} {
		if _, err := keyless.ParsePolicy([]byte(text)); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte(`{"teams":{"vision":[{"issuer":"a","pattern":"b.*"}]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := keyless.ParsePolicy(raw)
		if err != nil {
			return
		}
		again, err := p.Encode()
		if err != nil {
			t.Fatalf("read and not written: %v", err)
		}
		if _, err := keyless.ParsePolicy(again); err != nil {
			t.Fatalf("written and not read: %v", err)
		}
	})
}
