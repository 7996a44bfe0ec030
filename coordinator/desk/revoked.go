package desk

import (
	"errors"

	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// Revoked says why no member may run a release any more; "" when they may.
func (d *Desk) Revoked(rel fleet.Release) string {
	gone := false
	d.mu.RLock()
	for _, v := range rel.Variants {
		gone = gone || d.catalog[telemetry.ReleasePrefix(v.Root)].gone
	}
	d.mu.RUnlock()
	return d.revokedFor(rel, gone)
}

// revokedFor is Revoked of a release of which is known whether it was delisted.
func (d *Desk) revokedFor(rel fleet.Release, gone bool) string {
	if gone {
		return "its publisher took it back"
	}
	err := d.o.Publisher.Revokes(rel)
	if err == nil {
		return ""
	}
	if v, ok := errors.AsType[*trust.Violation](err); ok {
		return v.Err.Error() // without what was being done
	}
	return err.Error()
}
