package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/console"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

func (d *desk) releaseCommands() *cobra.Command {
	cmd := group("releases", "List and manage releases", d.releasesList(), d.releasesAdmit(),
		d.releasesProposals(), d.releasesApprove(), d.releasesDelist(), d.releasesFloor(), d.releasesRenew())
	cmd.Aliases = []string{"release"}
	return cmd
}

func (d *desk) releasesList() *cobra.Command {
	var model string
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List admitted releases, newest first", Args: cobra.NoArgs,
		Example: "  modelfleet releases list\n  modelfleet releases list --model detector -o json",
		RunE: ask(d, func(ctx context.Context, c *api.Client, _ []string) ([]api.ReleaseInfo, error) {
			all, err := c.Releases(ctx)
			all = slices.DeleteFunc(all, func(r api.ReleaseInfo) bool { return model != "" && r.Release.Model != fleet.ModelName(model) })
			return list(all), err
		}, func(all []api.ReleaseInfo) error {
			if len(all) == 0 {
				d.Say("no release is admitted; `modelfleet publish DIR MODEL@VERSION` publishes one")
				return nil
			}
			var rows [][]string
			for _, r := range all {
				rows = append(rows, d.releaseRow(r))
			}
			return d.Table("RELEASE TEAM MEMBERS SIZE ADMITTED BY METRICS IDENTITY", rows)
		}),
	}
	cmd.Flags().StringVar(&model, "model", "", "only releases of this model")
	return cmd
}

func (d *desk) releaseRow(r api.ReleaseInfo) []string {
	ref := r.Release.Ref()
	if r.Revoked {
		ref += " (" + api.Barred(r.RevokedFor) + ")"
	} else if r.Unlisted {
		ref += " (not listed)"
	}
	var bytes int64
	var ids, metrics []string
	for _, v := range r.Release.Variants {
		bytes = max(bytes, v.Size)
		id := v.Root.Short()
		if v.Name != fleet.DefaultVariant {
			id = v.Name + ":" + id
		}
		ids = append(ids, id)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Metrics)) {
		metrics = append(metrics, fmt.Sprintf("%s=%.4g", name, r.Metrics[name]))
	}
	return []string{ref, string(r.Release.Team), fmt.Sprint(r.Members), console.Bytes(bytes), console.Ago(r.Admitted, d.now()), r.By, strings.Join(metrics, ","), strings.Join(ids, ",")}
}

func (d *desk) releasesAdmit() *cobra.Command {
	return &cobra.Command{
		Use: "admit TEAM", Short: "Admit a team's published releases", Args: cobra.ExactArgs(1),
		Long: `Ask the coordinator to admit what a team has published to the bucket. It verifies the
releases as a member would. "publish" does this automatically.`,
		Example: "  modelfleet releases admit vision",
		RunE: run(func(ctx context.Context, args []string) error {
			team, err := fleet.ParseTeam(args[0])
			if err != nil {
				return err
			}
			client, err := d.client()
			if err != nil {
				return err
			}
			return d.admit(ctx, client, team)
		}),
	}
}

// admit asks for admission and says what it changed.
func (d *desk) admit(ctx context.Context, client *api.Client, team fleet.Team) error {
	reply, err := client.Admit(ctx, api.AdmitRequest{Team: team})
	if err != nil {
		return err
	}
	if d.json() {
		return d.JSON(reply)
	}
	for _, r := range reply.Admitted {
		again := ""
		if slices.Contains(reply.Again, r.Release.Ref()) {
			again = " again: members that are told to run it take it now, without another rollout"
		}
		d.Say("admitted %s%s", r.Release.Ref(), again)
	}
	for _, r := range reply.Revoked {
		d.Say("delisted %s: no member may run it any more", r.Release.Ref())
	}
	if len(reply.Admitted)+len(reply.Revoked) == 0 {
		d.Say("admission: nothing new, %d known", len(reply.Known))
	}
	return nil
}
