package trust

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// State is what a member remembers so that nothing older is believed again. It
// is plain data: persist it as JSON after each [Verify] that changed it.
type State struct {
	Root      []byte                   `json:"root"`                // newest root verified
	Timestamp []byte                   `json:"timestamp,omitempty"` // newest timestamp verified
	Snapshot  []byte                   `json:"snapshot,omitempty"`  // newest snapshot verified
	Floor     time.Time                `json:"floor,omitzero"`      // it is at least this late
	Sequence  uint64                   `json:"sequence,omitempty"`  // of the newest directive
	Directive fleet.Digest             `json:"directive,omitzero"`  // of the newest directive
	FleetKeys fleet.Digest             `json:"fleetKeys,omitzero"`  // which keys signed it
	Teams     map[fleet.Team]TeamState `json:"teams,omitempty"`
	Audit     AuditState               `json:"audit,omitzero"` // of the audit log
}

// TeamState is what a member remembers of a publisher.
type TeamState struct {
	Keys   fleet.Digest               `json:"keys,omitzero"` // which keys the floors are from
	Floors map[fleet.ModelName]uint64 `json:"floors,omitempty"`
	Seen   []string                   `json:"seen,omitempty"` // bundles that these keys listed; see [Publisher]
}

// NewState begins with the root that the pin names: the SHA-256 of root.json
// from the join token. Give State.Floor the time the program was built, if it
// is known.
func NewState(root []byte, pin fleet.Digest) (State, error) {
	if got := fleet.DigestOf(root); got != pin {
		return State{}, Violated(RulePin, "pin root", got.Short(), fmt.Errorf("the root has digest %s, the pin is %s", got, pin))
	}
	if _, err := decode[metadata.RootType](metadata.ROOT, root, nil); err != nil {
		return State{}, Violated(RuleRoot, "pin root", pin.Short(), err)
	}
	return State{Root: bytes.Clone(root)}, nil
}

// StateFromPack begins with the root in a pack that the pin names, for members
// that are given a pin but no root.json.
func StateFromPack(pack []byte, pin fleet.Digest) (State, error) {
	p, err := DecodePack(pack)
	if err != nil {
		return State{}, Violated(RuleFormat, "pin root", pin.Short(), err)
	}
	for _, root := range p.Roots {
		if fleet.DigestOf(root) == pin {
			return NewState(root, pin)
		}
	}
	return State{}, Violated(RulePin, "pin root", pin.Short(), fmt.Errorf("none of the pack's %d roots has that digest", len(p.Roots)))
}

// Equal reports whether nothing changed, so that nothing need be written.
func (s State) Equal(o State) bool {
	return bytes.Equal(s.Root, o.Root) && bytes.Equal(s.Timestamp, o.Timestamp) && bytes.Equal(s.Snapshot, o.Snapshot) &&
		s.Floor.Equal(o.Floor) && s.Sequence == o.Sequence && s.Directive == o.Directive && s.FleetKeys == o.FleetKeys && s.Audit.Equal(o.Audit) &&
		maps.EqualFunc(s.Teams, o.Teams, func(a, b TeamState) bool {
			return a.Keys == b.Keys && maps.Equal(a.Floors, b.Floors) && slices.Equal(a.Seen, b.Seen)
		})
}

// Encode is the state as JSON.
func (s State) Encode() ([]byte, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, fault.New(fault.Internal, "write trust state", "", err)
	}
	return b, nil
}

// DecodeState reads a stored state.
func DecodeState(b []byte) (State, error) {
	var s State
	if err := json.Unmarshal(b, &s); err != nil {
		return State{}, Violated(RuleState, "read trust state", "", err)
	}
	if _, err := decode[metadata.RootType](metadata.ROOT, s.Root, nil); err != nil {
		return State{}, Violated(RuleState, "read trust state", "", err)
	}
	return s, nil
}

// KeyIDs is a digest that names a set of keys; it changes when keys are rotated.
func keySet(ids []string, keys map[string]*metadata.Key) fleet.Digest {
	var buf bytes.Buffer
	for _, id := range sorted(ids) {
		if k := keys[id]; k != nil {
			fmt.Fprintf(&buf, "%s\x00%s\x00", id, k.Value.PublicKey)
		}
	}
	return fleet.DigestOf(buf.Bytes())
}
