package rollout

import (
	"time"

	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// Deadline is when Decide must be called again even if nothing is reported;
// ok is false when time alone changes nothing.
func Deadline(spec fleet.Spec, st Status) (at time.Time, ok bool) {
	s := st.Stages[min(st.Stage, len(st.Stages)-1)]
	switch st.State {
	case Draft:
		return st.starts(), true
	case RollingBack:
		at = st.Since.Add(spec.StageDeadline.D())
		if next := st.Returned.Add(patience(spec)); !st.Returned.IsZero() && st.exposing() && next.Before(at) {
			at = next
		}
		return at, true
	case Running:
		switch {
		case s.State == Soaking && s.Released:
			return s.Since.Add(spec.MemberSoak.D()), true
		case s.State == Soaking:
			return s.Since.Add(spec.Stages[st.Stage].Soak.D()), true
		case s.State == Exposing && !s.Held:
			return s.Began.Add(spec.StageDeadline.D()), true
		case s.State == Deciding && !s.Held:
			return s.Since.Add(spec.StageDeadline.D()), true
		}
	}
	return time.Time{}, false
}
