package desk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/intake"
	"github.com/modelfleet/modelfleet/coordinator/inventory"
	"github.com/modelfleet/modelfleet/coordinator/store"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/telemetry"
	"github.com/modelfleet/modelfleet/pkg/trust"
)

// directive is the group's newest directive as decided; zero when there is none.
func (d *Desk) directive(ctx context.Context, g fleet.Group) (fleet.Directive, error) {
	s, err := d.o.Store.Directive(ctx, g)
	if fault.Is(err, fault.NotFound) {
		return fleet.Directive{Group: g}, nil
	}
	if err != nil {
		return fleet.Directive{}, err
	}
	return trust.ParseDirective(s.Body)
}

// Members are those in the operator's scope that the selector matches, by id.
func (d *Desk) Members(ctx context.Context, by api.OperatorToken, sel fleet.Selector) ([]api.MemberInfo, error) {
	dir, err := d.directive(ctx, fleet.DefaultGroup)
	if err != nil {
		return nil, err
	}
	out := []api.MemberInfo{}
	for _, m := range d.o.Inventory.Members() {
		if by.Scope.HasMember(m.Facts) && sel.Matches(m.Facts) {
			out = append(out, d.info(m, dir))
		}
	}
	return out, nil
}

// member finds a member that lies in an operator's scope.
func (d *Desk) member(by api.OperatorToken, id fleet.MemberID, op string) (store.Member, error) {
	m, ok := d.o.Inventory.Member(id)
	if !ok {
		return m, fault.Newf(fault.NotFound, op, string(id), "it is not enrolled").
			WithHint("list them with `modelfleet members list`")
	}
	return m, AllowMember(by, m.Facts, op)
}

// Member is one member.
func (d *Desk) Member(ctx context.Context, by api.OperatorToken, id fleet.MemberID) (api.MemberInfo, error) {
	m, err := d.member(by, id, "find member")
	if err != nil {
		return api.MemberInfo{}, err
	}
	dir, err := d.directive(ctx, m.Facts.Group)
	if err != nil {
		return api.MemberInfo{}, err
	}
	return d.info(m, dir), nil
}

// info joins what the inventory, the directive and the member itself say.
func (d *Desk) info(m store.Member, dir fleet.Directive) api.MemberInfo {
	out := api.MemberInfo{Facts: m.Facts, Cell: m.Cell, Models: []api.ModelStatus{}, Revoked: m.Revoked, Locked: m.Locked, Certificate: certificateOf(m)}
	rep, heard := d.o.Intake.Newest(m.KeyID)
	if heard {
		out.Seen, out.Via = rep.Received.UTC(), rep.Via
		out.Directive, out.RSS = rep.Row.Directive, int64(rep.Row.RSS)<<10
		rule := trust.RuleOfCode(rep.Row.Refusal)
		out.Freshness, out.FreshnessSince, out.Refused = rep.Row.Freshness.String(), rep.Stood.UTC(), string(rule)
		out.Remedy = d.remedy(m, rep.Row.Freshness, rule)
		out.Delivery = d.delivery(rep.Row.Delivery)
	}
	for _, p := range dir.Models {
		a := p.Assign(m.Facts)
		st := api.ModelStatus{Model: p.Model, Arm: a.Arm.String(), Rollout: a.Rollout, Reason: a.Reason}
		if a.Release != nil {
			st.Target = a.Release.Ref()
		}
		if heard {
			d.fill(&st, m.KeyID, rep)
		}
		if st.Target == "" && st.Running == "" && a.Arm == fleet.NoArm {
			continue // nothing to do with it
		}
		out.Models = append(out.Models, st)
	}
	return out
}

// remedy is what to do about how a member's trust stands; "" when nothing.
func (d *Desk) remedy(m store.Member, f telemetry.Freshness, rule trust.Rule) string {
	switch f {
	case telemetry.Fresh:
		return ""
	case telemetry.Untrusted:
		return rule.Remedy()
	}
	if p, ok := d.o.Publisher.Pack(m.Facts.Group); ok && p.Expires.After(d.o.Now()) {
		return "the newest pack is good: look whether it reaches the member's site, or give it by file (modelfleet pack export)"
	}
	return "no pack is fresh: see modelfleet doctor"
}

