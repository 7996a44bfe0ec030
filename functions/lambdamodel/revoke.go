package lambdamodel

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// revoke leaves what may run no longer, whether or not the directive still names
// it: for the release before if that still may, else for none, unless the
// directive says that it is served on until something else may run; mu is held.
func (m *member) revoke(t *trust.Trusted) error {
	why := func(s *served) error {
		if s == nil {
			return nil
		}
		return t.Revokes(trust.Had{Model: m.o.Model, Root: s.Root, Bundle: s.Bundle})
	}
	if err := why(m.mem.Previous); err != nil {
		m.mem.Previous = nil
		if err := m.save(); err != nil {
			return err
		}
	}
	s := m.mem.Serving
	err := why(s)
	switch {
	case err == nil:
		return nil
	case m.mem.Previous == nil && slices.Contains(t.Kept, m.o.Model):
		if m.quarantined(s.Root) {
			return nil // and served on, as it was
		}
		return m.quarantine(s.Root, failure{Ref: s.Ref, Code: telemetry.CodeUntrusted, Text: s.Ref + " was revoked and is served on: " + err.Error(), Rollout: s.Rollout})
	}
	if err := m.retreat(telemetry.CodeUntrusted, s.Ref+" was revoked: "+err.Error()); err != nil {
		return err
	}
	if m.mem.Serving == nil {
		return m.unlink()
	}
	return m.link(m.mem.Serving.Path)
}

// nothing says why there is no model, and that what was taken back left none to go
// back to where that is why.
func (m *member) nothing() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, root := range append([]string{m.want.Variant.Root.String()}, slices.Sorted(maps.Keys(m.mem.Quarantined))...) {
		if q := m.mem.Quarantined[root]; q.Code == telemetry.CodeUntrusted {
			return fault.Newf(fault.NotFound, "find model", string(m.o.Model), "no release of it is in service here: %s; there is nothing to go back to", q.Text).
				WithHint("roll out another release, or have its publisher list this one again")
		}
	}
	return noModel(m.o.Model)
}

// passed takes down that next comes after what is in service; mu is held.
func (m *member) passed(next *served) {
	var from, to fleet.Digest
	if m.mem.Serving != nil {
		from = m.mem.Serving.Bundle
	}
	if next != nil {
		to = next.Bundle
	}
	m.mem.Past = m.mem.Past.Then(from, to)
}

// unsay drops the way back when it leads to what this environment was taken back
// from, unless the directive names that; mu is held. See agent/update.
func (m *member) unsay() {
	way, run := m.mem.Previous, m.mem.Serving
	if way == nil || way.Bundle == m.want.Variant.Bundle || way.Bundle == m.want.FallbackVariant.Bundle {
		return
	}
	if run == nil || !m.mem.Past.Has(way.Bundle) || way.Counter > run.Counter {
		m.mem.Previous = nil
	}
}

// unlink takes DIR/MODEL/current away: nothing is in service.
func (m *member) unlink() error {
	path := filepath.Join(m.o.Dir, string(m.o.Model), "current")
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.Exhausted, "unlink release", path, err)
	}
	return nil
}

// backed forgets that what the directive has this environment run was revoked: an
// assignment is only made of what its publisher lists; mu is held.
func (m *member) backed() {
	for _, root := range []string{m.want.Variant.Root.String(), m.want.FallbackVariant.Root.String()} {
		if m.mem.Quarantined[root].Code == telemetry.CodeUntrusted {
			delete(m.mem.Quarantined, root)
		}
	}
}
