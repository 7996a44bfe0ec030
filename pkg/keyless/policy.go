package keyless

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
)

// Policy says which teams' releases need a keyless signature beside the one by
// the team's key, and by whom. It is the target trust/keyless.json of a fleet's
// policy, so that only its keepers change it.
type Policy struct {
	Teams map[fleet.Team][]Identity `json:"teams"`
}

// ParsePolicy reads a policy; of no bytes it is the one that asks for nothing.
func ParsePolicy(raw []byte) (Policy, error) {
	var p Policy
	if len(raw) == 0 {
		return p, nil
	}
	if err := oms.DecodeStrict(raw, &p); err != nil {
		return p, fault.New(fault.Invalid, "read keyless policy", "", err)
	}
	return p, p.check()
}

// Encode is the policy's bytes.
func (p Policy) Encode() ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	return json.Marshal(p)
}

func (p Policy) check() error {
	const op = "read keyless policy"
	for _, team := range slices.Sorted(maps.Keys(p.Teams)) {
		if _, err := fleet.ParseTeam(string(team)); err != nil {
			return err
		}
		if len(p.Teams[team]) == 0 {
			return fault.Newf(fault.Invalid, op, string(team), "nobody may sign for it").WithHint("name a signer, or leave the team out")
		}
		for _, i := range p.Teams[team] {
			if err := i.Check(); err != nil {
				return fmt.Errorf("team %s: %w", team, err)
			}
		}
	}
	return nil
}

// BundleKey is where in the bucket the keyless bundle of a release's variant
// lies, given the key of the bundle that the team's key signed.
func BundleKey(bundlePath string) string { return bundlePath + ".sigstore.json" }
