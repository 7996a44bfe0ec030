package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

func (d *desk) memberCommands() *cobra.Command {
	cmd := group("members", "Manage members and see what they run", d.membersList(), d.membersDescribe(), d.membersExplain(), d.membersRevoke(),
		d.membersPending(), d.membersApprove(), d.membersDeny(), d.membersUnlock(), d.membersAllowComeback())
	cmd.Aliases = []string{"member"}
	return cmd
}

const selectorHelp = `A selector is a list of terms that must all match:

  ring=lab             the label has this value
  class!=lab           the label is absent or has another value
  region in (eu, us)   the label has one of these values
  zone notin (a, b)    the label is absent or has none of these values
  camera, !camera      the label is present, is absent

The labels id and kind (device, function) are always present.`

func (d *desk) membersList() *cobra.Command {
	var selector string
	var revoked bool
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List members", Args: cobra.NoArgs,
		Long: "List members, one line per member and model.\n\n" + selectorHelp,
		Example: `  modelfleet members list
  modelfleet members list -l 'region in (eu, us), class!=lab'
  modelfleet members list --revoked      # members still running a delisted release
  modelfleet members list -l kind=function -o json | jq -r '.[].facts.id'`,
		RunE: ask(d, func(ctx context.Context, c *api.Client, _ []string) ([]api.MemberInfo, error) {
			sel, err := fleet.ParseSelector(selector)
			if err != nil {
				return nil, err
			}
			members, err := c.Members(ctx, sel)
			if revoked {
				members = slices.DeleteFunc(members, func(m api.MemberInfo) bool {
					return !slices.ContainsFunc(m.Models, func(st api.ModelStatus) bool { return st.Revoked != "" })
				})
			}
			return list(members), err
		}, d.printMembers),
	}
	cmd.Flags().StringVarP(&selector, "selector", "l", "", "only members with these labels")
	cmd.Flags().BoolVar(&revoked, "revoked", false, "only members that still run a delisted or revoked release")
	return cmd
}

func (d *desk) printMembers(members []api.MemberInfo) error {
	if len(members) == 0 {
		d.Say("no member fits")
		return nil
	}
	var rows [][]string
	for _, m := range members {
		head := []string{string(m.Facts.ID), string(m.Facts.Kind), m.Facts.Labels.String()}
		seen := console.Ago(m.Seen, d.now())
		if len(m.Models) == 0 {
			rows = append(rows, append(head, "", "", "", barredText(m), seen))
		}
		for _, st := range m.Models {
			rows = append(rows, append(head[:3:3], string(st.Model), runsText(st), version(st.Target), standsText(m, st), seen))
		}
	}
	return d.Table("MEMBER KIND LABELS MODEL RUNS SHOULD STATE SEEN", rows)
}

// barredText says that a member may not take part, and why; "" when it may.
func barredText(m api.MemberInfo) string {
	switch {
	case m.Revoked:
		return "REVOKED"
	case m.Locked != "":
		return "LOCKED"
	}
	return ""
}

// standsText is how a member stands with a model, as far as anybody hears of it.
func standsText(m api.MemberInfo, st api.ModelStatus) string {
	last := phaseText(st) + packText(m)
	if barred := barredText(m); barred != "" {
		return barred + ", was " + last
	}
	return last
}

// packText is how a member's trust stands, where people should know.
func packText(m api.MemberInfo) string {
	switch f := strings.ToLower(m.Freshness); f {
	case "stale", "untrusted":
		return ", " + strings.ToUpper(f)
	}
	return ""
}

// trustText says since when a member's trust stands as it does; "" while it is fresh.
func trustText(m api.MemberInfo, now time.Time) string {
	if packText(m) == "" {
		return ""
	}
	s := strings.ToUpper(m.Freshness)
	if m.Refused != "" {
		s += " by rule " + m.Refused
	}
	if !m.FreshnessSince.IsZero() {
		s += " for " + console.Ago(m.FreshnessSince, now)
	}
	return s
}

// runsText is the version that a member runs, and whether it may no longer.
func runsText(st api.ModelStatus) string {
	if st.Revoked != "" {
		return version(st.Running) + " (" + api.Barred(st.Revoked) + ")"
	}
	return version(st.Running)
}

// list makes an absent list an empty one, for JSON.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

// version is the version of a ref, or a shortened digest.
func version(ref string) string {
	if _, v, ok := strings.Cut(ref, "@"); ok {
		return v
	}
	return ref[:min(len(ref), 12)]
}

// phaseText is a phase with the reason of a failure and what is in quarantine.
func phaseText(st api.ModelStatus) string {
	s := st.Phase.String()
	if st.Phase == fleet.Quarantined && (st.FailureCode == "delisted" || st.FailureCode == "revoked") {
		return st.FailureCode // it did not fail there
	}
	switch {
	case st.Stuck() && st.Phase != fleet.Downloading:
		s, _, _ = strings.Cut(st.StuckText(time.Time{}), ":")
	case st.Phase == fleet.Downloading && st.BytesTotal > 0:
		s += fmt.Sprintf(" %d%%", min(100, 100*st.BytesDone/st.BytesTotal))
	}
	if st.Waits != "" {
		s += ", waits for " + st.Waits
	}
	if st.FailureCode != "" {
		s += " (" + st.FailureCode + ")"
	}
	if len(st.Quarantined) > 0 && st.Phase != fleet.Quarantined {
		s += ", quarantine"
	}
	return s
}

