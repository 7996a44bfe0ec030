package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

func (d *desk) rolloutCommands() *cobra.Command {
	cmd := group("rollout", "Roll a release out in stages, or roll it back",
		d.rolloutStart(), d.rolloutList(), d.rolloutStatus(), d.rolloutWatch(), d.rolloutReport(),
		d.rolloutCommand(api.Pause, "Pause a rollout: expose no more members", `Pause a rollout: no more members are exposed. A failing gate still rolls the release
back, unless --hold is given.`, "  modelfleet rollout pause r7-k2xq --reason 'line 3 is being rebuilt'"),
		d.rolloutCommand(api.Resume, "Resume a paused rollout", "Resume a paused rollout. The current stage restarts its soak.", "  modelfleet rollout resume r7-k2xq"),
		d.rolloutCommand(api.Abort, "Abort a rollout; switched members keep the release", `Abort a rollout. Members that were told to switch but have not done so are withdrawn;
members that have switched keep the release. To return those too, use "rollback".`, "  modelfleet rollout abort r7-k2xq --reason 'wrong baseline'"),
		d.rolloutCommand(api.Rollback, "Roll back every member that switched", `Roll back: end the rollout and return every member that switched to its previous
release, from the copy it has kept.`, "  modelfleet rollout rollback r7-k2xq --reason 'operators see ghosts'"),
		d.rolloutCommand(api.Skip, "Skip to the last stage, in an emergency", `Skip to the last stage, in an emergency. This takes two approvers, neither of them the
author. A failing gate still rolls the release back.`, "  modelfleet rollout skip r7-k2xq --reason 'the old release leaks'"),
		d.rolloutCommand(api.Approve, "Approve the next stage", `Approve a stage that is awaiting approval. The author of a rollout cannot approve it.`, "  modelfleet rollout approve r7-k2xq --reason 'shadow report read'"),
	)
	cmd.Aliases = []string{"rollouts"}
	return cmd
}

func (d *desk) rolloutList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List rollouts, newest first", Args: cobra.NoArgs,
		Example: "  modelfleet rollout list\n  modelfleet rollout list -o json | jq '.[0].id'",
		RunE: ask(d, func(ctx context.Context, c *api.Client, _ []string) ([]api.RolloutInfo, error) {
			all, err := c.Rollouts(ctx)
			return list(all), err
		}, func(all []api.RolloutInfo) error {
			if len(all) == 0 {
				d.Say("no rollout yet; `modelfleet rollout start MODEL@VERSION --preset standard` begins one")
				return nil
			}
			var rows [][]string
			for _, x := range all {
				rows = append(rows, []string{string(x.ID), x.Release.Ref(), stateText(x.State), stageText(x), fmt.Sprintf("%d of %d", x.StillOn, x.Population), x.Author, console.Ago(x.Started, d.now()), x.Reason})
			}
			return d.Table("ROLLOUT RELEASE STATE STAGE RUN-IT BY STARTED WHY", rows)
		}),
	}
}

// stageText is "ten (2/4)", or nothing once it has ended.
func stageText(x api.RolloutInfo) string {
	if !x.Ended.IsZero() || x.Stage >= len(x.Stages) {
		return ""
	}
	return fmt.Sprintf("%s (%d/%d)", x.Stages[x.Stage].Name, x.Stage+1, len(x.Stages))
}

func (d *desk) rolloutStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status ROLLOUT", Short: "Show the state of a rollout and the reason for it", Args: cobra.ExactArgs(1),
		Example: "  modelfleet rollout status r7-k2xq\n  modelfleet rollout status r7-k2xq -o json | jq -r .state",
		RunE:    ask(d, rollout, d.printStatus),
	}
}

func rollout(ctx context.Context, c *api.Client, args []string) (api.RolloutInfo, error) {
	id, err := fleet.ParseRolloutID(args[0])
	if err != nil {
		return api.RolloutInfo{}, err
	}
	return c.Rollout(ctx, id)
}

func (d *desk) printStatus(x api.RolloutInfo) error {
	took, end := "running for", d.now()
	if !x.Ended.IsZero() {
		took, end = "took", x.Ended
	}
	err := d.Pairs("rollout", string(x.ID), "release", x.Release.Ref(), "from", x.From, "state", stateText(x.State), "why", x.Reason,
		"started", fmt.Sprintf("%s by %s, %s %s", x.Started.Format("2006-01-02 15:04:05Z"), x.Author, took, end.Sub(x.Started).Round(time.Second)),
		"members", fmt.Sprintf("%d in the population, %d ever ran it, %d run it now", x.Population, x.EverExposed, x.StillOn), "approved by", strings.Join(x.Approvals, ", "),
		"fetching", fetchingText(x.Fetching), "stuck", strings.Join(stuckTexts(x.Stuck, d.now()), "; "))
	if err != nil {
		return err
	}
	d.Print("")
	var rows [][]string
	for i, st := range x.Stages {
		here := " "
		if i == x.Stage && x.Ended.IsZero() {
			here = ">"
		}
		verdict, why := "", ""
		if st.Verdict != nil {
			verdict, why = st.Verdict.Outcome, st.Verdict.Reason
		}
		rows = append(rows, []string{here + st.Name, strings.ToLower(st.State), fmt.Sprintf("%d/%d", st.Exposed, st.Target), st.Soak.String(), verdict, why})
	}
	return d.Table("STAGE STATE EXPOSED SOAK VERDICT WHY", rows)
}

