package agent

import (
	"maps"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/agent/effect"
	"github.com/modelfleet/modelfleet/agent/local"
	"github.com/modelfleet/modelfleet/agent/probe"
	"github.com/modelfleet/modelfleet/agent/update"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
)

// limits is what a release may do while it is watched.
func (l *loop) limits(st update.State) probe.Limits {
	return probe.Limits{Health: st.Terms.Health, ErrorRate: l.o.ErrorRate, MinUses: 50}
}

// publish tells applications, and the recorder, how things stand.
func (l *loop) publish() {
	stand := l.freshness()
	l.belief.stand(stand, time.Now())
	out := local.Listing{
		Member: l.facts.ID, Agent: l.o.Version, Directive: l.mem.Trust.Sequence,
		Freshness: stand.String(), FreshnessSince: l.belief.stoodAt, Remedy: l.remedy(), Refused: l.belief.refused,
		PackURL: l.packURL(), Audit: l.auditView(), Damaged: l.scrub.Damaged(), Models: []local.Model{},
	}
	now := time.Now()
	for _, m := range slices.Sorted(maps.Keys(l.mem.Models)) {
		st := l.mem.Models[m]
		out.Models = append(out.Models, l.view(st))
		if err := l.rec.SetModel(m, now, l.report(st)); err != nil {
			l.o.Logger.Debug("model not reported", "model", m, "kind", fault.KindOf(err).String(), "err", err)
		}
	}
	d := l.progress.delivered()
	d.Damaged, d.Wire = l.scrub.Damaged(), uint64(l.wire())
	if n, last := l.liars(); n > 0 {
		d.Liars, d.Liar = uint64(n), telemetry.MemberPrefix(last)
	}
	l.rec.SetMember(telemetry.MemberState{
		Directive: l.mem.Trust.Sequence, Freshness: stand, Refusal: l.belief.distrust.rule.Code(),
		RSS: telemetry.ResidentKiB(), Delivery: d, Log: l.logHead(),
	})
	l.watched()
	l.host.Publish(out)
	l.changed()
}

// freshness is how the device's trust stands.
func (l *loop) freshness() telemetry.Freshness {
	switch {
	case l.mem.Trust.Audit.Split != nil, !l.belief.distrust.since.IsZero():
		return telemetry.Untrusted
	case l.trusted.Load() == nil:
		return telemetry.NoPack
	case l.fresh():
		return telemetry.Fresh
	}
	return telemetry.Stale
}

func (l *loop) view(st update.State) local.Model {
	v := local.Model{
		Name: st.Model, Phase: st.Phase, Since: st.Since, Why: st.Why, Want: st.Want.Ref, Reason: l.reasons[st.Model], Held: l.unbacked[st.Model],
		Arm: st.Terms.Arm.String(), Rollout: st.Terms.Rollout,
		Failure: st.Failure.Class, FailureCode: st.Failure.Code, FailureText: st.Failure.Text,
		Failing: st.Failure.Since, Damaged: st.Running.Damaged, Revoked: revoked(st),
	}
	l.fetched(&v, st)
	// What is served is what the disk says, not what was meant to be.
	if d, ok := l.current(st.Model); ok && !d.IsZero() {
		if h, known := heldAs(st, d); known {
			v.Serving = &local.Release{Ref: h.Ref, Root: h.Root, Path: l.store.ReleaseDir(d)}
			if d == st.Running.Bundle {
				v.Serving.Mended = st.Running.Mended
			}
		}
	}
	if f := st.Fallback; !f.IsZero() {
		v.Previous = &local.Release{Ref: f.Ref, Root: f.Root, Path: l.store.ReleaseDir(f.Bundle)}
	}
	for _, q := range st.Quarantined {
		v.Quarantined = append(v.Quarantined, local.Refused{Ref: q.Ref, Root: q.Root, Code: q.Code, Text: q.Text, At: q.At})
	}
	return v
}

// fetched adds how far the newest fetch is.
func (l *loop) fetched(v *local.Model, st update.State) {
	f := l.progress.of(st.Model)
	from := fetchedOf(f.Progress)
	v.BytesReused, v.BytesFrom, v.BytesWire = int64(from.Copy), sources(from), f.Wire
	if st.Phase != fleet.Downloading {
		return
	}
	v.BytesDone, v.BytesTotal, v.Waits = f.Done, st.Target.Size, f.Waits
	if f.Trouble != nil {
		v.Trouble = f.Trouble.Error()
	}
	if rate, ok := f.pace.Rate(); ok {
		v.Rate = int64(rate)
	}
	if left, ok := f.pace.Left(uint64(max(v.BytesTotal-v.BytesDone, 0))); ok {
		v.Left = fleet.Duration(left)
	}
}

// heldAs names the release that a folder on the disk holds.
func heldAs(st update.State, bundle fleet.Digest) (update.Offer, bool) {
	for _, o := range []update.Offer{st.Running.Offer, st.Target, st.Fallback.Offer} {
		if o.Bundle == bundle {
			return o, true
		}
	}
	return update.Offer{}, false
}

// report is a model's state as rows tell it. A device that refuses what it is
// told to run says so, whatever it does instead.
func (l *loop) report(st update.State) telemetry.ModelState {
	r := telemetry.ModelState{
		Target: st.Target.Root, Rollout: st.Terms.Rollout, Arm: st.Terms.Arm, Phase: st.Phase,
		Failure: st.Failure.Class, Code: codeOf(st.Failure.Code), Failing: st.Failure.Since, Total: uint64(max(st.Target.Size, 0)),
	}
	if d, ok := l.current(st.Model); ok && !d.IsZero() {
		if o, known := heldAs(st, d); known {
			r.Running = o.Root
		}
	}
	if st.Phase >= fleet.Downloading && st.Phase <= fleet.Soaking {
		f := l.progress.of(st.Model)
		r.Fetched = fetchedOf(f.Progress)
		switch {
		case st.Phase != fleet.Downloading:
		case f.Waits != "": // whatever failed before
			r.Failure, r.Code, r.Failing = fleet.NoFailure, telemetry.CodeWindow, time.Time{}
		case f.Trouble != nil && r.Failure == fleet.NoFailure:
			why := effect.FetchFailure(f.Trouble)
			r.Failure, r.Code, r.Failing = why.Class, codeOf(why.Code), f.trouble
		}
	}
	if r.Phase == fleet.Quarantined { // perhaps what is not wanted any more
		r.Target = st.Failure.Root
	}
	if st.IsQuarantined(st.Want.Root) && !st.Leaving {
		r.Target, r.Phase, r.Failure = st.Want.Root, fleet.Quarantined, fleet.ReleaseFailure
		for _, q := range st.Quarantined {
			if q.Root == st.Want.Root {
				r.Code = codeOf(q.Code)
			}
		}
	}
	if r.Target.IsZero() {
		r.Target = st.Failure.Root
	}
	return r
}

// codeOf is a failure's code on the wire; those that only the device tells apart
// are sent as what they come to.
func codeOf(code string) telemetry.FailureCode {
	switch code {
	case "boot-loop":
		return telemetry.CodeCrashLoop
	case update.CodeRevoked:
		return telemetry.CodeUntrusted
	case update.CodeGone:
		return telemetry.CodeIO
	}
	return telemetry.ParseFailureCode(code)
}