func (d *desk) membersDescribe() *cobra.Command {
	return &cobra.Command{
		Use: "describe MEMBER", Short: "Show the details of a member", Args: cobra.ExactArgs(1),
		Example: "  modelfleet members describe cork-07\n  modelfleet members describe cork-07 -o json",
		RunE: ask(d, func(ctx context.Context, c *api.Client, args []string) (api.MemberInfo, error) {
			id, err := fleet.ParseMemberID(args[0])
			if err != nil {
				return api.MemberInfo{}, err
			}
			return c.Member(ctx, id)
		}, d.printMember),
	}
}

func (d *desk) printMember(m api.MemberInfo) error {
	f := m.Facts
	revoked := ""
	if m.Revoked {
		revoked = "yes: it has no identity any more"
	}
	rss := ""
	if m.RSS > 0 {
		rss = console.Bytes(m.RSS)
	}
	seen := "never"
	if !m.Seen.IsZero() {
		seen = console.Ago(m.Seen, d.now()) + " ago"
		if m.Via != "" {
			seen += ", by " + m.Via
		}
	}
	pairs := []string{"member", string(f.ID), "kind", string(f.Kind), "group", string(f.Group), "labels", f.Labels.String(), "cell", m.Cell,
		"agent", strings.TrimSpace(f.Agent + " " + f.Platform), "memory", rss, "enrolled", f.Enrolled.Format("2006-01-02 15:04:05Z"), "seen", seen,
		"directive", fmt.Sprintf("#%d %s", m.Directive, strings.ToLower(m.Freshness)), "trust", trustText(m, d.now()), "remedy", m.Remedy, "revoked", revoked}
	pairs = append(pairs, identityPairs(m, d.now())...)
	if err := d.Pairs(append(pairs, deliveryPairs(m.Delivery)...)...); err != nil {
		return err
	}
	for _, st := range m.Models {
		d.Print("")
		if err := d.printModel(st); err != nil {
			return err
		}
	}
	return nil
}

func (d *desk) printModel(st api.ModelStatus) error {
	running := cmp.Or(st.Running, "nothing")
	if !st.RunningRoot.IsZero() {
		running += " (" + st.RunningRoot.Short() + ", observed)"
	}
	quarantine := make([]string, len(st.Quarantined))
	for i, q := range st.Quarantined {
		quarantine[i] = q.Short()
	}
	rollout := ""
	if st.Rollout != "" {
		rollout = string(st.Rollout) + ", " + st.Arm
	}
	pairs := []string{"model", string(st.Model), "runs", running, "revoked", st.Revoked, "should run", cmp.Or(st.Target, "nothing"), "why", st.Reason, "phase", phaseText(st), "trouble", stuckText(st, d.now())}
	pairs = append(pairs, fetchPairs(st)...)
	return d.Pairs(append(pairs, "rollout", rollout, "requests", countText(st.Requests), "errors", shareText(st.Errors, st.Requests),
		"right", shareText(st.Right, st.Right+st.Wrong), "latency", latencyText(st.P50, st.P95), "quarantined", strings.Join(quarantine, ", "))...)
}

func (d *desk) membersExplain() *cobra.Command {
	return &cobra.Command{
		Use: "explain MEMBER", Aliases: []string{"why"}, Short: "Explain why a member runs what it runs", Args: cobra.ExactArgs(1),
		Example: "  modelfleet members explain cork-07",
		RunE: ask(d, func(ctx context.Context, c *api.Client, args []string) (api.Explanation, error) {
			id, err := fleet.ParseMemberID(args[0])
			if err != nil {
				return api.Explanation{}, err
			}
			return c.Explain(ctx, id)
		}, func(x api.Explanation) error {
			for _, st := range x.Member.Models {
				d.Print("%s runs %s and should run %s", x.Member.Facts.ID, console.Clean(cmp.Or(st.Running, "nothing of "+string(st.Model))), console.Clean(cmp.Or(st.Target, "nothing")))
			}
			for _, line := range x.Lines {
				d.Print("- %s", console.Clean(line))
			}
			return nil
		}),
	}
}

func (d *desk) membersRevoke() *cobra.Command {
	var reason string
	var yes bool
	cmd := &cobra.Command{
		Use: "revoke MEMBER", Short: "Permanently revoke a member's identity", Args: cobra.ExactArgs(1),
		Example: "  modelfleet members revoke cork-07 --reason 'stolen from the van' --yes",
		RunE: run(func(ctx context.Context, args []string) error {
			id, err := fleet.ParseMemberID(args[0])
			if err != nil {
				return err
			}
			if reason == "" {
				return fault.Newf(fault.Invalid, "revoke member", args[0], "no reason is given").WithHint("say what happened with --reason")
			}
			if !yes {
				return fault.Newf(fault.Invalid, "revoke member", args[0], "it is not confirmed; it cannot be undone: the member has to enrol again").WithHint("confirm with --yes")
			}
			client, err := d.client()
			if err != nil {
				return err
			}
			if err := client.Revoke(ctx, id, reason); err != nil {
				return err
			}
			d.Say("%s has no identity any more; every member hears of it with the next trust pack, and its cell gets another key", id)
			return nil
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "reason, for the audit log")
	cmd.Flags().BoolVar(&yes, "yes", false, "confirm")
	return cmd
}
