package cli

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/folder"
	"github.com/modelfleet/modelfleet/pkg/api"
	"github.com/modelfleet/modelfleet/pkg/fleet"
)

// fleetInit is `init`.
type fleetInit struct {
	*desk
	dir   string
	fleet api.FleetFile
	teams []string
}

func (d *desk) initCommand() *cobra.Command {
	o := &fleetInit{desk: d}
	cmd := &cobra.Command{
		Use: "init", Short: "Make a fleet: its keys, its root of trust, its place in a bucket", Args: cobra.NoArgs,
		Long: `Make a fleet: keys in DIR/keys, the root of trust and the policy in the bucket, and
DIR/fleet.json, which the coordinator and "publish" begin with.

It makes nothing twice: run it again to finish what was cut short. Credentials for
the bucket are found as the AWS SDK finds them (environment, shared files, role).`,
		Example: `  modelfleet init --dir orchard --name orchard --team vision --bucket orchard-models --region eu-west-1
  modelfleet init --dir lab --name lab --team vision --bucket models --s3-endpoint http://127.0.0.1:9000`,
		RunE: run(func(ctx context.Context, _ []string) error { return o.run(ctx) }),
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", ".", "the fleet's `folder`")
	f.StringVar(&o.fleet.Name, "name", "", "the fleet's `name`")
	f.StringArrayVar(&o.teams, "team", nil, "a `team` that publishes; may be repeated")
	f.StringVar(&o.fleet.Bucket, "bucket", "", "the S3 `bucket`, or dir:PATH for a folder that is carried by hand")
	f.StringVar(&o.fleet.Endpoint, "s3-endpoint", "", "`URL` of another S3 server than AWS")
	f.StringVar(&o.fleet.Region, "region", "", "the bucket's `region`")
	f.StringVar(&o.fleet.Prefix, "prefix", "", "put before every key in the bucket")
	for _, name := range []string{"name", "team", "bucket"} {
		_ = cmd.MarkFlagRequired(name) // declared above
	}
	return cmd
}

func (o *fleetInit) run(ctx context.Context) error {
	opts := folder.InitOptions{Dir: o.dir, Fleet: o.fleet, Now: o.now()}
	for _, t := range o.teams {
		team, err := fleet.ParseTeam(t)
		if err != nil {
			return err
		}
		opts.Teams = append(opts.Teams, team)
	}
	made, err := folder.Init(ctx, opts)
	if err != nil {
		return err
	}
	if o.json() {
		return o.JSON(map[string]any{"fleet": made.FleetFile, "dir": made.Dir, "keysMade": list(made.Keys), "objectsMade": made.Objects})
	}
	if len(made.Keys) == 0 && made.Objects == 0 {
		o.Say("fleet %s is there already, whole; root %s", made.Name, made.Root.Short())
		return nil
	}
	if len(made.Keys) > 0 {
		o.Say("keys made in %s: %s", filepath.Join(made.Dir, "keys"), strings.Join(made.Keys, ", "))
	}
	o.Say("fleet %s: root %s, %d objects put into %s", made.Name, made.Root.Short(), made.Objects, made.Bucket)
	o.Say("")
	o.Say("The root key is one key on this machine (1 of 1): whoever has it has the fleet, and if it")
	o.Say("is lost the trust of every member must be made anew. Take %s", made.KeyPath("root"))
	o.Say("offline now, with a copy; nothing below needs it.")
	o.Say("")
	o.Say("Next:")
	o.Say("  modelfleet-coordinator -fleet %s -data DATA", made.Dir)
	o.Say("  modelfleet context use DATA/admin.context.json")
	o.Say("  modelfleet publish FOLDER MODEL@VERSION --dir %s", made.Dir)
	return nil
}
