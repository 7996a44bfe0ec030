package cli

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/modelfleet/modelfleet/coordinator/cli/folder"
	"github.com/modelfleet/modelfleet/coordinator/cli/publisher"
	"github.com/modelfleet/modelfleet/pkg/fault"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/signer"
	"github.com/modelfleet/modelfleet/pkg/signer/keyref"
	"github.com/modelfleet/modelfleet/pkg/trust/repository"
)

// team is what commands that change a team's role share.
type team struct {
	*desk
	dir, team, key, reason string
	noAdmit                bool
}

func (o *team) declare(cmd *cobra.Command) *cobra.Command {
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", o.folderDefault(), "the fleet's `folder`; $MODELFLEET_DIR")
	f.StringVar(&o.key, "key", "", "the team's `key`: a file, or awskms:///...; default: the key in the fleet's folder")
	f.StringVar(&o.team, "team", "", "act as this `team`; default: the team the key belongs to")
	f.StringVar(&o.reason, "reason", "", "reason, signed with the change and shown to approvers and in the audit log")
	f.BoolVar(&o.noAdmit, "no-admit", false, "do not ask the coordinator to admit it")
	return cmd
}

// folderDefault is the fleet's folder when none is named.
func (d *desk) folderDefault() string { return cmp.Or(d.env("MODELFLEET_DIR"), ".") }

// open finds folder, bucket and repository, and with the key also the team.
func (o *team) open(ctx context.Context) (publisher.Options, fleet.Team, error) {
	if o.key == "" { // what is not here is found out before the bucket is asked
		home, err := folder.Open(o.dir)
		if err != nil {
			return publisher.Options{}, "", err
		}
		name, key, err := home.Publisher(ctx, fleet.Team(o.team))
		if err != nil {
			return publisher.Options{}, "", err
		}
		opts, _, err := o.bucket(ctx)
		opts.Key = key
		return opts, name, err
	}
	opts, _, err := o.bucket(ctx)
	if err != nil {
		return opts, "", err
	}
	if opts.Key, err = keyref.Open(ctx, o.key, o.keys()); err != nil {
		return opts, "", err
	}
	if o.team != "" {
		return opts, fleet.Team(o.team), nil
	}
	name, err := teamOf(opts.Repository, opts.Key)
	return opts, name, err
}

// bucket is what needs no key.
func (o *team) bucket(ctx context.Context) (publisher.Options, folder.Folder, error) {
	home, err := folder.Open(o.dir)
	if err != nil {
		return publisher.Options{}, home, err
	}
	store, err := folder.OpenBucket(ctx, home.FleetFile)
	if err != nil {
		return publisher.Options{}, home, err
	}
	repo, err := home.Repository(ctx, store)
	return publisher.Options{Store: store, Repository: repo, Now: o.now()}, home, err
}

// teamOf is the team that the policy gives the key to.
func teamOf(repo *repository.Repository, key *signer.Signer) (fleet.Team, error) {
	var found []string
	for _, t := range repo.Teams() {
		keys, err := repo.Keys(t)
		if err != nil {
			return "", err
		}
		for _, k := range keys {
			if k.Equal(key.Public()) {
				found = append(found, string(t))
			}
		}
	}
	if len(found) == 1 {
		return fleet.Team(found[0]), nil
	}
	id, err := repository.KeyID(key.Public())
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", fault.Newf(fault.Untrusted, "find team", id[:12], "the policy gives this key to none of the teams %v", repo.Teams()).
			WithHint("use a key of the team, or have the keeper of the policy add it: `modelfleet key add pub-TEAM KEY.pub`")
	}
	return "", fault.Newf(fault.Invalid, "find team", id[:12], "it is a key of %s", strings.Join(found, " and ")).WithHint("say which with --team")
}

// proposed says who must approve what one key has signed.
func (d *desk) proposed(what string, p publisher.Placed) {
	again := "proposed"
	if p.Before {
		again = "was proposed before, just so"
	}
	d.Say("%s: %s as %s; %s", what, again, p.ID(), waits(p.Team, p.Missing))
	d.Say("  modelfleet releases approve %s %s --key KEY", p.Team, p.ID())
}

// waits says who else must sign.
func waits(t fleet.Team, missing int) string {
	if missing == 1 {
		return fmt.Sprintf("nothing changes until somebody else of team %s approves it:", t)
	}
	return fmt.Sprintf("nothing changes until %d others of team %s approve it:", missing, t)
}

// admission asks the coordinator to take up what a team put into the bucket.
func (d *desk) admission(ctx context.Context, name fleet.Team, what string) error {
	client, err := d.client()
	if err == nil {
		quiet := *d
		quiet.output = "table" // what was done is the JSON
		err = quiet.admit(ctx, client, name)
	}
	switch {
	case err == nil:
		return nil
	case fault.Hint(err) != "" && (fault.Is(err, fault.Untrusted) || fault.Is(err, fault.Invalid)):
		return fault.New(fault.KindOf(err), "admit", what, err) // it was judged, and what to do was said
	}
	return fault.New(fault.KindOf(err), "admit", what, err).
		WithHint("it is signed and in the bucket; once the coordinator can be reached: `modelfleet releases admit %s`", name)
}

