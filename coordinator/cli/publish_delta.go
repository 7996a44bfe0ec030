package cli

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/modelfleet/modelfleet/coordinator/cli/folder"
	"github.com/modelfleet/modelfleet/coordinator/cli/publisher"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// askTime is how long a coordinator is waited for where it can be done without.
const askTime = 10 * time.Second

// deltaFlags say from which versions deltas are made.
type deltaFlags struct {
	flag string
	from []string
}

func (o *deltaFlags) declare(f *pflag.FlagSet, flag string) {
	o.flag = flag
	f.StringSliceVar(&o.from, flag, nil, "make deltas from just these `versions`")
}

// of reads the flags and, when they name no version, asks the coordinator which
// ones members run. Without an answer there is still the version before.
func (o *deltaFlags) of(ctx context.Context, d *desk, model fleet.ModelName) (publisher.Deltas, error) {
	var out publisher.Deltas
	for _, text := range o.from {
		v, err := fleet.ParseVersion(text)
		if err != nil {
			return out, fault.New(fault.Invalid, "read --"+o.flag, text, err)
		}
		out.From = append(out.From, v)
	}
	if len(out.From) > 0 {
		return out, nil
	}
	client, err := d.client()
	if err != nil {
		return out, nil // there is no coordinator to ask
	}
	asking, stop := context.WithTimeout(ctx, askTime)
	defer stop()
	releases, err := client.Releases(asking)
	if err != nil {
		d.Say("deltas: from the version before only; the coordinator does not say what members run: %v", err)
		return out, nil
	}
	out.Members = map[fleet.Version]int{}
	for _, r := range releases {
		if r.Release.Model == model && !r.Revoked {
			out.Members[r.Release.Version] = r.Members
		}
	}
	return out, nil
}

// delta is `delta`.
type delta struct {
	*desk
	dir, team string
	deltas    deltaFlags
	again     bool
}

func (d *desk) deltaCommand() *cobra.Command {
	o := &delta{desk: d}
	cmd := &cobra.Command{
		Use: "delta MODEL@VERSION", Short: "Create deltas to a published release", Args: cobra.ExactArgs(1),
		Long: `Create deltas to a published release, so that members running another version fetch
only the difference. "publish" creates deltas automatically; use this command for
other base versions. Both versions are read from the bucket.

A delta is kept only if it is under 80 % of the size of the full download. A delta
that was rejected is not built again unless --again is given. Deltas need no
signature: the result must match what the release signed.`,
		Example: `  modelfleet delta detector@1.5.0 --from 1.2.0
  modelfleet delta detector@1.5.0 --dir orchard`,
		RunE: run(func(ctx context.Context, args []string) error { return o.run(ctx, args[0]) }),
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", cmp.Or(d.env("MODELFLEET_DIR"), "."), "the fleet's `folder`; $MODELFLEET_DIR")
	f.StringVar(&o.team, "team", "", "publishing `team`; default: the fleet's only team")
	o.deltas.declare(f, "from")
	f.BoolVar(&o.again, "again", false, "also build deltas that were rejected as too large before")
	return cmd
}

func (o *delta) run(ctx context.Context, ref string) error {
	model, version, err := fleet.ParseRef(ref)
	if err != nil {
		return err
	}
	home, err := folder.Open(o.dir)
	if err != nil {
		return err
	}
	store, err := folder.OpenBucket(ctx, home.FleetFile)
	if err != nil {
		return err
	}
	repo, err := home.Repository(ctx, store)
	if err != nil {
		return err
	}
	team, err := onlyTeam(repo.Teams(), o.team, "make deltas", ref)
	if err != nil {
		return err
	}
	deltas, err := o.deltas.of(ctx, o.desk, model)
	if err != nil {
		return err
	}
	deltas.Again = o.again
	progress, stop := o.progress()
	made, err := publisher.MakeDeltas(ctx, publisher.Options{Store: store, Repository: repo, Deltas: deltas, Progress: progress},
		fleet.Release{Team: team, Model: model, Version: version})
	stop()
	if err != nil {
		return err
	}
	if len(made) == 0 {
		o.Say("there is no version before %s to make a delta from; name one with --from", ref)
	}
	if o.json() {
		if err := o.JSON(list(made)); err != nil {
			return err
		}
	}
	return failed(made)
}

// failed is the error of deltas that could not be made: on request, that counts.
func failed(made []publisher.Delta) error {
	for _, d := range made {
		if d.Err != nil {
			return fault.New(fault.KindOf(d.Err), "make delta", fmt.Sprintf("from %s, variant %s", d.From, d.Variant), d.Err)
		}
	}
	return nil
}

// onlyTeam is the team asked for or, when nobody asked, the only one.
func onlyTeam(teams []fleet.Team, asked, op, ref string) (fleet.Team, error) {
	if asked != "" {
		return fleet.Team(asked), nil
	}
	if len(teams) != 1 {
		return "", fault.Newf(fault.Invalid, op, ref, "the fleet has %d teams: %v", len(teams), teams).WithHint("say which with --team")
	}
	return teams[0], nil
}