func (d *desk) rolloutReport() *cobra.Command {
	return &cobra.Command{
		Use: "report ROLLOUT", Short: "Compare exposed members with the control group", Args: cobra.ExactArgs(1),
		Long: `Compare exposed members with the control group since the rollout began, and show the
evidence of each gate. E is the accumulated evidence against the release: it starts
at 1 (none), and the gate fails when E reaches its threshold.`,
		Example: "  modelfleet rollout report r7-k2xq\n  modelfleet rollout report r7-k2xq -o json | jq '.stages[].verdict.gates'",
		RunE:    ask(d, rollout, d.printReport),
	}
}

func (d *desk) printReport(x api.RolloutInfo) error {
	d.Print("%s %s: %s", x.Release.Ref(), stateText(x.State), console.Clean(x.Reason))
	d.Print("")
	e, c := x.Exposed, x.Control
	rows := [][]string{
		{"members reporting", fmt.Sprintf("%d of %d", e.Seen, e.Members), fmt.Sprintf("%d of %d", c.Seen, c.Members)},
		{"failed on", fmt.Sprint(e.Fatal), fmt.Sprint(c.Fatal)},
		{"requests", fmt.Sprint(e.Requests), fmt.Sprint(c.Requests)},
		{"errors", shareText(e.Errors, e.Requests), shareText(c.Errors, c.Requests)},
		{"right", shareText(e.Right, e.Right+e.Wrong), shareText(c.Right, c.Right+c.Wrong)},
		{"latency", latencyText(e.P50, e.P95), latencyText(c.P50, c.P95)},
	}
	if err := d.Table("SINCE-START EXPOSED CONTROL", rows); err != nil {
		return err
	}
	for _, st := range x.Stages {
		if st.Verdict == nil {
			continue
		}
		d.Print("\nstage %s: %s, %s", console.Clean(st.Name), st.Verdict.Outcome, console.Clean(st.Verdict.Reason))
		var rows [][]string
		for _, g := range st.Verdict.Gates {
			rows = append(rows, []string{g.Gate, g.Outcome, fmt.Sprintf("%.3g", g.E), fmt.Sprintf("%.3g", g.Threshold), g.Reason})
		}
		if err := d.Table("GATE OUTCOME E FAILS-AT WHY", rows); err != nil {
			return err
		}
	}
	return nil
}

// already says that a rollout stands as a command would have it, so that there is
// nothing to be done; otherwise it is empty.
func already(ctx context.Context, c *api.Client, id fleet.RolloutID, command api.Command, req api.CommandRequest) (x api.RolloutInfo, done string, err error) {
	if command != api.Pause && command != api.Resume {
		return x, "", nil
	}
	x, err = c.Rollout(ctx, id)
	switch {
	case err != nil || !x.Ended.IsZero(): // the command's own refusal says so
		return x, "", err
	case command == api.Pause && x.State == "Paused" && x.Hold == req.Hold:
		done = "is paused already: " + console.Clean(x.Reason)
	case command == api.Resume && x.State == "Running":
		done = "is not paused: it is being rolled out already"
	}
	return x, done, nil
}

// rolloutCommand is pause, resume, abort, rollback, approve or skip.
func (d *desk) rolloutCommand(command api.Command, short, long, example string) *cobra.Command {
	var req api.CommandRequest
	cmd := &cobra.Command{
		Use: string(command) + " ROLLOUT", Short: short, Long: long, Example: example, Args: cobra.ExactArgs(1),
		RunE: run(func(ctx context.Context, args []string) error {
			id, err := fleet.ParseRolloutID(args[0])
			if err != nil {
				return err
			}
			client, err := d.client()
			if err != nil {
				return err
			}
			if x, done, err := already(ctx, client, id, command, req); err != nil || done != "" {
				if err == nil && d.json() {
					return d.JSON(x)
				}
				if err == nil {
					d.Say("%s %s", id, done)
				}
				return err
			}
			x, err := client.Command(ctx, id, command, req)
			if err != nil {
				return err
			}
			if d.json() {
				return d.JSON(x)
			}
			d.Say("%s %s: taken; `modelfleet rollout watch %s` shows what comes of it", command, cmp.Or(x.ID, id), id)
			return nil
		}),
	}
	cmd.Flags().StringVar(&req.Reason, "reason", "", "reason, for the audit log")
	if command == api.Pause {
		cmd.Flags().BoolVar(&req.Hold, "hold", false, "do not roll back even if a gate fails")
	}
	return cmd
}
