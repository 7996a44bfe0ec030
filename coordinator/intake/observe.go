package intake

import (
	"time"

	"github.com/modelfleet/modelfleet/coordinator/rollout"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// silentPeriods is how many report periods without a row make a member
// unreachable.
const silentPeriods = 3

// Reachable reports whether a member's newest row is recent enough at now. A
// member that no rollout concerns reports less often.
func (in *Intake) Reachable(r Report, now time.Time) bool {
	return in.reach(&r.Row, r.Received, now)
}

func (in *Intake) reach(row *telemetry.Row, received, now time.Time) bool {
	period := in.o.Idle
	for _, m := range row.Models {
		if !m.Rollout.IsZero() {
			period = in.o.Report
		}
	}
	return now.Sub(received) <= silentPeriods*period
}

// forget is how many silent report periods take a function out of the population.
const forget = 30

// Gone reports whether a function has been silent for so long at now that no rollout
// counts it any more: its environment is gone.
func (in *Intake) Gone(r Report, now time.Time) bool {
	return now.Sub(r.Received) > forget*in.o.Report
}

// Observe is what is known of the roster's members, parallel to it.
func (w *Watch) Observe(r *rollout.Roster, now time.Time) []rollout.Observation {
	out := make([]rollout.Observation, r.Len())
	w.in.mu.RLock()
	defer w.in.mu.RUnlock()
	for i := range out {
		m, ok := w.in.o.Directory.Member(r.ID(i))
		if !ok {
			continue
		}
		l, ok := w.in.newest[m.KeyID]
		if !ok {
			continue
		}
		o := rollout.Observation{Reachable: w.in.reach(l.row, l.received, now)}
		if s, ok := l.row.Model(w.model); ok {
			o.Phase, o.Failure = s.Phase, s.Failure
			if s.Rollout == w.prefix {
				o.Rollout = w.id
			}
			o.Running = w.digests[s.Running]
			if o.Running.IsZero() && !s.Running.IsZero() {
				copy(o.Running[:], s.Running[:]) // some other release
			}
			// A retry lifts the quarantines of other rollouts, once it is heard of.
			o.Quarantined = s.Phase == fleet.Quarantined && w.roots[s.Target] && (!w.retry || s.Rollout == w.prefix)
		}
		out[i] = o
	}
	return out
}

// Arm is what one arm of the rollout counted since it began, burn-in and all,
// for people; members is how many stand in it.
func (w *Watch) Arm(arm fleet.Arm, members int) api.ArmInfo {
	info := api.ArmInfo{Members: members}
	w.in.mu.RLock()
	defer w.in.mu.RUnlock()
	for id, st := range w.standing {
		m, ok := w.in.o.Directory.Member(id)
		if !ok || st.Arm != arm {
			continue
		}
		info.Seen++
		if !st.Failed.IsZero() {
			info.Fatal++
		}
		total, _ := w.sum(m.KeyID, arm)
		info.Requests += total.Requests
		info.Errors += total.Errors
		info.Right += total.Right
		info.Wrong += total.Wrong
	}
	var all telemetry.Sketch
	for k, s := range w.in.sketches {
		if k.Metric == telemetry.Latency && k.Rollout == w.prefix && k.Arm == arm && w.ofArm(k.Release, arm) {
			all.Merge(s)
		}
	}
	if all.Count() > 0 {
		info.P50, info.P95, info.P99 = quantile(&all, 0.5), quantile(&all, 0.95), quantile(&all, 0.99)
	}
	return info
}

func quantile(s *telemetry.Sketch, q float64) fleet.Duration {
	return fleet.Duration(time.Duration(s.Quantile(q)) * time.Microsecond)
}

// Report is what a member last said of itself.
type Report struct {
	Row      telemetry.Row
	Received time.Time
	Via      string
	Stood    time.Time // since when its trust stands as it does, as far as was heard
}

// Newest is a member's newest row; ok is false when it was never heard.
func (in *Intake) Newest(key telemetry.KeyID) (Report, bool) {
	in.mu.RLock()
	defer in.mu.RUnlock()
	l, ok := in.newest[key]
	if !ok {
		return Report{}, false
	}
	return Report{Row: *l.row, Received: l.received, Via: l.via, Stood: l.stood}, true
}

// Totals is what a member counted of a model while it ran a release, over all
// its starts, and the median and 95th percentile of its newest latency window.
func (in *Intake) Totals(key telemetry.KeyID, model, release telemetry.Prefix) (c telemetry.Counters, p50, p95 fleet.Duration) {
	in.mu.RLock()
	defer in.mu.RUnlock()
	for _, epoch := range in.epochs[key] {
		for _, s := range in.table.Series(key, epoch, model) {
			if s.Release == release {
				c.Add(s.Counters)
			}
		}
	}
	ws := in.windows[key]
	for i := len(ws) - 1; i >= 0; i-- {
		if ws[i].Release == release && ws[i].Metric == telemetry.Latency && ws[i].Sketch.Count() > 0 {
			return c, quantile(ws[i].Sketch, 0.5), quantile(ws[i].Sketch, 0.95)
		}
	}
	return c, 0, 0
}
