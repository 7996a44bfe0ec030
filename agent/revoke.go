package agent

import (
	"context"
	"maps"
	"slices"

	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// revoke has every model leave what may run no longer, by the word of its
// publisher or of the policy, whether or not the directive still names it. What
// could be returned to comes first: nothing goes back to what is gone too.
func (l *loop) revoke(ctx context.Context, t trust.Trusted) error {
	for _, m := range slices.Sorted(maps.Keys(l.mem.Models)) {
		st := l.mem.Models[m]
		for _, o := range []update.Offer{st.Fallback.Offer, st.Target, st.Running.Offer} {
			if o.IsZero() {
				continue
			}
			why := t.Revokes(trust.Had{Model: m, Path: o.Path, Root: o.Root, Bundle: o.Bundle, Counter: o.Counter})
			if why == nil {
				continue
			}
			ev := update.Event{
				Kind: update.Revoked, Bundle: o.Bundle, Keep: slices.Contains(t.Kept, m), Failure: update.Failure{Text: why.Error()},
			}
			if err := l.step(ctx, event{model: m, ev: ev}); err != nil {
				return err
			}
		}
	}
	return nil
}

// revoked says, for people, which release was taken back that is served on, or
// that nothing took the place of; "" when there is none.
func revoked(st update.State) string {
	switch {
	case st.Running.Kept:
		for _, q := range st.Quarantined {
			if q.Root == st.Running.Root {
				return q.Text + "; there is nothing to go back to: it is served on, as the directive says, until something else may run"
			}
		}
	case st.Running.IsZero() && st.Failure.Code == update.CodeRevoked:
		return st.Failure.Text + "; there is nothing to go back to: applications are told that there is no model, and why"
	}
	return ""
}
