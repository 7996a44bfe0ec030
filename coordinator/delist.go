package coordinator

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/rollout"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// revoked says in one sentence why no member may run a release any more; "" when
// they may.
func (l *loop) revoked(rel fleet.Release) string {
	if why := l.backed(rel); why != "" {
		return rel.Ref() + " is delisted: " + why
	}
	return ""
}

// alarm calls a person for each release that the directive has members outside
// rollouts run and that was taken back: what takes its place is a person's choice.
func (l *loop) alarm(now time.Time) {
	gone := map[string]bool{}
	for _, p := range l.dir.Models {
		for _, rel := range l.bases(p.Model) {
			why := l.revoked(rel)
			if why == "" {
				continue
			}
			gone[rel.Ref()] = true
			if l.gone[rel.Ref()] {
				continue
			}
			then := "go back to the previous good release, or stop serving the model"
			if p.WhenRevoked == fleet.KeepRevoked {
				then = "go back to the previous good release, or keep running it where there is none"
			}
			text := fmt.Sprintf("%s; members that run it (%d) %s: roll out another release of %s", why, l.running(rel), then, p.Model)
			l.log.Error("stable release is delisted", "release", rel.Ref(), "why", why)
			l.events.Publish(api.Event{At: now, Kind: "alarm", Subject: rel.Ref(), Text: text})
		}
	}
	l.gone = gone
}

// strand marks the members that cannot go back to what they are to run without the
// rollout: they refuse it, since its publisher does not list it now. It keeps no
// rollback from ending.
func (l *loop) strand(r *run, observed []rollout.Observation) {
	p, _ := l.dir.Placement(r.rec.Release.Model)
	refused := map[string]bool{}
	for _, rel := range l.bases(p.Model) {
		refused[rel.Ref()] = fault.Is(l.refused("roll back", rel), fault.Untrusted)
	}
	for _, f := range r.facts {
		base := p.Base(f)
		if i, ok := r.roster.Index(f.ID); ok && i < len(observed) && base != nil {
			observed[i].Stranded = refused[base.Ref()]
		}
	}
}

// relist names the releases of a placement by the facts they were admitted with
// last: to list one again that was delisted is a decision that members who are told
// to run it are to hear of. It does not change p.
func (l *loop) relist(p fleet.Placement) fleet.Placement {
	if p.Stable != nil {
		rel := l.relisted(*p.Stable)
		p.Stable = &rel
	}
	p.Overrides = slices.Clone(p.Overrides)
	for i, o := range p.Overrides {
		p.Overrides[i].Release = l.relisted(o.Release)
	}
	if p.Rollout != nil {
		x := *p.Rollout
		x.Release = l.relisted(x.Release)
		p.Rollout = &x
	}
	return p
}

// describeRelisted says in words which releases are listed again.
func describeRelisted(old, next fleet.Placement) string {
	was := map[string]uint64{}
	for _, rel := range old.Releases() {
		was[rel.Ref()] = rel.Counter
	}
	var again []string
	for _, rel := range next.Releases() {
		if n, named := was[rel.Ref()]; named && n != rel.Counter {
			again = append(again, fmt.Sprintf("%s is listed again, with counter %d", rel.Ref(), rel.Counter))
		}
	}
	return strings.Join(slices.Compact(again), ", ")
}

// running counts the members that run a release, by what they observed.
func (l *loop) running(rel fleet.Release) int {
	n := 0
	for _, m := range l.inventory.Members() {
		rep, heard := l.intake.Newest(m.KeyID)
		if heard && !m.Revoked && slices.ContainsFunc(rel.Variants, func(v fleet.Variant) bool {
			s, ok := rep.Row.Model(telemetry.ModelPrefix(rel.Model))
			return ok && s.Running == telemetry.ReleasePrefix(v.Root)
		}) {
			n++
		}
	}
	return n
}

// whenRevoked is what members do with a model's release that was revoked.
func (l *loop) whenRevoked(m fleet.ModelName) fleet.WhenRevoked {
	if slices.Contains(l.keepRevoked, m) {
		return fleet.KeepRevoked
	}
	return fleet.StopRevoked
}