// delivery is what a member fetched; nil when it fetched nothing.
func (d *Desk) delivery(r telemetry.Delivery) *api.DeliveryInfo {
	if r == (telemetry.Delivery{}) {
		return nil
	}
	out := &api.DeliveryInfo{From: intake.SourcesOf(r.Fetched), Wire: int64(r.Wire), Damaged: int(r.Damaged), Liars: int(r.Liars)}
	out.Liar, _ = d.o.Inventory.Named(r.Liar)
	return out
}

// fill adds what the member itself says of the model.
func (d *Desk) fill(st *api.ModelStatus, key telemetry.KeyID, rep intake.Report) {
	model := telemetry.ModelPrefix(st.Model)
	s, ok := rep.Row.Model(model)
	if !ok {
		return
	}
	st.Phase, st.Failure = s.Phase, s.Failure
	if s.Failure != fleet.NoFailure || s.Phase == fleet.Quarantined {
		st.FailureCode = s.Code.String()
	}
	if s.Code == telemetry.CodeWindow && s.Failure == fleet.NoFailure {
		st.Waits = "its download window"
	}
	st.Running = d.nameOf(content{model, s.Running}, st.Target)
	runs, _ := d.lookup(content{model, s.Running}, st.Target)
	st.RunningRoot = runs.root
	if s.Phase == fleet.Quarantined {
		refused, _ := d.lookup(content{model, s.Target}, st.Target)
		st.Quarantined = []fleet.Digest{refused.root}
		switch {
		case refused.gone:
			st.FailureCode = delisted
		case d.revokedFor(refused.release, false) != "":
			st.FailureCode = revoked
		}
	}
	st.Revoked = d.revokedFor(runs.release, runs.gone)
	if s.Failure != fleet.NoFailure {
		st.Failing = rep.FailingSince(s)
	}
	if s.Phase.InProgress() {
		st.BytesDone, st.BytesTotal = int64(s.Fetched.Done()), int64(s.Total)
		if st.BytesDone > 0 {
			st.BytesFrom = new(intake.SourcesOf(s.Fetched))
		}
		pace := d.o.Intake.Pace(key, model, d.o.Now())
		if rate, ok := pace.Rate(); ok {
			st.Rate = int64(rate)
		}
		if left, ok := pace.Left(s.Total - min(s.Total, s.Fetched.Done())); ok {
			st.Left = fleet.Duration(left)
		}
	}
	c, p50, p95 := d.o.Intake.Totals(key, model, s.Running)
	st.Requests, st.Errors, st.Right, st.Wrong, st.P50, st.P95 = c.Requests, c.Errors, c.Right, c.Wrong, p50, p95
}

// Fleet is an operator's part of the fleet in one look.
func (d *Desk) Fleet(ctx context.Context, by api.OperatorToken) (api.FleetInfo, error) {
	dir, err := d.directive(ctx, fleet.DefaultGroup)
	if err != nil {
		return api.FleetInfo{}, err
	}
	now := d.o.Now()
	out := api.FleetInfo{Name: d.o.Fleet, Group: fleet.DefaultGroup, Directive: dir.Sequence}
	var live []store.Member
	for _, m := range d.o.Inventory.Members() {
		if m.Revoked || !by.Scope.HasMember(m.Facts) {
			continue
		}
		rep, heard := d.o.Intake.Newest(m.KeyID)
		alive := heard && d.o.Intake.Reachable(rep, now)
		if m.Facts.Kind == fleet.Function {
			if alive {
				out.Functions++
			}
		} else {
			out.Members++
		}
		if !alive {
			continue
		}
		out.Reporting++
		live = append(live, m)
	}
	out.Running = d.running(dir, live)
	waiting, err := d.Pending(ctx, by)
	if err != nil {
		return out, err
	}
	for _, p := range waiting {
		if p.State == api.Waiting {
			out.Pending++
		}
	}
	out.DeviceCAs = d.deviceCAs()
	if p, ok := d.o.Publisher.Pack(fleet.DefaultGroup); ok {
		out.Pack = api.PackInfo{Bytes: len(p.Body), Digest: p.Digest, Signed: p.Signed, Expires: p.Expires}
	}
	return out, nil
}