// run is a command's work: change the role, print, ask for admission.
func (o *team) run(ctx context.Context, what string, make func(publisher.Options) func(repository.Draft) (*repository.Change, error)) error {
	opts, name, err := o.open(ctx)
	if err != nil {
		return err
	}
	p, err := publisher.Change(ctx, opts, name, make(opts))
	if err != nil {
		return err
	}
	switch {
	case p.Key == "":
		o.Say("%s: it is so already", what)
	case p.Done():
		o.Say("%s: signed by team %s", what, name)
	default:
		o.proposed(what, p)
	}
	o.carries(p)
	if o.json() {
		if err := o.JSON(p); err != nil {
			return err
		}
	}
	if p.Missing > 0 || o.noAdmit {
		return nil
	}
	return o.admission(ctx, name, what)
}

func (d *desk) releasesDelist() *cobra.Command {
	o := &team{desk: d}
	return o.declare(&cobra.Command{
		Use: "delist MODEL@VERSION", Short: "Delist a release: no member may run it", Args: cobra.ExactArgs(1),
		Long: `Delist a published release, signed with the team's key. Members running it switch to
the fallback as soon as a trust pack with the new role reaches them; without a
fallback they stop serving the model.

It works while the coordinator is down: the role goes to the bucket. Run "releases
admit TEAM" once the coordinator is back.`,
		Example: "  modelfleet releases delist detector@1.6.0 --reason 'trained on the wrong labels' --dir orchard",
		RunE: run(func(ctx context.Context, args []string) error {
			model, version, err := fleet.ParseRef(args[0])
			if err != nil {
				return err
			}
			if o.reason == "" {
				return fault.Newf(fault.Invalid, "delist release", args[0], "no reason is given").WithHint("say why with --reason: whoever meets the consequences will ask")
			}
			return o.run(ctx, "delist "+args[0], func(opts publisher.Options) func(repository.Draft) (*repository.Change, error) {
				return publisher.Delist(ctx, opts, fleet.Release{Model: model, Version: version}, o.reason)
			})
		}),
	})
}

func (d *desk) releasesFloor() *cobra.Command {
	o := &team{desk: d}
	return o.declare(&cobra.Command{
		Use: "floor (MODEL COUNTER | MODEL@VERSION)", Short: "Raise a model's floor: nothing older may run", Args: cobra.RangeArgs(1, 2),
		Long: `Raise a model's floor, signed with the team's key: no release with a lower counter may
run, whatever the coordinator says. Floors can only be raised. "releases list -o json"
and "verify" show the counter of each published version.`,
		Example: "  modelfleet releases floor detector@1.5.0 --reason 'older ones leak memory' --dir orchard\n  modelfleet releases floor detector 7",
		RunE: run(func(ctx context.Context, args []string) error {
			make, err := o.floor(args)
			if err != nil {
				return err
			}
			return o.run(ctx, "floor "+strings.Join(args, " "), func(publisher.Options) func(repository.Draft) (*repository.Change, error) { return make })
		}),
	})
}

// floor reads which floor to set: by a counter, or by a version that has one.
func (o *team) floor(args []string) (func(repository.Draft) (*repository.Change, error), error) {
	if len(args) == 2 {
		model, err := fleet.ParseModelName(args[0])
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseUint(args[1], 10, 64)
		if err != nil || n == 0 {
			return nil, fault.Newf(fault.Invalid, "raise floor", args[1], "it is not a counter").WithHint("write for example `modelfleet releases floor %s 7`, or name a version: %s@1.5.0", model, model)
		}
		return publisher.Floor(model, n, o.reason), nil
	}
	model, version, err := fleet.ParseRef(args[0])
	if err != nil {
		return nil, err
	}
	return func(d repository.Draft) (*repository.Change, error) {
		n, err := publisher.CounterOf(d, model, version)
		if err != nil {
			return nil, err
		}
		return publisher.Floor(model, n, o.reason)(d)
	}, nil
}

func (d *desk) releasesRenew() *cobra.Command {
	o := &team{desk: d}
	return o.declare(&cobra.Command{
		Use: "renew", Short: "Renew a team's role before it expires", Args: cobra.NoArgs,
		Long: `Renew a team's role without changing it, for a team that has nothing to publish;
publishing renews the role too. A role is valid for a year. Once it has expired,
members install no more of its releases but keep what they run.`,
		Example: "  modelfleet releases renew --dir orchard",
		RunE: run(func(ctx context.Context, _ []string) error {
			return o.run(ctx, "renew", func(publisher.Options) func(repository.Draft) (*repository.Change, error) {
				return publisher.Renew(o.reason)
			})
		}),
	})
}
