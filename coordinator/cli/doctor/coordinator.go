package doctor

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/coordinator/health"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/trust/ledger"
)

// coordinator asks whether there is one, the right one, and what it thinks of us.
func (x *examination) coordinator(ctx context.Context) {
	before := x.Now()
	h, err := x.Client.Health(ctx)
	after := x.Now()
	switch {
	case fault.Is(err, fault.Denied):
		x.ok("coordinator", "%s answers", x.URL)
		x.failed("token", err)
		return
	case fault.Is(err, fault.NotFound):
		x.bad("coordinator", fault.NotFound, "bring coordinator and commands to the same version", "%s does not know this call: it is older than this program, or no coordinator", x.URL)
		return
	case err != nil:
		x.report.Add(WithRemedy(Failed("coordinator", err), "is it running at "+x.URL+", and is the pin that of its log line \"serving\"?"))
		return
	}
	x.answers, x.health = true, h
	pin := "its TLS key is the pinned one"
	if !x.Pinned {
		pin = "its certificate is that of an authority this machine trusts"
	}
	if h.Version != x.Version {
		x.warn("coordinator", "bring coordinator and commands to the same version", "%s has version %s, this program %s; %s", x.URL, cmp.Or(h.Version, "unknown"), x.Version, pin)
	} else {
		x.ok("coordinator", "%s, version %s; %s", x.URL, h.Version, pin)
	}
	x.ok("token", "the coordinator knows it")
	x.clock(h.At.Sub(before.Add(after.Sub(before)/2)), after.Sub(before))
}

// clock compares two clocks, as far as a question and its answer can.
func (x *examination) clock(skew, took time.Duration) {
	if skew.Abs() <= took {
		skew = 0
	}
	found := health.Findings(health.Facts{Skew: skew}, x.Now())
	if len(found) == 0 {
		x.ok("clock", "this machine's and the coordinator's agree, within %s", max(skew.Abs(), took).Round(time.Millisecond))
		return
	}
	f := found[0]
	if f.Severity == api.Bad {
		x.bad("clock", fault.Invalid, f.Remedy, "this machine's %s", f.What)
	} else {
		x.warn("clock", f.Remedy, "this machine's %s", f.What)
	}
}

// silent is how long a device may say nothing before a person should know.
const silent = 10 * time.Minute

// members asks who needs a look.
func (x *examination) members(ctx context.Context) {
	all, err := x.Client.Members(ctx, fleet.Selector{})
	if err != nil {
		x.refused("members", err)
		return
	}
	groups := map[string][]string{}
	live := 0
	for _, m := range all {
		if m.Revoked {
			continue
		}
		live++
		id := string(m.Facts.ID)
		switch fresh := strings.ToLower(m.Freshness); {
		case m.Locked != "":
			groups["locked"] = append(groups["locked"], id)
		case m.Facts.Kind == fleet.Device && x.Now().Sub(m.Seen) > silent:
			groups["silent"] = append(groups["silent"], id)
		case fresh == "untrusted" || fresh == "stale":
			groups[fresh] = append(groups[fresh], id)
		}
	}
	if n := groups["untrusted"]; len(n) > 0 {
		x.bad("members", fault.Untrusted, "`modelfleet members describe MEMBER` says which rule refuses; `modelfleet-agent status` on the device says more", "%s untrusted, refusing what is offered: %s", count(len(n), "member"), names(n))
	}
	if n := groups["locked"]; len(n) > 0 {
		x.bad("members", fault.Denied, "find out which is the real one: `modelfleet members describe MEMBER`, then `members unlock` or `members revoke`", "%s locked, for their identity was copied: %s", count(len(n), "member"), names(n))
	}
	if n := groups["stale"]; len(n) > 0 {
		x.warn("members", "do they reach the bucket or the coordinator? is the timestamp signed in time (above)?", "%s stale, holding what is there: %s", count(len(n), "member"), names(n))
	}
	if n := groups["silent"]; len(n) > 0 {
		x.warn("members", "are they switched on, and do they reach the coordinator? `modelfleet members explain MEMBER`", "%s silent for %s: %s", count(len(n), "device"), silent, names(n))
	}
	if len(groups) == 0 {
		x.ok("members", "%s, none stale, untrusted or silent", count(live, "member"))
	}
}

// pending asks whether somebody waits at the door.
func (x *examination) pending(ctx context.Context) {
	info, err := x.Client.Fleet(ctx)
	if err != nil {
		x.refused("enrolment", err)
		return
	}
	if info.Pending > 0 {
		x.warn("enrolment", "`modelfleet members pending` lists them; `members approve` or `members deny`", "%s for approval", waiting(info.Pending))
	}
}

