package effect

import (
	"errors"

	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/registry"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// ErrNoSource marks a failure to fetch that lasts until a person gives the agent
// a way to the bucket.
var ErrNoSource = errors.New("the agent has no way to the bucket")

// FetchFailure says who is to blame for a fetch that failed; never the release:
// whatever was delivered, what was signed is as good as before.
func FetchFailure(err error) update.Failure {
	f := update.Failure{Class: fleet.TransportFailure, Code: "network", Text: short(err)}
	switch fault.KindOf(err) {
	case fault.Untrusted:
		f.Code = "corrupt"
		if trust.RuleOf(err) != "" {
			f.Code = "untrusted"
		}
	case fault.Exhausted:
		f.Class, f.Code = fleet.MemberFailure, "disk-full"
	case fault.Internal:
		f.Class, f.Code = fleet.MemberFailure, "io"
	case fault.Invalid:
		f.Class, f.Code = fleet.MemberFailure, "incompatible"
		if errors.Is(err, ErrNoSource) {
			f.Code = "no-source"
		}
	case fault.NotFound:
		f.Code = "missing"
	case fault.Transient:
		if _, busy := registry.RetryAfter(err); busy {
			f.Code = "throttled"
		}
	}
	return f
}

func probeFailure(err error) update.Failure {
	f := update.Failure{Class: fleet.MemberFailure, Code: "self-test", Text: short(err)}
	if fault.Is(err, fault.Invalid) {
		f.Class = fleet.ReleaseFailure
	}
	return f
}

func switchFailure(err error) update.Failure {
	f := update.Failure{Class: fleet.MemberFailure, Code: "io", Text: short(err)}
	if fault.Is(err, fault.NotFound) {
		f.Code = update.CodeGone
	}
	return f
}

// short is an error for a reason that travels.
func short(err error) string {
	s := []rune(err.Error())
	if len(s) > 400 {
		s = append(s[:400], []rune("...")...)
	}
	return string(s)
}
