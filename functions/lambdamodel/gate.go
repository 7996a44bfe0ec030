package lambdamodel

import (
	"slices"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// obeyGates refuses what the gates of a rollout failed and this environment has,
// unless it is still what it should run, and lifts the quarantine of what an
// operator wants to be tried again; mu is held.
func (m *member) obeyGates(p fleet.Placement) error {
	want, fallback := m.want.Variant.Root, m.want.FallbackVariant.Root
	q, bad := m.mem.Quarantined[want.String()]
	if bad && m.retries() && q.Rollout != m.want.Rollout && q.Code != telemetry.CodeUntrusted {
		delete(m.mem.Quarantined, want.String())
		if err := m.save(); err != nil {
			return err
		}
	}
	for _, f := range p.Failed {
		for _, s := range []*served{m.mem.Serving, m.mem.Previous} {
			if s == nil || !slices.Contains(f.Roots, s.Root) || s.Root == want || s.Root == fallback || m.quarantined(s.Root) {
				continue
			}
			why := "the gates of rollout " + string(f.Rollout) + " failed " + s.Ref + ": " + f.Reason
			if err := m.quarantine(s.Root, failure{Ref: s.Ref, Code: telemetry.CodeGate, Text: why, Rollout: f.Rollout}); err != nil {
				return err
			}
		}
	}
	return nil
}

// retries reports whether what should run is to be tried although it failed in an
// earlier rollout; mu is held.
func (m *member) retries() bool { return m.want.Arm == fleet.Exposed && m.want.Exposure.Retry }

// quarantined reports whether a root is refused here; mu is held.
func (m *member) quarantined(root fleet.Digest) bool {
	_, bad := m.mem.Quarantined[root.String()]
	return bad
}