// audit compares the log's key with the one that members check, and asks for
// evidence of other histories.
func (x *examination) audit(ctx context.Context) {
	head, err := x.Client.AuditCheckpoint(ctx)
	switch {
	case fault.Is(err, fault.NotFound):
		x.warn("audit", "have one made: `modelfleet key rotate audit`", "the log has no signed checkpoint: members ask for no proof")
		return
	case err != nil:
		x.refused("audit", err)
		return
	}
	v, err := ledger.ParseKey(head.Key)
	var cp ledger.Checkpoint
	if err == nil {
		cp, err = ledger.Open(head.Note, v)
	}
	if err != nil {
		x.failed("audit", fault.New(fault.Untrusted, "read checkpoint", "", err).WithHint("the coordinator shows a checkpoint that its own key did not sign: look into its machine"))
		return
	}
	if x.repo != nil && strings.TrimSpace(x.repo.AuditKey()) != strings.TrimSpace(head.Key) {
		x.bad("audit", fault.Untrusted, "copy the key that the policy lists, audit-N.key, into the keys folder of the coordinator's fleet folder, or have the policy list another: `modelfleet key rotate audit`", "the log is signed by another key than the policy lists: members refuse its proofs")
		return
	}
	splits, err := x.Client.AuditSplits(ctx)
	switch {
	case err != nil:
		x.refused("audit", err)
	case len(splits) > 0:
		x.bad("audit", fault.Untrusted, "keep the evidence and stop the coordinator: see the runbook, \"A split view\"", "%s of another history than this log's", count(len(splits), "report"))
	default:
		x.ok("audit", "%s under a checkpoint signed by the policy's audit key; no fork of the log was seen", console.Count(int(cp.Size), "entry"))
	}
}

// releases asks whether members run what was taken back.
func (x *examination) releases(ctx context.Context) {
	all, err := x.Client.Releases(ctx)
	if err != nil {
		x.refused("releases", err)
		return
	}
	good, live := true, map[fleet.Digest]bool{}
	for _, r := range all {
		for _, v := range r.Release.Variants {
			live[v.Root] = live[v.Root] || !r.Revoked
		}
	}
	for _, r := range all {
		if r.Revoked && r.Members > 0 && !again(r.Release, live) {
			good = false
			x.bad("releases", fault.Conflict, "members leave it once a trust pack reaches them; `modelfleet members list --revoked` lists them", "%s is %s but still running on %s", r.Release.Ref(), barred(r), count(r.Members, "member"))
		}
	}
	if good && x.served(ctx, all) {
		x.ok("releases", "%d admitted; no member runs a delisted or revoked one", len(all))
	}
}

// barred is the one word for why a release may not run any more.
func barred(r api.ReleaseInfo) string {
	if strings.HasPrefix(r.RevokedFor, "delisted") {
		return "delisted"
	}
	return "revoked"
}

// served reports whether nobody is left with nothing to run, because what they
// should run was taken back.
func (x *examination) served(ctx context.Context, all []api.ReleaseInfo) bool {
	revoked := map[string]string{}
	for _, r := range all {
		if r.Revoked {
			revoked[r.Release.Ref()] = barred(r)
		}
	}
	members, err := x.Client.Members(ctx, fleet.Selector{})
	if err != nil {
		return true // the check of members says so
	}
	without := map[string][]string{}
	for _, m := range members {
		for _, s := range m.Models {
			if !m.Revoked && s.Running == "" && s.RunningRoot.IsZero() && revoked[s.Target] != "" {
				without[s.Target] = append(without[s.Target], string(m.Facts.ID))
			}
		}
	}
	for _, ref := range slices.Sorted(maps.Keys(without)) {
		x.bad("releases", fault.Conflict, "roll out another release: `modelfleet releases list`, `modelfleet rollout start MODEL@VERSION`", "%s is %s, and nothing of its model is running on %s assigned to it: %s", ref, revoked[ref], count(len(without[ref]), "member"), names(without[ref]))
	}
	return len(without) == 0
}

// again reports whether all of a release was published again under another version.
func again(r fleet.Release, live map[fleet.Digest]bool) bool {
	return !slices.ContainsFunc(r.Variants, func(v fleet.Variant) bool { return !live[v.Root] })
}

// count is "1 member", "3 members".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// names is the first few of many.
func names(all []string) string {
	const few = 5
	if len(all) <= few {
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:few], ", "), len(all)-few)
}

func waiting(n int) string {
	if n == 1 {
		return "1 member waits"
	}
	return fmt.Sprintf("%d members wait", n)
}