// Explain says in one screen why a member runs what it runs.
func (d *Desk) Explain(ctx context.Context, by api.OperatorToken, id fleet.MemberID) (api.Explanation, error) {
	m, err := d.member(by, id, "explain member")
	if err != nil {
		return api.Explanation{}, err
	}
	dir, err := d.directive(ctx, m.Facts.Group)
	if err != nil {
		return api.Explanation{}, err
	}
	info := d.info(m, dir)
	x := api.Explanation{Member: info}
	say := func(format string, args ...any) { x.Lines = append(x.Lines, fmt.Sprintf(format, args...)) }
	say("%s is a %s of group %s, labels %s, enrolled %s by token %s", id, m.Facts.Kind, m.Facts.Group, m.Facts.Labels, m.Facts.Enrolled.Format(time.RFC3339), m.Token)
	d.explainContact(say, m, info, dir)
	for _, st := range info.Models {
		explainModel(say, st, dir, m.Facts, d.refusal(dir, st), d.o.Now())
	}
	for _, p := range dir.Models { // and why it has nothing to do with the others
		if !slices.ContainsFunc(info.Models, func(st api.ModelStatus) bool { return st.Model == p.Model }) {
			say("%s: nothing: %s", p.Model, p.Assign(m.Facts).Reason)
		}
	}
	if len(dir.Models) == 0 {
		say("the directive has no model yet")
	}
	return x, nil
}

func (d *Desk) explainContact(say func(string, ...any), m store.Member, info api.MemberInfo, dir fleet.Directive) {
	now := d.o.Now()
	switch {
	case m.Revoked:
		say("its identity is revoked: nothing it says is believed")
	case m.Locked != "":
		say("its identity is locked: %s", m.Locked)
	case m.Readmit:
		say("its identity was unlocked: it has to come back by its key")
	case m.Comebacks > 0:
		say("it came back by its key %d of %d times that it may", m.Comebacks, inventory.MaxComebacks)
	}
	if info.Seen.IsZero() {
		say("it was never heard; its certificate is valid until %s", m.Expires.Format(time.RFC3339))
		return
	}
	state := "reports"
	if rep, ok := d.o.Intake.Newest(m.KeyID); ok && !d.o.Intake.Reachable(rep, now) {
		state = "is silent"
	}
	say("it %s: last heard %s ago by %s, trust pack %s", state, now.Sub(info.Seen).Round(time.Second), info.Via, info.Freshness)
	if info.Remedy != "" {
		why := ""
		if info.Refused != "" {
			why = " (rule " + info.Refused + ")"
		}
		say("it is %s%s since %s and holds what it has: %s", info.Freshness, why, info.FreshnessSince.Format(time.RFC3339), info.Remedy)
	}
	if x := info.Delivery; x != nil && x.Damaged > 0 {
		say("its disk damaged files (%d since its agent started); what is damaged is fetched again", x.Damaged)
	}
	if x := info.Delivery; x != nil && x.Liars > 0 {
		say("it left out neighbours that delivered other bytes than were signed (%d), the last of them %s", x.Liars, cmp.Or(string(x.Liar), "of another fleet"))
	}
	switch {
	case info.Directive < dir.Sequence:
		say("it acted on directive %d; the newest is %d, so it will change its mind when that arrives", info.Directive, dir.Sequence)
	case info.Directive > dir.Sequence:
		say("it acted on directive %d, which this coordinator never issued (its newest is %d)", info.Directive, dir.Sequence)
	default:
		say("it acts on directive %d, the newest", dir.Sequence)
	}
}

// refusal is why every member refuses what this one should run; nil when none does.
func (d *Desk) refusal(dir fleet.Directive, st api.ModelStatus) error {
	p, ok := dir.Placement(st.Model)
	if !ok || st.Target == st.Running {
		return nil
	}
	for _, rel := range p.Releases() {
		if rel.Ref() == st.Target {
			return d.Refused("run", rel)
		}
	}
	return nil
}

func explainModel(say func(string, ...any), st api.ModelStatus, dir fleet.Directive, f fleet.Facts, refused error, now time.Time) {
	running, target := st.Running, st.Target
	if running == "" {
		running = "nothing"
	}
	if target == "" {
		target = "nothing"
	}
	say("%s: runs %s, should run %s: %s", st.Model, running, target, st.Reason)
	if p, ok := dir.Placement(st.Model); ok && p.Rollout != nil && st.Rollout != "" {
		x := p.Rollout
		pos := fleet.Position(x.ID, f.ID)
		for _, r := range x.Rules {
			if r.Selector.Matches(f) {
				say("  position %016x, bound %016x: %s", pos, uint64(r.Bound), map[bool]string{true: "exposed", false: "not exposed"}[r.Bound.Covers(pos)])
			}
		}
	}
	if st.Revoked != "" {
		then := "it leaves it when it hears of that, for what was good there before or for nothing"
		if p, ok := dir.Placement(st.Model); ok && p.WhenRevoked == fleet.KeepRevoked {
			then = "it leaves it when it hears of that and has something else that may run; without, it goes on with it, as the coordinator was told (-keep-revoked)"
		}
		say("  what it runs may not be run any more (%s): %s", st.Revoked, then)
	}
	if refused != nil {
		why := refused.Error()
		if v, ok := errors.AsType[*trust.Violation](refused); ok {
			why = v.Error()
		}
		say("  every member refuses what it should run: %s", why)
	} else if why := whyNotYet(st, now); why != "" {
		say("  %s", why)
	}
	if refused != nil && st.Running == "" && st.Phase == fleet.Quarantined {
		say("  it has nothing to go back to: its applications are told that there is no model, and why")
	}
	if st.Requests > 0 {
		line := fmt.Sprintf("  %d requests, %d errors", st.Requests, st.Errors)
		if n := st.Right + st.Wrong; n > 0 {
			line += fmt.Sprintf(", %.1f%% of %d labelled right", 100*float64(st.Right)/float64(n), n)
		}
		if st.P50 > 0 {
			line += fmt.Sprintf(", p50 %s, p95 %s", st.P50, st.P95)
		}
		say("%s", line)
	}
}

// fetchText is how far a download is. What is not known is not said.
func fetchText(st api.ModelStatus) string {
	size := func(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
	text := fmt.Sprintf("it fetched %s of %s", size(st.BytesDone), size(st.BytesTotal))
	if st.BytesFrom != nil {
		text += ": " + st.BytesFrom.Text(size)
	}
	if st.Rate > 0 {
		text += fmt.Sprintf("; %s a second", size(st.Rate))
	}
	if st.Left > 0 {
		text += fmt.Sprintf(", about %s left", st.Left)
	}
	return text
}

// whyNotYet says what stands between a member and its target.
func whyNotYet(st api.ModelStatus, now time.Time) string {
	failed := string(st.FailureCode)
	if failed == "" {
		failed = "a failure"
	}
	if st.Stuck() && st.Rate == 0 {
		return "it " + st.StuckText(now) + "; it tries again by itself, and this does not count against the release"
	}
	switch st.Phase {
	case fleet.Offered:
		return "it knows the release and has not begun"
	case fleet.Downloading:
		if st.Waits != "" {
			return "it waits for " + st.Waits + "; " + fetchText(st)
		}
		if st.BytesTotal > 0 {
			return fetchText(st)
		}
		return "it fetches the release"
	case fleet.Verified, fleet.Staged:
		return "it has the release and waits for its self-test or its window"
	case fleet.Activating:
		return "it is switching"
	case fleet.Soaking:
		return "it serves the release and watches itself"
	case fleet.Failed:
		return "the attempt failed: " + failed
	case fleet.RolledBack:
		if st.Failure == fleet.NoFailure {
			return "it went back as it was told to"
		}
		return "it went back by itself: " + failed
	case fleet.Quarantined:
		if st.FailureCode == telemetry.CodeGate.String() {
			return "it refuses a release that it had when the gates of a rollout failed it, until one is started with --retry"
		}
		switch st.FailureCode {
		case delisted, revoked:
			return "it refuses the release, which was " + st.FailureCode
		case telemetry.CodeUntrusted.String():
			return "it refuses the release, whose bytes are not what was signed"
		}
		return "it refuses the release, which failed here: " + failed
	case fleet.Withdrawn:
		if st.Failure != fleet.NoFailure {
			return "the offer was taken back after it had failed here: " + failed
		}
		return "the offer was taken back before it switched"
	}
	if st.Target != st.Running && st.Target != "" {
		return "it has not said why it does not run its target"
	}
	return ""
}
